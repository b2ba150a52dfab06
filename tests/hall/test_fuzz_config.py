"""Whatever stands in a configuration is taken as it stands, or refused in one line that names the file."""

import datetime
import json
import math
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import config as module
from swiftkv.config import load_config
from swiftkv.config.settings import json_schema
from swiftkv.errors import UserError
from tests.helpers.config import make_config

CONFIG = module.ROOT / "config"
SHIPPED = [path for path in sorted(CONFIG.glob("*.yaml")) if path.name != "claims.yaml"]
SELF = []  # a list that holds itself, as YAML's anchors can write it
SELF.append(SELF)
NEVER = [  # no key takes one of these
    *(math.nan, math.inf, -math.inf, -1, -0.5, 16**5000, None, "\ud800", "\0", [None], [math.nan], [-1], SELF),
    *({None: 1}, {1: {}}, {(1, 2): 3}, {"x": SELF}, b"x", {1, 2}, datetime.date(2026, 1, 1), datetime.datetime.max),
]
SOMETIMES = [0, 1, True, False, 0.5, 1e308, 5e-324, "", "x", "ü/🙂", "a\nb", "x" * 9999, [], [[]], ["x"], {}, {"x": 1}]
TEXTS = [
    *("", "[", "{", "- 1", "1", "~", "'", "\t", "? [a]\n: b", "a: b: c", "%YAML 9.9\n---\na: 1", "--- 1\n--- 2"),
    *("extends: [x]", "extends:", "extends: 1", 'extends: ""', 'extends: "\\0"', "extends: .", "extends: {a: b}"),
    *("a: 2001-99-99", "a: 2001-01-01 25:61:61", "a: !!python/object:os.system x", "a: !!binary é", "a: *b"),
    *("a: &a [*a]", "scale: a\nscale: b", "a: {b: 1, b: 2}", "<<: 1", "<<: [1]", "&a : *a", "0x" + "f" * 9999),
    *("9" * 9999, "[" * 1000, "a: " * 99, "﻿scale: x", "scale: \x00", "\ud800", "é: é", "seed: 1_0", "seed: 0o7"),
]


def keys(value, path: tuple = ()) -> Iterator[tuple]:
    """Every place below `value`, of a list the first entry alone."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, below in entries:
        yield (*path, key)
        yield from keys(below, (*path, key))


RAW = {path.stem: load_config(path).raw for path in SHIPPED}
# Every key that a shipped configuration has, in the first that has it.
PLACES = list({path: (name, path) for name, raw in reversed(RAW.items()) for path in keys(raw)}.values())


def put(raw, path: tuple, value):
    """A copy of `raw` with `value` at `path`."""
    if not path:
        return value
    copied = raw.copy()
    copied[path[0]] = put(raw[path[0]], path[1:], value)
    return copied


def refusal(name: str, path: tuple, value) -> str | None:
    """What is said of a configuration with `value` at `path`, None where it is taken: then it can be written, hashed
    and read again."""
    raw = put(RAW[name], path, value)
    try:
        module.validate(raw, "mine.yaml")
    except UserError as error:
        return str(error)
    assert yaml.safe_load(yaml.safe_dump([value])) == [value]
    json.dumps(raw, allow_nan=False).encode()
    return None


def is_one_line(said: str, name: str = "mine.yaml") -> bool:
    return said.startswith(name) and said.isprintable() and len(said) < 1000


@pytest.mark.parametrize("value", NEVER, ids=lambda value: type(value).__name__)
def test_no_key_takes_nonsense(value):
    for name, path in PLACES:
        said = refusal(name, path, value)
        assert said and is_one_line(said), (path, said)


def test_no_key_counts_beyond_what_a_machine_can():
    root, counted = json_schema(), 0
    for name, path in PLACES:
        kind = module.words.resolve(module.words.at(root, path), root).get("type")
        if kind == "integer":
            counted, said = counted + 1, refusal(name, path, 2**53)
            assert said and is_one_line(said), path
    assert counted > 50


def test_every_key_takes_or_refuses_what_may_be_right():
    for name, path in PLACES:
        for value in SOMETIMES:
            said = refusal(name, path, value)
            assert said is None or is_one_line(said), (path, value, said)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.sampled_from(PLACES), anything)
def test_anything_anywhere(place, value):
    name, path = place
    said = refusal(name, path, value)
    assert said is None or is_one_line(said)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(sorted(RAW["served"])) | st.text(max_size=5), anything, max_size=4))
def test_overlays(change):
    """What Snakemake's --config and --configfile bring."""
    try:
        module.resolve(RAW["served"], given=change)
    except UserError as error:
        assert is_one_line(str(error), "config: ")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_odd_yaml_is_one_line(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(error.value).count("\n") == 0 and str(tmp_path) in str(error.value)


@settings(max_examples=100)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(error.value).count("\n") == 0 and "mine.yaml" in str(error.value)


@pytest.mark.parametrize("name", [".", "a\0b", "x" * 5000, "\udcff", "mine.yaml/below"])
def test_what_is_no_file_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("x")
    with pytest.raises(UserError) as error:
        load_config(name)
    assert "\n" not in str(error.value)


def test_the_helper_of_these_tests_changes_nothing():
    raw = make_config().raw
    assert put(raw, ("distill", "steps"), -1) != raw and raw == make_config().raw
