"""docs/architecture.md and the tree in the README: they name every room and module, and nothing that is not there."""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from swiftkv.config import ROOT

PACKAGE, TESTS = ROOT / "swiftkv", ROOT / "tests"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)))
LIST = PAGE.split("<!-- rooms -->")[1].split("<!-- /rooms -->")[0]
HALL = "swiftkv"
# room -> its entry; the hall goes by the package's name
ENTRIES = dict(re.findall(r"^- \*\*`([\w]+)/`\*\*(.*?)(?=^- |\Z)", LIST, re.MULTILINE | re.DOTALL))


def contents(directory: Path) -> set[str]:
    """Modules directly in a package by name, and packages in it as `name/`."""
    modules = {path.stem for path in directory.glob("*.py")} - {"__init__"}
    return modules | {f"{path.parent.name}/" for path in directory.glob("*/__init__.py")}


def test_rooms_are_listed_in_the_order_that_imports_follow():
    order = runpy.run_path(str(next(TESTS.rglob("test_layers.py"))))["ORDER"]
    assert [HALL, *order[1:]] == list(ENTRIES)


@pytest.mark.parametrize("room", ENTRIES)
def test_a_room_is_listed_with_what_is_in_it(room):
    found = contents(PACKAGE if room == HALL else PACKAGE / room)
    if room == HALL:
        found -= {f"{name}/" for name in ENTRIES}
    assert sorted(re.findall(r"`([\w/]+)`", ENTRIES[room])) == sorted(found)


def missing(name: str) -> bool:
    """Whether `name` looks like a path, a test or a module of this project and is not there."""
    if re.fullmatch(r"test_\w+", name):
        return not list(TESTS.rglob(f"{name}.py"))
    if re.fullmatch(r"swiftkv(\.\w+)+(:\w+)?", name):
        module, _, attribute = name.partition(":")
        spec = importlib.util.find_spec(module)
        if spec is None or not attribute:
            return spec is None
        return not re.search(rf"^(def|class) {attribute}\b", Path(spec.origin).read_text("utf-8"), re.MULTILINE)
    top = name.split("/")[0]
    if "/" in name and not name.startswith("results/<") and (ROOT / top).exists():
        return not (ROOT / name).exists()
    return False


def test_the_page_names_nothing_that_is_not_there():
    assert not [name for name in NAMES if missing(name)]
    gone = "test_nothing", "swiftkv.nothing", "swiftkv.cli:nothing", "swiftkv/nothing.py", "workflow/nothing/"
    assert all(map(missing, gone))


def folders(line: str) -> list[str]:
    """The folders at the head of a line of the tree, before what it says about them."""
    return re.split(r" {2,}", line.strip())[0].split()


def test_the_tree_in_the_readme_is_the_tree():
    block = README.split("<!-- tree -->")[1].split("<!-- /tree -->")[0]
    lines = [line for line in block.splitlines() if "/ " in line]
    top, rooms = ([n for line in lines if (line[0] == " ") is inner for n in folders(line)] for inner in (False, True))
    assert len(top) > 5 and all((ROOT / name).is_dir() for name in top), top
    assert rooms == [f"{room}/" for room in ENTRIES if room != HALL]
