"""Every command that writes: whatever it did not write itself stays as it is, and one line says so, before anything is
computed."""

import contextlib
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import typer
import yaml

from swiftkv import cli as program
from swiftkv import commands, registry
from swiftkv.config import ROOT, load_config
from swiftkv.modeling.convert import convert
from swiftkv.report import exhibits
from tests.helpers.synthetic_results import DIVERGENCE, build

BASE = ROOT / "workflow" / "resources" / "base"
COMMANDS = typer.main.get_command(commands.cli).commands
GIVEN = {"base": "base", "models": "models", "results": "results/mine", "work": "work", "variant": "skip50"}
SCORED = {"arm": "base", "model": "base", "work": "work"}
FILES = {  # commands that write one file or the files of a folder -> what else they are told
    "similarity": ["base"],
    "advise": ["base", "work"],
    "verify": ["base", "models"],
    "calibrate": [],
    "compare": [],
    "site": [],
    "lengths": ["base"],
    "throughput": ["work"],
    "serve-load": ["work"],
    "accuracy": ["arm", "model", "work"],
    "accuracy-summary": ["arms"],
    "protocol": ["arm", "model", "work"],
    "protocol-summary": ["arms"],
    "diagnose": ["base", "models"],
    "divergence": ["base", "models", "work"],
    "training-data": ["base", "work"],
    "distill": ["base", "work"],
    "ablate": ["base", "work"],
    "predict": ["results"],
    "predict-served": ["results", "fit"],
    "plan": [],
    "claims": ["results"],
    "figures": ["results"],
    "tables": ["results"],
    "serve-report": [],
    "protocol-report": [],
    "notebook": ["results"],
    "config-docs": ["schema"],
}
FOLDERS = {"convert": ["base", "variant"], "fetch-base": [], "train-base": ["work"], "export": ["variant"]}
ONE_FILE = {
    "similarity",
    "advise",
    "verify",
    "calibrate",
    "compare",
    "site",
    "config-docs",
    "accuracy-summary",
    "protocol-summary",
}
# Without --out: they add to what they are given, each with a test of its own (test_outputs, test_manifest,
# test_report_labels).
IN_PLACE = {"crate", "publish", "label-report", "renew-notebooks"}
# What these read first, published sets and scores, is not there: they end before they look at --out.
BEFORE = {"protocol", "protocol-summary", "divergence", "predict-served"}
NAMES = {Path(file.path.format(arm="base")).name for file in registry.REGISTERED}
NAMES |= {f"{name}{suffix}" for name in exhibits.ALL for suffix in (".csv", ".md", ".tex", ".png", ".svg")}
NAMES |= {f"{name}{suffix}" for name in exhibits.ALL_FIGURES for suffix in (".png", ".svg", ".pdf")}
NAMES |= {"plan.csv", "plan.md", "served.csv", "out.csv", "throughput.ipynb", "model.safetensors", "config.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with models, results and a configuration."""
    here = tmp_path_factory.mktemp("writing")
    raw = {"extends": str(ROOT / "config" / "smoke.yaml"), "scale": "mine", "divergence": DIVERGENCE, "protocol": {}}
    raw["accuracy"] = {"undistilled": []}
    raw["served"] = load_config(ROOT / "config" / "served.yaml").raw["served"] | {"arms": ["skip50"]}
    raw["ablations"] = load_config(ROOT / "config" / "ablations.yaml").raw["ablations"]
    (here / "mine.yaml").write_text(yaml.safe_dump(raw))
    data = {"source": "self", "tokens": 1000, "mix": [{"kind": "sql", "share": 1}]}
    (here / "self.yaml").write_text(yaml.safe_dump({"extends": "mine.yaml", "distill": {"data": data}}))
    shutil.copytree(BASE, here / "base")
    for variant in load_config(here / "mine.yaml").variants:
        convert(here / "base", here / "models" / variant.name, 4, variant.key_value_group_size)
    build(here / "results", load_config(here / "mine.yaml"))
    (here / "results" / "mine" / "config.yaml").write_text(yaml.safe_dump(load_config(here / "mine.yaml").raw))
    return here


def arguments(name: str, out: str) -> list[str]:
    told = FILES.get(name, FOLDERS.get(name))
    options = GIVEN | SCORED if "arm" in told else GIVEN
    options |= {"arms": "results/mine/accuracy", "fit": "results/mine", "schema": f"{out}.json"}
    words = [name, "--out", out] + [word for key in told for word in (f"--{key}", options[key])]
    words += ["throughput"] if name == "notebook" else []
    if name == "compare":
        return [*words, "results/mine", "results/mine"]
    if name == "site":
        return [*words, "results/mine", "--config", "mine.yaml"]
    if name == "config-docs":
        return words
    return [*words, "--config", "self.yaml" if name == "training-data" else "mine.yaml"]


@pytest.fixture
def refused(place, monkeypatch):
    """Run a command that must end in one line and leave `kept` as it is; what it says."""

    def late(*_):
        raise AssertionError("it computes before it looks at --out")

    monkeypatch.chdir(place)
    monkeypatch.delenv(program.DEBUG, raising=False)
    previous = signal.signal(signal.SIGALRM, late)

    def go(words: list[str], kept: Path) -> str:
        before = state(kept)
        err = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["swiftkv", *words])
        signal.alarm(60)  # of a busy machine that imports vLLM
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            program.app()
        signal.alarm(0)
        said = [line for line in err.getvalue().splitlines() if line.startswith("swiftkv: error: ")]
        assert end.value.code in (1, 2) and len(said) == 1, err.getvalue()
        assert state(kept) == before
        return said[0]

    yield go
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def state(folder: Path) -> dict:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def theirs(folder: Path) -> Path:
    """A folder of somebody else's, with every name that a command could write."""
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text("years of work")
    for name in ("skip50", "skip50-across4"):
        (folder / name).mkdir()
        (folder / name / "thesis.tex").write_text("years of work")
    return folder


def test_every_command_that_writes_is_here():
    writing = {name for name, command in COMMANDS.items() if any(o.name == "out" for o in command.params)}
    assert writing == {*FILES, *FOLDERS}
    assert {*COMMANDS} - writing == {*IN_PLACE, "self-check", "memory-plan", "preflight", "verify-results"}


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_others_wrote_stays(refused, tmp_path, name):
    """Also behind a symbolic link."""
    mine = theirs(tmp_path / "mine")
    (tmp_path / "link").symlink_to(mine)
    for folder in (mine, tmp_path / "link"):
        out = folder / "out.csv" if name in ONE_FILE else folder
        said = refused(arguments(name, str(out)), tmp_path)
        assert str(out) in said or name in BEFORE


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_an_output_that_cannot_be_is_said_at_once(refused, tmp_path, name):
    """A folder where a file goes, a file where a folder goes or on the way, and a read-only file system."""
    (tmp_path / "file.csv").write_text("years of work")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "thesis.tex").write_text("years of work")
    taken = tmp_path / ("folder.csv" if name in ONE_FILE else "file.csv")
    for out in (taken, tmp_path / "file.csv" / "below", Path("/proc/nothing/out.csv")):
        said = refused(arguments(name, str(out)), tmp_path)
        assert "--out" in said or str(out.parent) in said or name in BEFORE


@pytest.mark.parametrize("name", FOLDERS)
def test_no_parent_of_an_input_is_replaced(refused, place, monkeypatch, tmp_path, name):
    """Nor the working directory, by whatever path."""
    for out in (".", "..", str(place), os.path.join(str(place), "models", "..")):
        assert "it would replace" in refused(arguments(name, out), place)
