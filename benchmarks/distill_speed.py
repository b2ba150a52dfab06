"""Distillation steps of two checkouts of this project in turn: how much faster is one than the other?

    python benchmarks/distill_speed.py --old ../before [--new .] [--base DIR] [--data CHATS.jsonl] [--skips 0.25,0.5]

Each checkout gets a process of its own, with the same base model, students, seed and batches, which trains one step
whenever it is told to; the other waits. A round is one step of both, and they take turns at going first; warm-up rounds
are not counted. The ratio is the geometric mean of the rounds' ratios with Student's t interval on their logarithms.
Both sides must train on the same tokens and start at the same losses, or the run ends with code 2 and one line.

`--allocator old,new` (default: whatever each checkout chooses) gives glibc's tunables per side, to tell what they do.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml

from swiftkv import files
from swiftkv.cli import end_in_one_line
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.stats import ratio_ci

ROOT = Path(__file__).resolve().parents[1]
LOSS_TOLERANCE = 0.02  # relative, of the first step: both start from the same students
# What a side runs, in its own checkout; only what has been there since the first releases is imported.
WORKER = """
import inspect, json, resource, sys, time
from pathlib import Path
import torch
from swiftkv.config import load_config
from swiftkv.distill.loop import Distillation
from swiftkv.workloads.sources import stream_of
from swiftkv.workloads.tokens import load_tokenizer

config, base, work = load_config(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
torch.manual_seed(config.seed)
run, batches = Distillation(config, base, work), stream_of(config, load_tokenizer(base))(0)
cuda, flops, trained = torch.cuda.is_available(), 0, 0
# Until November 2026 a step was told the padding's id.
more = [load_tokenizer(base).eos_token_id] if "pad_token_id" in inspect.signature(run.train_step).parameters else []
print("READY", flush=True)
for _ in sys.stdin:
    data, faults = next(batches), resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    rows = run.train_step(data, *more)
    if cuda:
        torch.cuda.synchronize()
    seconds, usage = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    print("STEP" + json.dumps({
        "seconds": seconds, "tokens": rows[0]["tokens"] - trained, "losses": [row["loss"] for row in rows],
        "flops": run.flops - flops,
        "system_seconds": usage.ru_stime - faults.ru_stime, "page_faults": usage.ru_minflt - faults.ru_minflt,
        "peak_gib": (torch.cuda.max_memory_allocated() if cuda else usage.ru_maxrss * 1024) / 2**30,
        "dtype": str(run.teacher.model.dtype),
    }), flush=True)
    flops, trained = run.flops, rows[0]["tokens"]
"""


class Side:
    """The process of one checkout. Raises UserError if it does not start or ends early."""

    def __init__(self, name: str, checkout: Path, config: Path, base: Path, work: Path, tunables: str | None):
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        if tunables is not None:
            environment["GLIBC_TUNABLES"] = tunables
        self.name, self.log = name, work / f"{name}.log"
        command = [sys.executable, "-c", WORKER, config, base, work / name]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=checkout, env=environment,
            )  # fmt: skip
        self.read("READY")

    def read(self, mark: str) -> str:
        """The rest of the next line that begins with `mark`."""
        for line in self.process.stdout:
            if line.startswith(mark):
                return line.removeprefix(mark)
        self.process.wait()
        last = (self.log.read_text().strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"distill_speed: the {self.name} side ended: {last}")

    def step(self) -> dict:
        """Train one step."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return json.loads(self.read("STEP"))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def write_config(checkout: Path, path: Path, skips: list[float], settings: dict, data: list[Path]) -> Path:
    """The default configuration of `checkout` with these students and data."""
    raw = yaml.safe_load((checkout / "config" / "config.yaml").read_text())
    raw["variants"] = [{"name": f"skip{100 * skip:g}".replace(".", "-"), "skip": skip} for skip in skips]
    raw["accuracy"]["undistilled"] = []
    raw["distill"] |= settings | {"steps": 10**6}
    if data:
        raw["distill"]["data"] = {"source": "jsonl", "files": [str(file.resolve()) for file in data]}
    path.write_text(yaml.safe_dump(raw))
    return path


def rounds(sides: list[Side], count: int, warm_up: int) -> list[dict]:
    """`count` rounds after `warm_up` ones that are not counted, by side's name. Raises UserError where the sides train
    on different tokens, or differ in the first losses."""
    made = []
    for number in range(warm_up + count):
        order = sides if number % 2 == 0 else sides[::-1]
        made.append({side.name: side.step() for side in order})
        old, new = made[-1]["old"], made[-1]["new"]
        if old["tokens"] != new["tokens"]:
            raise UserError(f"distill_speed: {old['tokens']} tokens on the old side, {new['tokens']} on the new one")
        pairs = zip(old["losses"], new["losses"], strict=True)
        if number == 0 and (worst := max(abs(b / a - 1) for a, b in pairs)) > LOSS_TOLERANCE:
            raise UserError(f"distill_speed: the first losses differ by {worst:.2g}, allowed is {LOSS_TOLERANCE}")
        print(f"distill_speed: round {number} of {warm_up + count - 1}: {line(made[-1])}", flush=True)
    return made[warm_up:]


def line(row: dict) -> str:
    """Tokens per second of both sides in a round."""
    return ", ".join(f"{name} {one['tokens'] / one['seconds']:.0f} tok/s" for name, one in sorted(row.items()))


def summary(made: list[dict]) -> dict:
    """Tokens/s and achieved FLOP/s of both sides, and how many times as fast the new one is."""
    rates = {name: [row[name]["tokens"] / row[name]["seconds"] for row in made] for name in ("old", "new")}
    ratio, low, high = ratio_ci(rates["new"], rates["old"])
    result = {"speedup": ratio, "ci_low": low, "ci_high": high}
    for name in rates:
        steps = [row[name] for row in made]
        seconds = sum(step["seconds"] for step in steps)
        result[name] = {
            "tokens_per_s": sum(step["tokens"] for step in steps) / seconds,
            "flop_per_s": sum(step["flops"] for step in steps) / seconds,
            "system_share": sum(step["system_seconds"] for step in steps) / seconds,
            "peak_gib": max(step["peak_gib"] for step in steps),
            "dtype": steps[0]["dtype"],
        }
    return result


def main(
    old: Annotated[Path, typer.Option(help="Checkout of the code to compare with.")],
    new: Annotated[Path, typer.Option(help="Checkout of the other code.")] = ROOT,
    base: Annotated[Path, typer.Option(help="Directory of the base model.")] = ROOT / "workflow/resources/base",
    data: Annotated[list[Path] | None, typer.Option(help="Chats to train on (JSON Lines); else the tasks.")] = None,
    skips: Annotated[str, typer.Option(help="Share of the layers that each student skips.")] = "0.25,0.5,0.625",
    batch_tokens: Annotated[int, typer.Option(min=1)] = 4096,
    sequence_length: Annotated[int, typer.Option(min=64)] = 320,
    repeats: Annotated[int, typer.Option(min=3, help="Rounds that count.")] = 6,
    warm_up: Annotated[int, typer.Option(min=1, help="Rounds before them.")] = 1,
    allocator: Annotated[str | None, typer.Option(help="GLIBC_TUNABLES of the old and the new side.")] = None,
    out: Path = Path("results/benchmarks/distill-speed.json"),
) -> None:
    """Compare two checkouts and print their tokens per second."""
    try:
        shares = [float(skip) for skip in skips.split(",")]
    except ValueError:
        raise UserError(f"--skips: {skips!r} is not allowed; numbers with commas between, such as 0.25,0.5") from None
    tunables = dict(zip(("old", "new"), allocator.split(","), strict=False)) if allocator else {}
    settings = {"batch_tokens": batch_tokens, "sequence_length": sequence_length}
    checkouts = {"old": old.resolve(), "new": new.resolve()}
    for name, checkout in checkouts.items():
        if not (checkout / "swiftkv" / "distill" / "loop.py").is_file():
            raise UserError(f"--{name}: {checkout} holds no checkout of this project")
    asked = settings | {"skips": shares, "repeats": repeats, "allocator": allocator}
    with (
        tempfile.TemporaryDirectory() as directory,
        Provenance("distill-speed", seeds={"seed": 0}, **asked, out=[out]) as provenance,
    ):
        work, sides = Path(directory), []
        try:
            for name, checkout in checkouts.items():
                config = write_config(checkout, work / f"{name}.yaml", shares, settings, data or [])
                sides.append(Side(name, checkout, config, base.resolve(), work, tunables.get(name)))
            made = rounds(sides, repeats, warm_up)
        finally:
            for side in sides:
                side.close()
        result = summary(made)
        commits = {name: commit(checkout) for name, checkout in checkouts.items()}
        files.write_json(out, asked | {"commits": commits, "summary": result, "rounds": made})
        provenance.save(out)
    print(
        f"distill_speed: old {result['old']['tokens_per_s']:.0f} tok/s, new {result['new']['tokens_per_s']:.0f} tok/s, "
        f"{result['speedup']:.2f}x [{result['ci_low']:.2f}, {result['ci_high']:.2f}]"
    )


def commit(checkout: Path) -> str:
    """The commit of a checkout, with `+` where tracked files differ from it."""
    done = subprocess.run(
        ["git", "-C", checkout, "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
