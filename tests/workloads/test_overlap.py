"""Overlap with evaluation sets: what was planted is found, what is not there is not, every kind of file is read."""

import gzip
import io
import json
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.errors import UserError
from swiftkv.workloads import downloads, overlap
from swiftkv.workloads.overlap import Overlap, texts_of
from tests.helpers.real_rows import make_mirror

SENTENCE = "The quick brown fox jumps over the lazy dog and then it sleeps until noon"  # 15 words
NUMBERS = " ".join(map(str, range(100, 140)))


def test_what_is_planted_is_found_by_its_set():
    found = Overlap([("numbers", [NUMBERS]), ("foxes", [SENTENCE])])
    assert found.of(f"before, {SENTENCE.upper().replace(' ', ', ')} after") == "foxes"
    assert found.of(" ".join(NUMBERS.split()[5:18])) == "numbers"
    assert found.of(" ".join(NUMBERS.split()[5:17])) is None  # 12 of more than 13 words


def test_short_texts_are_found_whole_and_shorter_ones_never():
    found = Overlap([("short", ["one two three four five six seven eight"]), ("tiny", ["a b c d e f g"])])
    assert found.of("zero one two three four five six seven eight nine") == "short"
    assert found.of("one two three four five six seven nine eight") is None
    assert found.of("a b c d e f g") is None


@given(
    words=st.lists(st.integers(0, 30), min_size=13, max_size=60),
    start=st.integers(0, 40),
    other=st.lists(st.integers(31, 60)),
)
def test_thirteen_words_of_an_evaluation_text_are_always_found(words, start, other):
    start %= len(words) - 12
    planted = [*other, *words[start : start + 13], *other]
    found = Overlap([("set", [" ".join(map(str, words))])])
    assert found.of(" ".join(map(str, planted))) == "set"
    assert found.of(" ".join(map(str, other))) is None


def archive(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def arrow(rows: list[dict]) -> bytes:
    import pyarrow

    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


ROW = json.dumps({"a": {SENTENCE: 1}, "b": ["x", SENTENCE]}).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", ROW + b"\n"), ("a.json", ROW), ("a.jsonl.gz", gzip.compress(ROW)), 
        ("a.jsonl.xz", lzma.compress(ROW)),
        ("a.csv", f'x,"{SENTENCE}"\n'.encode()), ("a.tar.xz", archive("b/c.sql", SENTENCE.encode())),
        ("a.b.arrow", arrow([{"q": SENTENCE, "choices": ["x"]}])),
    ],
)  # fmt: skip
def test_every_kind_of_file_is_read(name, data):
    assert SENTENCE in list(texts_of(name, data))


def test_files_that_hold_no_texts_are_passed_over():
    assert not list(texts_of("README", b"\xff"))


def test_published_sets_and_whatever_else_lies_in_the_mirror_are_compared(tmp_path, monkeypatch):
    make_mirror(tmp_path, monkeypatch)
    (tmp_path / "evals" / "gsm8k_test.jsonl").write_bytes(ROW)
    found = overlap.checked(tmp_path)
    assert {"gsm8k_test.jsonl", "HumanEval.jsonl.gz", "qmsum_test.jsonl", "shop.sql"} <= set(found.names)
    assert len(set(found.names)) == len(found.names)
    assert found.of(f"it says: {SENTENCE}") == "gsm8k_test.jsonl"


def test_a_damaged_or_missing_set_is_one_line(tmp_path, monkeypatch):
    make_mirror(tmp_path, monkeypatch)
    (tmp_path / "evals" / "mine.jsonl").write_text("{broken")
    with pytest.raises(UserError, match=r"mine\.jsonl: cannot be read as an evaluation set"):
        overlap.checked(tmp_path)
    (tmp_path / "evals" / "mine.jsonl").unlink()
    (tmp_path / "evals" / "HumanEval.jsonl.gz").unlink()
    with pytest.raises(UserError, match="decontamination of training data needs HumanEval"):
        overlap.checked(tmp_path)
    with pytest.raises(UserError, match="no such mirror directory"):
        overlap.checked(tmp_path / "none")


def test_without_a_mirror_the_sets_are_downloaded(monkeypatch):
    monkeypatch.delenv(downloads.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(downloads, "download", lambda url: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(UserError, match=r"no route.*SWIFTKV_MIRROR"):
        overlap.checked(None)
