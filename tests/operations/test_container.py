"""The container recipe without a container engine: its steps are run in a directory, as far as they need no image."""

import re
import shlex
import shutil
import subprocess

import pytest

from swiftkv.config import ROOT

RECIPE = (ROOT / "packaging" / "Containerfile").read_text()
SETUP = (ROOT / "packaging" / "setup.sh").read_text()


def steps(name: str) -> list[str]:
    """The arguments of every instruction called `name`."""
    return re.findall(rf"^{name} (.+)$", RECIPE, re.MULTILINE)


@pytest.mark.skipif(not (ROOT / ".git").is_dir(), reason="not a clone")
def test_image_holds_the_commit_and_its_environment_can_be_made(tmp_path):
    for step in steps("COPY"):
        source, target = step.split()
        shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("index.lock"))
    system, checkout, environment = steps("RUN")
    assert system.startswith("apt-get")
    subprocess.run(shlex.split(checkout), cwd=tmp_path, check=True, capture_output=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert all((tmp_path / name).exists() for name in tracked.splitlines())
    make = [*shlex.split(environment.replace("${FLAVOUR}", "cpu")), "--dry-run"]
    planned = subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "packaging/setup.sh cpu" in planned


def test_python_of_the_image_is_that_of_the_environment():
    (default,) = re.findall(r"^ARG PYTHON=(\S+)$", RECIPE, re.MULTILINE)
    assert f"cpu) python={default} ;;" in SETUP
    (cuda,) = re.findall(r"--build-arg PYTHON=([\d.]+)", RECIPE)
    assert f"cuda) python={cuda} ;;" in SETUP
