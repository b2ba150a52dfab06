"""Whatever a trace or a file of chats holds: it is read and what was left out is said, or one line names the place."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.workloads import traces, traffic
from swiftkv.workloads.documents import Maker
from swiftkv.workloads.rows import content, local_rows
from tests.helpers.chat_templates import FOLDED, PLAIN, with_template

OWN = traces.Trace("mine", "mine.csv", "prompt_tokens", "output_tokens", "", "", "", "", "arrival_s", "")
HEADER = ["arrival_s", "prompt_tokens", "output_tokens"]
ODD_TIMES = ["0", "1.5", "4e-05", "1e300", "-1e300", "1e999", "nan", "inf", "-5", "", " 2 ", "1_0", "٣", "0x1", "1,5"]
DATES = ["2024-05-10 00:00:00", "2024-05-10T00:00:00.123456789+02:00", "0001-01-01T00:00:00+23:59", "2024-02-30", "now"]
TIMES = st.sampled_from([*ODD_TIMES, *DATES])
COUNTS = st.sampled_from(
    ["0", "1", "500", "500.0", "-1", "1e3", "nan", "", "9" * 13, "9" * 5000, "1.5", "²", "٣", "None", "true", "5 0"]
)
FIELDS = TIMES | COUNTS | st.integers(0, 9).map(str) | st.text(max_size=5)
GOOD = st.tuples(st.integers(0, 9).map(str), st.integers(0, 9).map(str), st.integers(0, 9).map(str))
HEADERS = st.permutations(HEADER) | st.lists(st.sampled_from([*HEADER, "arrival", "", " output_tokens "]), max_size=5)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])


@st.composite
def tables(draw) -> bytes:
    """A CSV file, often nearly right."""
    rows = draw(st.lists(GOOD, max_size=4)) + draw(st.lists(st.lists(FIELDS, max_size=4), max_size=2))
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t", ", "]))
    lines = [draw(st.just(HEADER) | HEADERS), *draw(st.permutations(rows))]
    text = draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(separator.join(line) for line in lines)
    return text.encode(draw(ENCODINGS), "replace")


def check(make, data: bytes) -> None:
    """Read a trace of one's own: usable arrays, whose requests and what was left out add up; or a line."""
    try:
        read = make(data)
    except UserError as error:
        assert str(error).startswith("mine") and "\n" not in str(error) and len(str(error)) < 9000
        return
    arrival, prompt, output = read.requests
    assert len(arrival) == len(prompt) == len(output) > 0
    assert np.isfinite(arrival).all() and (arrival >= 0).all() and (np.diff(arrival) >= 0).all()
    assert (prompt >= 1).all() and (output >= 1).all() and 0 < read.span_s < 1e13


@settings(max_examples=250)
@given(tables() | st.binary(max_size=60))
def test_csv_traces(data):
    check(lambda data: traffic._parsed(OWN, data, "mine.csv", "here"), data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
REQUEST = st.fixed_dictionaries(
    {"timestamp": st.integers(0, 9999) | JSON, "input_length": st.integers(0, 9) | JSON},
    optional={"output_length": st.integers(0, 9) | JSON, "hash_ids": st.lists(st.integers(0, 9), max_size=3) | JSON},
)


def lines(rows: list, encoding: str, odd: list[str]) -> bytes:
    text = "".join(f"{line}\n" for line in [*map(json.dumps, rows), *odd])
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


ODD = st.lists(st.sampled_from(["", "[" * 5000, "{", "NaN", "9" * 5000, '{"a": 1} x', "null", '"\ud800"']), max_size=1)


@settings(max_examples=150)
@given(st.lists(REQUEST, max_size=3), ENCODINGS, ODD)
def test_json_lines_traces(rows, encoding, odd):
    own = traces.Trace("mine", "mine.jsonl", "input_length", "output_length", "", "", "", "", "timestamp", "")
    check(lambda data: traffic._parsed(own, data, "mine.jsonl", "here"), lines(rows, encoding, odd))


TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool", ""]) | JSON,
        "content": st.sampled_from(["a b", "", "🙂", "\ud800", "<|end|>", "{{ x }}"]) | JSON,
        "tool_calls": JSON,
    },
)
ROW = JSON | st.fixed_dictionaries(
    {},
    optional={
        **{name: st.lists(TURN, max_size=4) | JSON for name in ("messages", "conversations")},
        **{name: st.just("\ud800") | st.lists(TURN, max_size=2) | JSON for name in ("prompt", "completion")},
        **{name: st.text(max_size=9) | JSON for name in ("text", "instruction", "output", "input", "system_prompt")},
    },
)  # fmt: skip


@pytest.mark.parametrize("template", [PLAIN, FOLDED])
@settings(max_examples=60)
@given(rows=st.lists(ROW, min_size=1, max_size=3))
def test_rows_of_chats(tiny_tokenizer, template, rows):
    """A row becomes documents, is counted as dropped, or is named."""
    maker = Maker(with_template(tiny_tokenizer, template), "train", 16, None, 1, True)
    for row in rows:
        try:
            documents = maker.documents([("mine:1", content(row, "mine:1"))])
        except UserError as error:
            assert str(error).startswith("mine:1: ") and "\n" not in str(error) and len(str(error)) < 1000
            continue
        assert documents or maker.tally.dropped
        assert all(0 < len(document.ids) <= 16 for document in documents)


@settings(max_examples=100)
@given(data=st.binary(max_size=40) | st.builds(lines, st.lists(JSON, max_size=2), ENCODINGS, ODD))
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz", "mine.jsonl.xz", "mine.json"])
def test_bytes_of_json(tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        files.read_json(path) if name.endswith(".json") else list(local_rows(path))
    except UserError as error:
        assert "mine.json" in str(error) and "\n" not in str(error)
