"""The pipeline end to end at a reduced size: every stage, killed once on the way, then nothing left to do."""

import json
import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest

from swiftkv.config import ROOT

pytestmark = pytest.mark.pipeline
RESULTS = ROOT / "results" / "smoke"
COMMAND = ["snakemake", "--cores", "all", "--configfile", "config/smoke.yaml"]
VERDICTS = {"reproduced", "partly", "not reproduced", "not comparable", "not measured"}


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1500)


def kill_in_distillation() -> None:
    """Start the pipeline and SIGKILL everything as soon as distillation has left a checkpoint."""
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(1200):
            if process.poll() is not None or list((RESULTS / "work" / "distill").rglob("*.safetensors")):
                break
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def finished():
    shutil.rmtree(RESULTS, ignore_errors=True)
    kill_in_distillation()
    assert not (RESULTS / "claims.csv").exists()
    snakemake("--unlock")
    done = snakemake()
    assert done.returncode == 0, done.stderr[-6000:]
    return RESULTS


def test_dry_run_of_both_scales_works():
    for config in ("config/config.yaml", "config/smoke.yaml"):
        done = subprocess.run(
            ["snakemake", "-n", "--quiet", "all", "--configfile", config], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_deliverable_is_there(finished):
    assert json.loads((finished / "verify" / "gates.json").read_text())["passed"]
    claims = pd.read_csv(finished / "claims.csv")
    assert set(claims["verdict"]) <= VERDICTS and claims["id"].is_unique
    for pattern, least in (("figures/*.png", 7), ("tables/*.tex", 7), ("notebooks/*.ipynb", 2)):
        assert len(list(finished.glob(pattern))) >= least, pattern


def test_every_result_file_says_where_it_came_from(finished):
    for name in ("models/distill.jsonl", "verify/gates.json", "throughput/summary.csv", "accuracy/summary.csv"):
        record = json.loads((finished / f"{name}.provenance.json").read_text())
        assert {"git", "config_sha256", "versions", "hardware", "seeds", "start", "end"} <= record.keys(), name


def test_second_run_has_nothing_to_do(finished):
    done = snakemake()
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_changed_accuracy_settings_rerun_accuracy_and_not_the_training(finished):
    done = snakemake("-n", "--config", "accuracy={max_new_tokens: 41}")
    planned = done.stdout + done.stderr
    assert "rule accuracy:" in planned and "rule distill:" not in planned and "rule throughput:" not in planned
