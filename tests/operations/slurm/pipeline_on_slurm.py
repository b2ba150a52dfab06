"""The reduced pipeline through profiles/slurm on a real one-node Slurm, with jobs killed on the way: `make test-slurm`.

Not collected by `make test`: it takes root, Debian's Slurm packages and the extra `slurm`.
"""

import re
import subprocess
import time
from itertools import combinations
from pathlib import Path

import pytest

from swiftkv.config import ROOT

CLUSTER = Path(__file__).with_name("cluster.sh")
SCALE = "slurm"
COMMAND = [
    *"snakemake --workflow-profile profiles/slurm --cores 2 --configfile config/smoke.yaml --config".split(),
    *f"scale={SCALE} --slurm-no-account --slurm-status-command squeue".split(),  # no accounting here, hence squeue
    *"--slurm-init-seconds-before-status-checks 5 --latency-wait 10".split(),
]


def jobs() -> list[dict[str, str]]:
    """What Slurm knows of every job so far."""
    lines = subprocess.check_output(["scontrol", "show", "job", "--oneliner"], text=True).splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId")]


def kill_job(pipeline: subprocess.Popen, results: Path, comment: str, pattern: str) -> dict[Path, int]:
    """Have Slurm kill the running job with this comment once files match `pattern`; those files and their times."""
    while pipeline.poll() is None:
        running = [job for job in jobs() if job.get("Comment") == comment and job["JobState"] == "RUNNING"]
        if running and list(results.glob(pattern)):
            found = {path: path.stat().st_mtime_ns for path in results.glob(pattern)}
            subprocess.run(["scancel", "--signal=KILL", "--full", running[0]["JobId"]], check=True)
            return found
        time.sleep(0.5)
    raise AssertionError(f"the pipeline ended with {pipeline.returncode} before {comment} had written {pattern}")


def table() -> str:
    """The job table: id, rule, state, resources, seconds."""
    keys = (
        "JobId",
        "Comment",
        "JobState",
        "NumCPUs",
        "TresPerJob",
        "MinMemoryNode",
        "TimeLimit",
        "RunTime",
        "StartTime",
    )
    return "\n".join("  ".join(job.get(key, "-") for key in keys) for job in jobs())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Directory of the running cluster."""
    directory = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([CLUSTER, "start", directory], check=True)
        yield directory
        print(f"\n{table()}")
        subprocess.run(["scancel", "--user=root"], check=True)
    finally:
        subprocess.run([CLUSTER, "stop", directory], check=True)


@pytest.fixture(scope="module")
def results(cluster) -> Path:
    return cluster / "run" / "results" / SCALE


@pytest.fixture(scope="module")
def kept(cluster, results):
    """Work that was done when jobs of distillation and accuracy were killed; the pipeline has ended since."""
    command = [*COMMAND, "--directory", cluster / "run"]
    with open(cluster / "snakemake.log", "w") as log:
        pipeline = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        kill_job(pipeline, results, "rule_distill", "work/distill/*/progress.json")
        done = kill_job(pipeline, results, "rule_accuracy_wildcards_base", "work/accuracy/base/**/code-*.json")
        assert pipeline.wait(timeout=3000) == 0, (cluster / "snakemake.log").read_text()[-6000:]
    finally:
        pipeline.kill()
    return done


def test_pipeline_ran_to_the_end(kept, results):
    assert (results / "claims.csv").is_file() and list(results.glob("tables/*.csv"))


def test_killed_jobs_were_retried_and_lost_nothing(kept, results):
    for comment in ("rule_distill", "rule_accuracy_wildcards_base"):
        states = [job["JobState"] for job in jobs() if job.get("Comment") == comment]
        assert len(states) == 2 and states[0] != "COMPLETED" and states[1] == "COMPLETED", (comment, states)
    assert "resumed at step" in (results / "logs" / "distill.log").read_text()
    assert kept and all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


def test_every_job_said_what_it_needs(kept):
    for job in jobs():
        assert job["TimeLimit"] != "UNLIMITED" and job["MinMemoryNode"] != "0" and job["NumTasks"] == "1", job


def test_two_gpu_jobs_never_share_a_device(kept, cluster):
    held: dict[str, dict] = {}
    for line in (cluster / "devices.log").read_text().splitlines():
        when, event, job, devices = line.split()
        held.setdefault(job, {"devices": set(devices.split(",")) - {"-"}})[event] = float(when)
    gpu = [job for job in held.values() if job["devices"]]  # one that has its node alone holds both devices
    assert len(gpu) > 5 and set.union(*(job["devices"] for job in gpu)) == {"0", "1"}
    overlapping = [(a, b) for a, b in combinations(gpu, 2) if a["prolog"] < b["epilog"] and b["prolog"] < a["epilog"]]
    assert overlapping, "no two GPU jobs ran at once"
    assert all(a["devices"].isdisjoint(b["devices"]) for a, b in overlapping)


def test_nothing_runs_beside_a_measurement_of_time(kept):
    (timed,) = [job for job in jobs() if job.get("Comment") == "rule_throughput"]
    others = [job for job in jobs() if job is not timed and job["JobId"] != timed["JobId"]]
    for job in others:
        assert job["EndTime"] <= timed["StartTime"] or job["StartTime"] >= timed["EndTime"], (timed, job)
