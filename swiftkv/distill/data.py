"""The tokens of a batch, which of them a student has to run, and which carry the loss."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from swiftkv.workloads.stream import Batch


@dataclass(frozen=True)
class Documents:
    """A batch as one row of M tokens: its documents one after another, without padding.

    `ids` [M] int64, `place` [M] int64: a token's place in its document, from 0, `answers` [M] bool; documents begin at
    `bounds`, whose last entry is M.
    """

    ids: torch.Tensor
    place: torch.Tensor
    answers: torch.Tensor
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """The N tokens of Documents at which students run the late layers: `index` [N] int64, ascending, says which, and
    `loss` [N] bool whether the next token is predicted there for the loss."""

    index: torch.Tensor
    loss: torch.Tensor


def documents(batch: Batch) -> Documents:
    """The documents of a batch, on its device."""
    rows, length = batch.input_ids.shape
    every = torch.arange(length, device=batch.input_ids.device)
    real = every < batch.lengths[:, None]
    place = (every.expand(rows, length) if batch.positions is None else batch.positions)[real]
    starts = (place == 0).nonzero().flatten().tolist()
    return Documents(batch.input_ids[real], place, batch.answers[real], (*starts, len(place)))


def select(texts: Documents, loss_on: str, every_position: bool) -> Selection:
    """The Selection of some documents.

    The logits at t predict token t + 1 of the same document, so the loss sits one position before each answer token
    (`loss_on="answers"`) or before every token (`"all"`). K and V of the late layers come from x_l alone, so no
    other position needs the late layers, unless `every_position` asks for them (hidden-state loss).
    """
    target = texts.place > 0
    if loss_on == "answers":
        target = target & texts.answers
    predicts = torch.nn.functional.pad(target[1:], (0, 1), value=False)
    index = (torch.ones_like(predicts) if every_position else predicts).nonzero().flatten()
    return Selection(index, predicts[index])


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device. A plain `to` would first wait until the device has done all that it was given;
    results are right without, because copies and kernels of one stream run in order."""
    return tensor.to(device, non_blocking=True)


def part(batch: Batch, rows: torch.Tensor) -> Batch:
    """The rows of a batch with these numbers."""
    tensors = (batch.input_ids, batch.answers, batch.lengths, batch.positions)
    return Batch(*(None if tensor is None else tensor[rows] for tensor in tensors))


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, batches, None)
            yield batch
