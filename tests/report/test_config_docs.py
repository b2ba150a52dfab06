"""docs/config.md: up to date, and every key of every shipped configuration is on it."""

import re
from collections.abc import Iterator

import pytest

from swiftkv.config import ROOT, read_layers
from swiftkv.report import config_docs

PAGE = (ROOT / "docs" / "config.md").read_text()
DOCUMENTED = set(re.findall(r"^\| \**`([^`]+)`", PAGE, re.MULTILINE))
CONFIGS = [path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "claims.yaml"]


def used(value, path: str = "") -> Iterator[str]:
    """Dotted paths of all keys of a configuration."""
    for name, child in value.items() if isinstance(value, dict) else ():
        full = f"{path}.{name}" if path else name
        yield full
        yield from used(child, full)
    for child in value if isinstance(value, list) else ():
        yield from used(child, f"{path}[]")


def test_page_is_what_the_generator_writes():
    assert config_docs.render() == PAGE, "run `swiftkv config-docs`"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_in_use_is_documented(name):
    sections = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
    for path in used(read_layers(ROOT / "config" / name)):
        pattern = re.sub(r"\.(code|sql|summarise|rag|recall)\b", ".*", path)
        assert {path, pattern} & (DOCUMENTED | sections), path


def test_every_key_has_a_meaning():
    for line in PAGE.splitlines():
        if re.match(r"^\| \**`", line):
            cells = re.split(r"(?<!\\) \| ", line.strip("| "))
            assert len(cells) == 4 and cells[1] and cells[3], line
