"""Atomic writing: a result is whole or absent."""

import hashlib
from pathlib import Path

import pytest

from swiftkv import files
from swiftkv.errors import UserError


def test_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_interrupted_directory_leaves_the_old_one(tmp_path):
    path = tmp_path / "d"
    with files.atomic_dir(path) as new:
        (new / "a").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_dir(path) as new:
        (new / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_json_lines_round_trip(tmp_path, name):
    rows = [{"a": 1}, {"a": "ü"}]
    files.write_jsonl(tmp_path / name, rows)
    assert files.read_jsonl(tmp_path / name) == rows


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_bad_input_names_file_and_line(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2"):
        files.read_jsonl(tmp_path / "bad.jsonl")
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "none.json")


def test_a_digest_is_that_of_sorted_json():
    expected = hashlib.sha256(b'{"a": [1, "x"], "b": null}').hexdigest()
    assert files.digest({"b": None, "a": (1, Path("x"))}) == expected[:16]
    assert files.digest({"a": [1, "x"], "b": None}, length=64) == expected


def test_a_byte_order_mark_before_json_lines_is_no_part_of_them(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8-sig")
    assert files.read_jsonl(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}]
