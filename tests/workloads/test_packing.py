"""Packing: documents stay whole and unchanged, rows are never overfull, and a stream can be entered anywhere."""

from itertools import islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.workloads.packing import Document, batches, pack, shuffled

PAD = 0


def document(number: int, length: int) -> Document:
    """A document whose tokens tell its number and their places."""
    ids = 1000 * (number + 1) + np.arange(length, dtype=np.int32)
    return Document(ids, (np.arange(length) + number) % 3 == 0)


def pieces(batch) -> list[tuple[list[int], list[bool]]]:
    """Documents and padding of a batch, cut where positions restart."""
    found = []
    for ids, answers, positions in zip(batch.input_ids, batch.answers, batch.positions, strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            assert positions[start:end].tolist() == list(range(end - start))
            found.append((ids[start:end].tolist(), answers[start:end].tolist()))
    return found


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(40, 60), st.integers(0, 3))
def test_an_epoch_has_every_document_once_whole_and_unchanged(lengths, row_length, seed):
    documents = [document(number, length) for number, length in enumerate(lengths)]
    rows = len(pack(lengths, shuffled(len(lengths), seed, 0), row_length))
    epoch = next(batches(documents, rows, row_length, PAD, seed))
    assert epoch.input_ids.shape == epoch.answers.shape == epoch.positions.shape == (rows, row_length)
    packed = [piece for piece in pieces(epoch) if piece[0][0] != PAD]
    padding = [piece for piece in pieces(epoch) if piece[0][0] == PAD]
    assert sorted(packed) == sorted((d.ids.tolist(), d.answers.tolist()) for d in documents)
    assert all(set(ids) == {PAD} and not any(answers) for ids, answers in padding)
    for ids in epoch.input_ids:  # padding at the right only
        assert (ids[int((ids != PAD).sum()) :] == PAD).all()
    assert epoch.tokens == sum(lengths)


@given(st.lists(st.integers(1, 30), min_size=3, max_size=60), st.integers(1, 5), st.integers(0, 40))
def test_entering_anywhere_gives_the_batches_of_an_uninterrupted_run(lengths, rows, start):
    documents = [document(number, length) for number, length in enumerate(lengths)]
    whole = list(islice(batches(documents, rows, 30, PAD, seed=1), start + 3))
    for entered, batch in zip(batches(documents, rows, 30, PAD, 1, start), whole[start:], strict=False):
        assert torch.equal(entered.input_ids, batch.input_ids)
        assert torch.equal(entered.answers, batch.answers)
        assert torch.equal(entered.positions, batch.positions)


def test_order_depends_on_seed_and_epoch():
    orders = [shuffled(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_little_is_padding():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 5000).clip(1, 1024).astype(int).tolist()
    rows = pack(lengths, shuffled(5000, 0, 0), 1024)
    assert sum(lengths) / (len(rows) * 1024) > 0.97
