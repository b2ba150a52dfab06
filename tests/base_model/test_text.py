"""Plain text of the base model's training: read from a mirror that is as published, every row once an epoch."""

import hashlib
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.base_model import curriculum, text
from swiftkv.config.training import PlainText
from swiftkv.errors import UserError
from swiftkv.workloads import corpora
from tests.helpers.config import make_config

RECIPE = {
    "vocab_size": 600,
    "batch_tokens": 1024,
    "text": {"share": 0.5, "sources": ["python"], "python_bytes": 60000},
    "stages": [{"difficulty": 1.0, "sequence_length": 256, "prompt_weight": 1.0, "tokens": 8192}],
}
TASKS = {"rag": {"records": 3, "values": 1}, "code": {"records": 2, "values": 1}}

PEPS = PlainText(share=0.5, sources=["peps"], python_bytes=1)


def recipe():
    return make_config({"train_base": RECIPE}, instead={"tasks": TASKS})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A curriculum with text: 8 batches of two task rows and two text rows."""
    return curriculum.Curriculum(recipe(), tmp_path_factory.mktemp("work"))


def write_mirror(folder, monkeypatch, damaged=False):
    """A mirror with one small corpus whose hash is known."""
    path = folder / "corpora" / "peps.tar.xz"
    path.parent.mkdir()
    for name in ("a.rst", "b.py"):
        (folder / name).write_text(f"text of {name}\n")
    with tarfile.open(path, "w:xz") as archive:
        for name in ("a.rst", "b.py"):
            archive.add(folder / name, arcname=name)
    digest = "0" * 64 if damaged else hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(corpora, "known", lambda: {"peps": {"file": path.name, "sha256": digest}})


def test_a_corpus_is_its_text_files(tmp_path, monkeypatch):
    write_mirror(tmp_path, monkeypatch)
    assert list(text.texts(PEPS, tmp_path)) == ["text of a.rst\n"]


def test_a_corpus_that_is_not_as_published_is_refused(tmp_path, monkeypatch):
    write_mirror(tmp_path, monkeypatch, damaged=True)
    with pytest.raises(UserError, match="not the published file"):
        list(text.texts(PEPS, tmp_path))


@pytest.mark.parametrize("mirror", [None, "empty"])
def test_a_corpus_that_is_not_there_says_what_is_missing(tmp_path, mirror):
    with pytest.raises(UserError, match=r"peps needs peps\.tar\.xz in corpora/ of a mirror \(SWIFTKV_MIRROR\)"):
        list(text.texts(PEPS, mirror and tmp_path))


def test_python_sources_stay_within_their_bytes_and_come_in_one_order():
    found = list(text.python_sources(50_000))
    assert found and sum(len(part.encode()) for part in found) <= 50_000
    assert found == list(text.python_sources(50_000))


@given(
    tokens=st.integers(8, 200), length=st.integers(2, 8), seed=st.integers(0, 3), split=st.integers(1, 5),
)  # fmt: skip
def test_an_epoch_has_every_row_once_wherever_it_is_entered(tokens, length, seed, split):
    stream = text.TokenStream(np.arange(tokens, dtype=np.uint32), seed)
    per_epoch = tokens // length
    epoch = stream.rows(length, per_epoch, first=per_epoch)
    assert sorted(epoch[:, 0].tolist()) == list(range(0, per_epoch * length, length))
    assert torch.equal(epoch, epoch[:, :1] + torch.arange(length))
    split = min(split, per_epoch)
    assert torch.equal(stream.rows(length, split, 2 * per_epoch - split), epoch[per_epoch - split :])


def test_rows_longer_than_the_text_are_refused():
    with pytest.raises(UserError, match="5 tokens are no row of 6"):
        text.TokenStream(np.arange(5, dtype=np.uint32), 0).rows(6, 1, 0)


def test_batches_hold_the_share_of_text(made):
    batch = made[0]
    assert batch.input_ids.shape == (4, 256)
    assert batch.answers[:2].any(1).all() and not batch.answers[2:].any()
    assert torch.equal(batch.input_ids[2:], made.text.rows(256, 2, 0))
    assert made.data_record()["text"]["tokens"] == len(made.text.tokens)


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_are_those_of_their_number_whoever_makes_them(made, processes):
    found = list(made.batches(3, processes))
    assert len(found) == len(made) - 3
    for step, batch in enumerate(found, 3):
        assert torch.equal(batch.input_ids, made[step].input_ids) and batch.tokens == made[step].tokens


def test_text_is_tokenised_once(made, monkeypatch):
    monkeypatch.setattr(curriculum.text, "write_tokens", lambda *_: pytest.fail("tokenised again"))
    again = curriculum.Curriculum(recipe(), made.work)
    assert torch.equal(again[5].input_ids, made[5].input_ids)
