"""The reduced pipeline with all its files in an S3-compatible store, which rclone serves: `make test-storage`.

Not collected by `make test`: it takes the extras `kubernetes` and `storage`.
"""

import os
import shutil
import socket
import subprocess
import time

import pytest

from swiftkv import files
from swiftkv.config import ROOT

SCALE, BUCKET = "s3", "swiftkv"
CACHED_S = 1  # of rclone: without any, it does nothing but list directories
STORE = f"{BUCKET}/evidence/results/{SCALE}"
KEY, SECRET = "test-key", "test-secret"
PIPELINE = (
    f"snakemake --cores all --configfile config/smoke.yaml --config scale={SCALE} "
    f"--default-storage-provider s3 --default-storage-prefix s3://{BUCKET}/evidence"
).split()
PROFILE = (
    "snakemake -n --workflow-profile profiles/kubernetes --container-image none --default-storage-prefix s3://swiftkv/dry"
).split()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Directory behind a running object store, and the environment that leads Snakemake to it."""
    folder = tmp_path_factory.mktemp("store")
    (folder / BUCKET).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            "rclone",
            "serve",
            "s3",
            folder,
            "--addr",
            f"127.0.0.1:{port}",
            "--auth-key",
            f"{KEY},{SECRET}",
            "--dir-cache-time",
            f"{CACHED_S}s",
        ]
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY": KEY, "SECRET_KEY": SECRET}
    yield folder, os.environ | {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in settings.items()}
    server.terminate()
    server.wait(timeout=10)


def run(environment: dict, command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> list:
    """The command, in a directory that gets its copies of what is stored."""
    return [*PIPELINE, "--directory", tmp_path_factory.mktemp("run")]


def test_pipeline_runs_on_object_storage(store, pipeline):
    folder, environment = store
    run(environment, pipeline)
    kept = folder / STORE
    for name in ("claims.csv", "tables/tab-claims.md", "figures/fig-throughput.png", "notebooks/accuracy.ipynb"):
        assert (kept / name).stat().st_size, name
    assert files.read_json(kept / "throughput" / "summary.csv.provenance.json")["scale"] == SCALE
    assert "Nothing to be done" in run(environment, pipeline)


def test_results_in_storage_agree_with_themselves(store, tmp_path):
    folder, environment = store
    shutil.copytree(folder / STORE, tmp_path / SCALE)
    config = tmp_path / SCALE / "config.yaml"
    run(environment, ["swiftkv", "verify-results", str(tmp_path / SCALE), "--config", str(config)])


def test_a_lost_file_is_made_again_and_nothing_before_it(store, pipeline):
    folder, environment = store
    (folder / STORE / "claims.csv").unlink()
    time.sleep(CACHED_S + 1)  # rclone lists directories anew
    planned = run(environment, [*pipeline, "-n"])
    assert "rule claims:" in planned and "rule tables:" in planned
    assert "rule accuracy" not in planned and "rule distill:" not in planned


def test_kubernetes_profile_plans_every_job(store, tmp_path):
    planned = run(store[1], [*PROFILE, "--directory", tmp_path])
    assert "rule throughput:" in planned and "gpu_manufacturer=nvidia" in planned
