"""Pins live in pyproject.toml alone: the locks and environment.yml agree with it and name no machine.

pip's installation of environment.yml is tests/operations/install/environment_by_pip.py: `make test-install`.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from export_environment import render
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.deployment.conda import MIN_CONDA_VER

from swiftkv.config import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PIP_LINES = ENVIRONMENT["dependencies"][-1]["pip"]


def pinned(requirements: list[str]) -> dict[str, str]:
    """Version by name, extras left out."""
    return dict(re.sub(r"\[.*?\]", "", requirement).split("==") for requirement in requirements if "==" in requirement)


def placeholders() -> dict[str, dict]:
    """The `project` table of every placeholder that environment.yml installs, by name."""
    tables = [tomllib.loads((ROOT / line / "pyproject.toml").read_text()) for line in PIP_LINES if line[0] == "."]
    return {table["project"]["name"]: table["project"] for table in tables}


def test_environment_yml_is_what_the_generator_writes():
    assert (ROOT / "environment.yml").read_text() == render()


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_lock_holds_every_pin(flavour):
    text = (ROOT / "requirements" / f"{flavour}.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^ \n]+)", text, re.MULTILINE))
    wanted = pinned([line for extra in (flavour, "suite") for line in EXTRAS[extra]])
    assert wanted
    for name, version in wanted.items():
        assert locked[name].split("+")[0] == version, name
    assert not placeholders().keys() & locked.keys()


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_lock_names_no_host_and_no_path(flavour):
    for line in (ROOT / "requirements" / f"{flavour}.lock").read_text().splitlines():
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", line), line


def test_cpu_lock_accepts_every_official_build_of_torch():
    text = (ROOT / "requirements" / "cpu.lock").read_text()
    entry = text[text.index("\ntorch==") :].splitlines()[1:3]
    assert entry[0] == "torch==2.13.0+cpu" and "--hash" not in entry[1]


def test_conda_gets_the_locked_versions_and_torch_from_one_page():
    text = (ROOT / "requirements" / "cpu.lock").read_text()
    page, *requirements = PIP_LINES
    assert page == f"--find-links {PYPROJECT['tool']['swiftkv']['torch-links']}"
    assert not re.search(r"--hash|index-url|--requirement", "\n".join(requirements))
    assert pinned(requirements) == pinned(re.findall(r"^([a-z0-9][^ \n]*)", text, re.MULTILINE))
    overridden = {line.split(";")[0].strip() for line in PYPROJECT["tool"]["uv"]["override-dependencies"]}
    assert placeholders().keys() == overridden


def test_pip_needs_nothing_that_environment_yml_does_not_list():
    """The metadata of what is installed here, extras included, asks for listed versions only: pip would otherwise add a
    package or refuse."""
    listed = pinned(PIP_LINES) | {name: table["version"] for name, table in placeholders().items()}
    todo = [Requirement(line) for line in PROJECT["dependencies"]]
    todo += [Requirement(line) for extra in ("cpu", "suite", "dev") for line in EXTRAS[extra]]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in listed, f"{requirement} is not in environment.yml"
        assert requirement.specifier.contains(listed[name], prereleases=True), requirement
        if name in placeholders() or (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                todo.append(needed)
    assert {name for name, *_ in seen} | placeholders().keys() == listed.keys()


CONDA = """\
#!/bin/bash
case "$*" in
  "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
  "--version") echo "conda {version}" ;;
  "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  "env export --name {name}") cat {root}/environment.yml ;;
  *) echo "conda: not expected: $*" >&2; exit 1 ;;
esac
"""
ACTIVATE = 'PATH="{prefix}/envs/$1/bin:$PATH"; test -d "{prefix}/envs/$1"'
SWIFTKV = '#!/bin/bash\necho "$*" >>{prefix}/calls\nexec {swiftkv} "$@"\n'


def test_rules_run_in_the_conda_environment_that_environment_yml_makes(tmp_path):
    """Snakemake's side of `--sdm conda`, with a stand-in for conda that has one environment and can make none."""
    prefix, tree = tmp_path / "conda", tmp_path / "tree"
    names = {
        "prefix": prefix,
        "root": ROOT,
        "name": ENVIRONMENT["name"],
        "version": MIN_CONDA_VER,
        "swiftkv": shutil.which("swiftkv"),
    }
    for path, text in (
        ("bin/conda", CONDA),
        ("bin/activate", ACTIVATE),
        (f"envs/{ENVIRONMENT['name']}/bin/swiftkv", SWIFTKV),
    ):
        (prefix / path).parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).write_text(text.format(**names))
        (prefix / path).chmod(0o755)
    for part in ("workflow", "config", "profiles", "notebooks", "swiftkv"):
        shutil.copytree(ROOT / part, tree / part)
    shutil.copy(ROOT / "Snakefile", tree)
    target = "results/smoke/models/base"
    done = subprocess.run(
        ["snakemake", "--cores", "1", "--sdm", "conda", "--configfile", "config/smoke.yaml", "--", target],
        cwd=tree,
        env=os.environ | {"PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetch-base" in (prefix / "calls").read_text() and list((tree / target).glob("*.safetensors"))
