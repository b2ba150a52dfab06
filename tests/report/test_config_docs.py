"""docs/config.md: up to date, and every key of every shipped configuration is on it."""

import json
import re
from collections.abc import Iterator

import jsonschema
import pytest

from swiftkv.config import ROOT, load_config, merge, read_layers, validate
from swiftkv.errors import UserError
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


def test_schema_for_editors_is_what_the_generator_writes():
    assert config_docs.SCHEMA.read_text() == config_docs.schema_text(), "run `swiftkv config-docs`"


@pytest.mark.parametrize("name", CONFIGS)
def test_schema_for_editors_takes_what_the_models_take(name):
    schema = jsonschema.Draft202012Validator(json.loads(config_docs.SCHEMA.read_text()))
    assert not list(schema.iter_errors(load_config(ROOT / "config" / name).raw))


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 1}, {"seed": None}, {"base": {"source": "hub"}}, {"throughput": {"repeats": 0}},
        {"protocol": {"tasks": ["ifeval", "ifeval"]}}, {"distill": {"data": {"source": "jsonl"}}},
        {"train_base": {"stages": [{"sequence_length": 64, "prompt_weight": 1, "tokens": 1}]}},
        {"tasks": {"own": {"records": 1}}}, {"served": {"points": [{"name": "a", "kind": "rate", "loads": [1]}]}},
    ],
    ids=str,
)  # fmt: skip
def test_schema_for_editors_refuses_what_the_models_refuse(change):
    schema = jsonschema.Draft202012Validator(json.loads(config_docs.SCHEMA.read_text()))
    raw = merge(load_config(ROOT / "config" / "served.yaml").raw, change)
    assert list(schema.iter_errors(raw))
    with pytest.raises(UserError):
        validate(raw, "f.yaml")


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
