"""The pipeline end to end at a reduced size: every stage, killed three times on the way, then nothing left to do."""

import json
import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest

from swiftkv import files
from swiftkv.config import ROOT

pytestmark = pytest.mark.pipeline
RESULTS = ROOT / "results" / "smoke"
ARMS = 3  # of the smoke scale: base and two variants
COMMAND = ["snakemake", "--cores", "all", "--configfile", "config/smoke.yaml"]
VERDICTS = {"reproduced", "partly", "not reproduced", "not comparable", "not gated", "not measured"}


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1500)


def kill_when(pattern: str, count: int) -> dict:
    """Start the pipeline, SIGKILL all of it once `count` files match `pattern`; those files and their times."""
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(6000):
            if process.poll() is not None or len(files.finished(RESULTS, pattern)) >= count:
                break
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (RESULTS / "claims.csv").exists()
    snakemake("--unlock")
    return {path: path.stat().st_mtime_ns for path in files.finished(RESULTS, pattern)}


@pytest.fixture(scope="module")
def finished():
    """The results of a run that was killed in distillation, throughput and accuracy, and the work done by then."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    kill_when("work/distill/*/progress.json", 1)
    done = kill_when("work/throughput/*/ratio-10to1/000-0/*.json", ARMS)
    done |= kill_when("work/accuracy/**/code-*.json", 1)
    last = snakemake()
    assert last.returncode == 0, last.stderr[-6000:]
    return done


def test_dry_run_of_both_scales_works():
    for config in ("config/config.yaml", "config/smoke.yaml"):
        done = subprocess.run(
            ["snakemake", "-n", "--quiet", "all", "--configfile", config], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_killed_run_went_on_where_it_was(finished):
    assert "resumed at step" in (RESULTS / "logs" / "distill.log").read_text()
    assert len(finished) > ARMS
    for path, time_ns in finished.items():
        assert path.stat().st_mtime_ns == time_ns, f"{path} was made again"


def test_every_deliverable_is_there(finished):
    assert json.loads((RESULTS / "verify" / "gates.json").read_text())["passed"]
    claims = pd.read_csv(RESULTS / "claims.csv")
    assert set(claims["verdict"]) <= VERDICTS and claims["id"].is_unique
    for pattern, least in (("figures/*.png", 7), ("tables/*.tex", 7), ("notebooks/*.ipynb", 2)):
        assert len(list(RESULTS.glob(pattern))) >= least, pattern


def test_every_result_file_says_where_it_came_from(finished):
    for name in ("models/distill.jsonl", "verify/gates.json", "throughput/summary.csv", "accuracy/summary.csv"):
        record = json.loads((RESULTS / f"{name}.provenance.json").read_text())
        assert {"git", "config_sha256", "versions", "hardware", "seeds", "start", "end"} <= record.keys(), name


def test_second_run_has_nothing_to_do(finished):
    done = snakemake()
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_changed_accuracy_settings_rerun_accuracy_and_not_the_training(finished, tmp_path):
    (tmp_path / "change.yaml").write_text("accuracy: {max_new_tokens: 41}\n")
    done = snakemake("-n", "--configfile", "config/smoke.yaml", str(tmp_path / "change.yaml"))
    planned = done.stdout + done.stderr
    assert "rule accuracy:" in planned and "rule distill:" not in planned and "rule throughput:" not in planned
