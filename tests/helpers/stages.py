"""Stages at a small size for faults to happen to: what each does in a directory of its own.

`out` holds the results, `work` what is kept to go on from; results of earlier stages lie beside them.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from swiftkv import files
from swiftkv.base_model import fetch
from swiftkv.bench import throughput
from swiftkv.config import ROOT, RunConfig
from swiftkv.distill import loop
from swiftkv.evals import similarity
from swiftkv.modeling.convert import convert
from swiftkv.report import claims, tables
from tests.helpers.config import make_config
from tests.helpers.fake_engines import Machine, throughput_config

BASE = ROOT / "workflow" / "resources" / "base"
PACE_S = 0.01  # of an engine that measures nothing
Stage = Callable[[Path], None]


def config_of(**changes) -> RunConfig:
    return make_config(
        {"similarity": {"prompts": 2}, "distill": {"steps": 3, "batch_tokens": 1400}}, changes, of="smoke"
    )


def distil_in_checkpoints(place: Path) -> None:
    """As `distill`, with a checkpoint after every step instead of every half minute."""
    loop.SAVE_EVERY_S = 0
    config = config_of(distill={"steps": 5, "batch_tokens": 1400})
    loop.run(config, BASE, place / "out", place / "work", loop.Options(float32=True))


def throughput_of_fakes(place: Path) -> None:
    throughput.run(throughput_config(), place / "out" / "throughput", place / "work", Machine(seconds=PACE_S))


def command(config: RunConfig, place: Path, *words: str | Path) -> None:
    """Become the command `swiftkv` with a configuration, in the place of this process."""
    files.write_text(place / "config.yaml", yaml.safe_dump(config.raw))
    line = [sys.executable, "-m", "swiftkv.cli", *words, "--config", place / "config.yaml", "--work", place / "work"]
    os.execv(sys.executable, list(map(str, line)))


def throughput_of_engines(place: Path) -> None:
    """Two engines, in three processes one after the other."""
    config = throughput_config(repeats=3, restarts=3, latency={"input_len": 20, "output_len": 6, "rounds": 3})
    config.raw["variants"] = config.raw["variants"][:1]
    command(config, place, "throughput", "--out", place / "out" / "throughput")


def accuracy_of_an_engine(place: Path) -> None:
    """Four tasks, each of which is kept once it is scored."""
    config = config_of(accuracy={"items_per_task": 4, "max_new_tokens": 24})
    command(config, place, "accuracy", "--arm", "base", "--model", BASE, "--out", place / "out" / "base")


LIGHT: dict[str, Stage] = {
    "convert": lambda place: convert(BASE, place / "out" / "student", 4, 1),
    "fetch-base": lambda place: fetch.resolve_base(config_of(), place / "out" / "base"),
    "similarity": lambda place: similarity.run(config_of(), BASE, place / "out" / "similarity.csv"),
    "distill": lambda place: loop.run(config_of(), BASE, place / "out", place / "work", loop.Options(float32=True)),
    "tables": lambda place: tables.write_all(config_of(), place / "out", place / "results", True),
    "claims": lambda place: claims.run(
        config_of(), place / "out" / "claims.csv", place / "out" / "claims.md", place / "results"
    ),
}
# What takes long in earnest, so that it keeps what it has.
RESUMED: dict[str, Stage] = {"distill-checkpoints": distil_in_checkpoints, "throughput-fakes": throughput_of_fakes}
# With engines of vLLM: commands of their own.
ENGINES: dict[str, Stage] = {"throughput": throughput_of_engines, "accuracy": accuracy_of_an_engine}
STAGES = LIGHT | RESUMED | ENGINES
