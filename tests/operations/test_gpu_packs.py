"""Packs for a quarter of an hour of a GPU: every command parses, failures are told, and all run at a small size."""

import os
import shutil
import subprocess
from functools import partial

import pytest

from swiftkv.config import ROOT, load_config
from swiftkv.planning import memory_plan
from tests.helpers.recorded import noted, parse, recorded

run = partial(recorded, "gpu_packs.sh")
PACKS = ("gates", "warm-up", "speed", "students", "carry-students=skip50,skip25", "tasks")


@pytest.fixture
def project(tmp_path):
    """A folder with the script and the configurations."""
    for name in ("benchmarks", "config"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_command_parses(project):
    done = run(project, *PACKS)
    parsed = [parse(words) for words in noted(project)]
    config = load_config(ROOT / "config" / "gpu.yaml")
    variants, arms = len(config.variants), len(config.accuracy_arms)
    counts = {"verify": 2, "distill": 2, "export": 2 * variants, "accuracy": arms, "divergence": 1, "throughput": 1}
    assert {name: parsed.count(name) for name in counts} == counts, done.stdout + done.stderr
    assert parsed.count("warm-up") >= 2
    # The second stage goes on from what the first one trained.
    second = load_config(project / "results" / "gpu" / "config.yaml")
    assert [v.start for v in second.variants] == [f"results/gpu/starts/{v.name}" for v in config.variants]


def test_a_command_that_fails_makes_its_pack_fail_and_be_tried_again(project):
    settings = {"GATES": "h200-pack", "then": '[ "$1" != verify ] || { echo broken; exit 3; }'}
    first = run(project, "gates", **settings)
    assert first.returncode == 1 and "verify-h200-pack: failed (3): broken" in first.stdout
    again = run(project, "gates", GATES="h200-pack")
    assert again.returncode == 0 and "gates: done" in again.stdout
    assert "gates: finished before" in run(project, "gates", GATES="h200-pack").stdout


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["gate"], {}, "unknown pack 'gate'; allowed are gates"),
        ([], {}, "usage: benchmarks/gpu_packs.sh PACK..."),
        (["gates"], {"SPEED": "h300"}, "config/h300.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_told(project, words, environment, message):
    done = run(project, *words, **environment)
    assert done.returncode == 2 and message in done.stderr


def test_engines_of_the_pack_leave_room_for_a_distillation_beside_them():
    config = load_config(ROOT / "config" / "h200-pack.yaml")
    assert memory_plan.throughput(config).each < 0.85 * 139 * 2**30


def test_all_packs_run_and_distillation_stands_still_while_something_is_timed(tmp_path):
    """Without compiling, which takes a CPU minutes."""
    copied = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "swiftkv", "config", "benchmarks", "workflow/resources/base"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in copied:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    settings = os.environ | {
        "SPEED": "h200-rehearsal", "GATES": "h200-rehearsal", "STUDENTS": "gpu-rehearsal", "FIRST_STEPS": "2",
        "STUDENTS_BY": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = ["bash", str(tmp_path / "benchmarks" / "gpu_packs.sh")]
    timing = tmp_path / "results" / "packs" / "timing"
    timing.parent.mkdir(parents=True)
    timing.touch()
    with subprocess.Popen([*script, "students"], env=settings, stdout=subprocess.PIPE, text=True) as students:
        for line in students.stdout:
            if "stands still" in line:
                timing.unlink()
                break
        rest = students.stdout.read()
    assert students.returncode == 0 and "goes on" in rest, rest
    done = subprocess.run(
        [*script, "carry-students=skip50", "tasks"], env=settings, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "results" / "packs" / "home"
    listed = {
        part.name.split(".")[0]: subprocess.run(["tar", "-tf", part], capture_output=True, text=True).stdout
        for part in home.glob("*.tar.0")
    }
    assert "results/gpu-rehearsal/trained/skip50/trained.safetensors" in listed["students"]
    assert "results/gpu-rehearsal/accuracy/skip50-undistilled/samples.jsonl" in listed["tasks"]
    config = load_config(tmp_path / "results" / "gpu-rehearsal" / "config.yaml")
    with_start = config.variants[0]
    assert with_start.start == "results/gpu-rehearsal/starts/skip50"
    first = tmp_path / "results" / "gpu-rehearsal" / "starts" / "skip50" / "trained.safetensors"
    assert first.is_file()
