"""Several processes: sharded training gives what one process gives, and a run may go on with another number of them."""

import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from swiftkv import files
from swiftkv.config import ROOT

VARIANTS = [{"name": "half", "skip": 0.5}, {"name": "half-across4", "skip": 0.5, "key_value_group_size": 4}]


def write_config(path, steps: int, **changes):
    """A configuration that extends the default one: two students, short texts, 4 rows a step."""
    tasks = {task: {"records": 3, "values": 1} for task in ("code", "sql", "summarise", "rag")}
    distill = {"steps": steps, "sequence_length": 600, "batch_tokens": 2400, "hidden_loss": 0.3, **changes}
    raw = {"extends": str(ROOT / "config" / "config.yaml"), "scale": "tiny", "tasks": tasks}
    raw |= {"variants": VARIANTS, "distill": distill, "accuracy": {"undistilled": []}}
    path.write_text(yaml.safe_dump(raw))
    return path


def distil(config, base, out, work, processes: int) -> str:
    """Run the command in float32; returns what it printed."""
    command = [sys.executable, "-m", "swiftkv.cli", "distill", "--float32", "--config", config, "--base", base]
    command += ["--out", out, "--work", work, "--processes", str(processes)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def trained(out) -> dict[str, torch.Tensor]:
    """Every trained tensor of both students."""
    found = {}
    for variant in VARIANTS:
        tensors = load_file(out / variant["name"] / "model.safetensors")
        found |= {f"{variant['name']}:{name}": t for name, t in tensors.items() if "swiftkv" in name}
    return found


def distance(one: dict, two: dict, start: dict) -> float:
    """How far two runs are apart, relative to how far training went."""

    def length(a, b):
        return torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt().item()

    assert one.keys() == two.keys()
    return length(one, two) / length(one, start)


@pytest.fixture(scope="module")
def alone(tiny_base, tmp_path_factory):
    """Six steps on one process, and the students before any."""
    place = tmp_path_factory.mktemp("alone")
    distil(write_config(place / "zero.yaml", 0), tiny_base, place / "zero", place / "w0", 1)
    distil(write_config(place / "six.yaml", 6), tiny_base, place / "six", place / "w6", 1)
    return place


def test_two_processes_equal_one(alone, tiny_base, tmp_path):
    distil(alone / "six.yaml", tiny_base, tmp_path / "out", tmp_path / "work", 2)
    start, expected = trained(alone / "zero"), trained(alone / "six")
    assert distance(expected, trained(tmp_path / "out"), start) < 1e-2
    rows = [files.read_jsonl(place / "distill.jsonl") for place in (alone / "six", tmp_path / "out")]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert (two["step"], two["variant"], two["tokens"]) == (one["step"], one["variant"], one["tokens"])
    shards = list((tmp_path / "work" / "half" / "step-6").glob("*.safetensors"))
    assert len(shards) == 2 and all(shard.stat().st_size > 10_000 for shard in shards)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(alone, tiny_base, tmp_path, first, then):
    """Stopped after three steps of the six-step schedule, by a limit on the data that ends the run with an error."""
    config = alone / "six.yaml"
    env_stop = [sys.executable, "-c", STOP, str(config), str(tiny_base), str(tmp_path / "out"), str(tmp_path / "work")]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={first}",
        "--no-python",
    ]
    done = subprocess.run([*launcher, *env_stop], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "stopped" in done.stderr and done.returncode != 0
    assert files.read_json(tmp_path / "work" / "half" / "progress.json")["step"] == 3
    printed = distil(config, tiny_base, tmp_path / "out", tmp_path / "work", then)
    assert printed.count("half resumed at step 3 of 6") == 1
    assert distance(trained(alone / "six"), trained(tmp_path / "out"), trained(alone / "zero")) < 1e-2


STOP = """
import sys
from pathlib import Path
from swiftkv.config import load_config
from swiftkv.distill import loop, parallel
from swiftkv.workloads.sources import stream_of
from swiftkv.workloads.tokens import load_tokenizer

config, base, out, work = load_config(sys.argv[1]), *map(Path, sys.argv[2:])
loop.SAVE_EVERY_S = 0
whole = stream_of(config, load_tokenizer(base))

def three(start):
    for number, batch in zip(range(3), whole(start)):
        yield batch
    raise SystemExit("stopped")

try:
    loop.run(config, base, out, work, loop.Options(float32=True), three)
finally:
    parallel.leave()
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_tokens": 1800}, "2 processes cannot share 3 rows evenly"), ({"train": "layers"}, "runs on one process")],
)
def test_what_processes_cannot_share_is_one_line(tiny_base, tmp_path, changes, message):
    config = write_config(tmp_path / "config.yaml", 1, **changes)
    command = [sys.executable, "-m", "swiftkv.cli", "distill", "--config", config, "--base", tiny_base]
    command += ["--out", tmp_path / "out", "--work", tmp_path / "work", "--processes", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
