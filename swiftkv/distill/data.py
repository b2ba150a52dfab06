"""Which positions of a batch a student has to run, and which of them carry the loss."""

from dataclasses import dataclass

import torch

from swiftkv.workloads.stream import Batch


@dataclass(frozen=True)
class Selection:
    """Positions of a [B, T] batch at which students run the late layers, padded to Q per row.

    `positions` [B, Q] int64 (0 where padded), `run` [B, Q] bool: not padding, `loss` [B, Q] bool: the next token
    is to be predicted for the loss, `starts` [B, Q] int64: where the position's document begins.
    """

    positions: torch.Tensor
    run: torch.Tensor
    loss: torch.Tensor
    starts: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """Row numbers [B, 1]: `states[selection.rows, selection.positions]` picks [B, Q, ...] from [B, T, ...]."""
        return torch.arange(len(self.positions), device=self.positions.device)[:, None]

    def mask(self, tokens: int, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [B, 1, Q, T]: a position sees the keys of its document up to itself."""
        keys = torch.arange(tokens, device=self.positions.device)
        hidden = ((keys > self.positions[..., None]) | (keys < self.starts[..., None]))[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=keys.device).masked_fill_(hidden, torch.finfo(dtype).min)


def places(batch: Batch) -> torch.Tensor:
    """Each token's place in its document [B, T]."""
    if batch.positions is not None:
        return batch.positions
    return torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(batch.input_ids.shape)


def pack(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From flags [B, T] the positions [B, Q] of the True ones in order, and which of those entries are real."""
    counts = chosen.sum(1)
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : max(int(counts.max()), 1)]
    real = torch.arange(order.shape[1], device=chosen.device) < counts[:, None]
    return order.masked_fill(~real, 0), real


def select(batch: Batch, loss_on: str, every_position: bool) -> Selection:
    """The Selection of a batch.

    The logits at t predict token t + 1 of the same document, so the loss sits one position before each answer token
    (`loss_on="answers"`) or before every token (`"all"`). K and V of the late layers come from x_l alone, so no
    other position needs the late layers, unless `every_position` asks for them (hidden-state loss).
    """
    ids, place = batch.input_ids, places(batch)
    real = torch.arange(ids.shape[1], device=ids.device) < batch.lengths[:, None]
    target = (batch.answers if loss_on == "answers" else real) & (place > 0)
    wanted = torch.nn.functional.pad(target[:, 1:], (0, 1), value=False)
    positions, run = pack(real if every_position else wanted)
    return Selection(positions, run, wanted.gather(1, positions) & run, positions - place.gather(1, positions))


def part(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """Some rows of a batch, on a device."""
    tensors = (batch.input_ids, batch.answers, batch.lengths, batch.positions)
    return Batch(*(None if tensor is None else tensor[rows].to(device) for tensor in tensors))
