"""Pins live in pyproject.toml alone: the locks and environment.yml agree with it and name no machine."""

import re
import sys
import tomllib

import pytest

from swiftkv.config import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
from export_environment import render

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(requirements: list[str]) -> dict[str, str]:
    """Version by name, extras left out."""
    return dict(re.sub(r"\[.*?\]", "", requirement).split("==") for requirement in requirements if "==" in requirement)


def test_environment_yml_is_what_the_generator_writes():
    assert (ROOT / "environment.yml").read_text() == render()


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_lock_holds_every_pin(flavour):
    text = (ROOT / "requirements" / f"{flavour}.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^ \n]+)", text, re.MULTILINE))
    wanted = pinned(PROJECT["dependencies"] + PROJECT["optional-dependencies"][flavour])
    assert wanted
    for name, version in wanted.items():
        assert locked[name].split("+")[0] == version, name
    assert not {"torchvision", "torchaudio", "torchcodec"} & locked.keys()


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_lock_names_no_host_and_no_path(flavour):
    for line in (ROOT / "requirements" / f"{flavour}.lock").read_text().splitlines():
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", line), line


def test_cpu_lock_accepts_every_official_build_of_torch():
    text = (ROOT / "requirements" / "cpu.lock").read_text()
    entry = text[text.index("\ntorch==") :].splitlines()[1:3]
    assert entry[0] == "torch==2.13.0+cpu" and "--hash" not in entry[1]
