"""The pipeline end to end at a reduced size: every stage, killed three times on the way, then nothing left to do."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from swiftkv import files
from swiftkv.config import ROOT
from swiftkv.workloads.downloads import MIRROR_VARIABLE

pytestmark = pytest.mark.pipeline
TIMED = 5  # arms of the smoke scale that are timed: base, two variants, two controls
DIVERGENCE = "tests/pipeline/divergence.yaml"
MIRROR = os.environ.get(MIRROR_VARIABLE)  # without one nothing here may need published texts
COMMAND = ["snakemake", "--cores", "all", "--configfile", "config/smoke.yaml", *([DIVERGENCE] if MIRROR else [])]
SAID = "said.log"  # what the run that ended said on standard output
VERDICTS = {"reproduced", "partly", "not reproduced", "too noisy", "not comparable", "not gated", "not measured"}


def snakemake(place: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the pipeline in the directory `place`."""
    command = [*COMMAND, "--directory", place, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)


def kill_when(place: Path, pattern: str, count: int) -> dict:
    """Start the pipeline in `place`, SIGKILL it all once `count` files match `pattern`; those files and their times."""
    results, quiet = place / "results" / "smoke", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*COMMAND, "--directory", place], cwd=ROOT, start_new_session=True, **quiet)
    try:
        for _ in range(6000):
            if process.poll() is not None or len(files.finished(results, pattern)) >= count:
                break
            time.sleep(0.1)
        ended = process.poll()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, which is told below
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert ended is None, f"the run ended with {ended} before {count} files matched {pattern}"
    assert not (results / "claims.csv").exists()
    snakemake(place, "--unlock")
    return {path: path.stat().st_mtime_ns for path in files.finished(results, pattern)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def finished(place):
    """The work that a run had done when it was killed in distillation, throughput and accuracy; it has ended since."""
    kill_when(place, "work/distill/*/progress.json", 1)
    done = kill_when(place, "work/throughput/*/ratio-10to1/000/*.json", TIMED)
    done |= kill_when(place, "work/accuracy/**/code-*.json", 1)
    last = snakemake(place)
    assert last.returncode == 0, last.stderr[-6000:]
    (place / SAID).write_text(last.stdout)
    return done


@pytest.fixture
def results(place) -> Path:
    return place / "results" / "smoke"


def test_dry_run_of_both_scales_works(tmp_path):
    for config in ("config/config.yaml", "config/smoke.yaml"):
        command = ["snakemake", "-n", "--quiet", "all", "--directory", tmp_path, "--configfile", config]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_divergence_is_part_of_the_run_where_it_is_configured(tmp_path):
    command = ["snakemake", "-n", "--directory", tmp_path, "--configfile", "config/smoke.yaml"]
    done = [subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True) for more in ([DIVERGENCE], [])]
    with_it, without = (one.stdout for one in done)
    assert "swiftkv divergence" in with_it and "fig-divergence.png" in with_it and "tab-divergence.csv" in with_it
    assert "rule accuracy:" in without and "swiftkv divergence" not in without and "fig-divergence" not in without


def test_rows_for_the_base_are_made_before_the_distillation_where_they_are_asked_for(tmp_path):
    (tmp_path / "own.yaml").write_text("distill: {data: {source: self, mix: [{kind: sql, rows: 9}]}}\n")
    done = snakemake(tmp_path, "-n", "--configfile", "config/smoke.yaml", str(tmp_path / "own.yaml"))
    planned = done.stdout + done.stderr
    assert done.returncode == 0 and "rule training_data:" in planned, planned
    assert "--data results/smoke/data/train.jsonl.xz" in planned
    assert "rule training_data:" not in snakemake(tmp_path, "-n").stdout


def test_killed_run_went_on_where_it_was(finished, results):
    assert "resumed at step" in (results / "logs" / "distill.log").read_text()
    assert len(finished) > TIMED
    for path, time_ns in finished.items():
        assert path.stat().st_mtime_ns == time_ns, f"{path} was made again"


def test_every_deliverable_is_there(finished, results):
    assert json.loads((results / "verify" / "gates.json").read_text())["passed"]
    claims = pd.read_csv(results / "claims.csv")
    assert set(claims["verdict"]) <= VERDICTS and claims["id"].is_unique
    for pattern, least in (("figures/*.png", 7), ("tables/*.tex", 7), ("notebooks/*.ipynb", 2), ("index.html", 1)):
        assert len(list(results.glob(pattern))) >= least, pattern
    shown = results / "tables" / "tab-divergence.csv", results / "figures" / "fig-divergence.png"
    assert all(path.is_file() for path in shown) == bool(MIRROR)


def test_every_result_file_says_where_it_came_from(finished, results):
    for name in ("models/distill.jsonl", "verify/gates.json", "throughput/summary.csv", "accuracy/summary.csv"):
        record = json.loads((results / f"{name}.provenance.json").read_text())
        assert {"git", "config_sha256", "versions", "hardware", "seeds", "start", "end"} <= record.keys(), name


def test_a_run_ends_in_its_verdicts(finished, place, results):
    """Below all that its jobs say."""
    tally = (results / "claims.md").read_text().splitlines()[2]
    assert "claims: " in tally
    said = (place / SAID).read_text().splitlines()
    assert said[-2:] == [tally, "Each with its evidence: results/smoke/claims.md"]


def test_second_run_has_nothing_to_do(finished, place):
    done = snakemake(place)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_changed_accuracy_settings_rerun_accuracy_and_not_the_training(finished, place, tmp_path):
    (tmp_path / "change.yaml").write_text("accuracy: {max_new_tokens: 41}\n")
    done = snakemake(place, "-n", "--configfile", "config/smoke.yaml", str(tmp_path / "change.yaml"))
    planned = done.stdout + done.stderr
    assert "rule accuracy:" in planned and "rule distill:" not in planned and "rule throughput:" not in planned
