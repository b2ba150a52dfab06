"""The rooms of the package: an import leads to the same room or to one below it, never up (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

from swiftkv.config import ROOT

PACKAGE = ROOT / "swiftkv"
HALL = ""
ROOMS = (
    "modeling workloads costmodel vllm engines base_model distill bench evals report planning audit release commands"
)
ORDER = [HALL, *ROOMS.split()]  # from the ground up
DOORS = {"cli"}  # of the hall: starts everything, imported by nobody
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    """The room of a module, by its path below the package."""
    return parts[0] if parts and parts[0] in ORDER else HALL


def imports(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that a file imports, wherever in it, as paths below the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in found if name.split(".")[0] == "swiftkv"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_import_leads_up(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts
    if here[0] in DOORS:
        return
    up = [".".join(parts) for parts in imports(path) if ORDER.index(room(parts)) > ORDER.index(room(here))]
    assert not up, f"{'.'.join(here)} ({room(here) or 'hall'}) imports {', '.join(sorted(up))} from above"


def test_the_hall_holds_what_every_room_uses():
    assert len([path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]) <= 12
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ORDER[1:])
