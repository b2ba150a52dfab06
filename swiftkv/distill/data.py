"""Which positions of a batch a student has to run, and which of them carry the loss."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Selection:
    """Positions of a [B, T] batch at which students run the late layers, padded to Q per row.

    `positions` [B, Q] int64 (0 where padded), `run` [B, Q] bool: not padding, `loss` [B, Q] bool: the next token
    is to be predicted for the loss.
    """

    positions: torch.Tensor
    run: torch.Tensor
    loss: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """Row numbers [B, 1]: `states[selection.rows, selection.positions]` picks [B, Q, ...] from [B, T, ...]."""
        return torch.arange(len(self.positions), device=self.positions.device)[:, None]

    def mask(self, tokens: int, dtype: torch.dtype) -> torch.Tensor:
        """Additive causal attention mask [B, 1, Q, T]: position p sees keys 0..p (padding is on the right)."""
        keys = torch.arange(tokens, device=self.positions.device)
        hidden = (keys > self.positions[..., None])[:, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=keys.device).masked_fill_(hidden, torch.finfo(dtype).min)


def lengths(input_ids: torch.Tensor, pad_token_id: int) -> torch.Tensor:
    """Tokens per row [B] of right-padded ids [B, T]; a pad id inside the text counts as text."""
    places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    return ((input_ids != pad_token_id) * places).amax(1)


def pack(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From flags [B, T] the positions [B, Q] of the True ones in order, and which of those entries are real."""
    counts = chosen.sum(1)
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : max(int(counts.max()), 1)]
    real = torch.arange(order.shape[1], device=chosen.device) < counts[:, None]
    return order.masked_fill(~real, 0), real


def select(
    input_ids: torch.Tensor, answers: torch.Tensor, pad_token_id: int, loss_on: str, every_position: bool
) -> Selection:
    """The Selection for ids and answer flags [B, T].

    The logits at t predict token t + 1, so the loss sits one position before each answer token
    (`loss_on="answers"`) or before every token (`"all"`). K and V of the late layers come from x_l alone, so no
    other position needs the late layers, unless `every_position` asks for them (hidden-state loss).
    """
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths(input_ids, pad_token_id)[:, None]
    target = (answers if loss_on == "answers" else real)[:, 1:]
    wanted = torch.nn.functional.pad(target, (0, 1), value=False)
    positions, run = pack(real if every_position else wanted)
    return Selection(positions, run, wanted.gather(1, positions) & run)
