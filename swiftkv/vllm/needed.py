"""Which tokens of a step need logits, and the step's attention metadata reduced to them.

All that it takes is in every step of either model runner: where each request's tokens begin (`query_start_loc`), and
which requests are not answered yet. A chunk that ends before its prompt does samples nothing, so none of its tokens
runs the late layers.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata

# What is a request's, not a query's, under all names that releases of vLLM have for it. Other fields take their
# defaults, but for those that `reduced` fills.
REQUEST_FIELDS = ("seq_lens", "block_table_tensor", "seq_lens_cpu_upper_bound", "_seq_lens_cpu")


class Step:
    """What a model and its metadata builders know about the step that is running.

    `unanswered` [requests]: True where the step ends inside a prompt, so that the runner throws the sampled token away.
    Longer than the step if it is a runner's own buffer. None if nobody says, as in dummy runs: every token then runs
    every layer.
    """

    unanswered: np.ndarray | None = None


@dataclass(frozen=True)
class Needed:
    """The tokens of a step that run the late layers.

    `indices` [number]: their rows among the step's tokens. `last` [requests]: the last row of every request, where the
    runner reads logits even if it throws them away; None if all requests are answered.
    """

    indices: torch.Tensor
    number: int
    last: torch.Tensor | None = None


def needed_counts(starts: np.ndarray, window: int, unanswered: np.ndarray) -> np.ndarray:
    """How many of each request's last tokens need logits, for requests whose tokens start at `starts` [requests + 1].

    `window` are the tokens that a decoding request yields at most: one, and its drafts.
    """
    counts = np.minimum(np.diff(starts), window)
    known = min(len(counts), len(unanswered))
    counts[:known][unanswered[:known]] = 0
    return counts


def needed_rows(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of the last `counts` tokens of each request, in order."""
    ends = np.cumsum(counts)
    return np.repeat(starts[1:] - ends, counts) + np.arange(ends[-1])


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on `device`; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def needed_of(batch: CommonAttentionMetadata, window: int, step: Step) -> tuple[Needed, CommonAttentionMetadata] | None:
    """The tokens of `batch` that need logits, and `batch` reduced to them; None if every token does, or may.

    A step in which no request has more than `window` tokens counts as one: it may be a CUDA graph of a whole decoding
    step, and gathering would cost more than it saves.
    """
    if step.unanswered is None or batch.max_query_len <= window:
        return None
    starts = batch.query_start_loc_cpu[: batch.num_reqs + 1].numpy().astype(np.int64)
    counts = needed_counts(starts, window, step.unanswered)
    last = batch.query_start_loc[1 : batch.num_reqs + 1].long() - 1
    if counts.min() == counts.max() == 1:
        return Needed(last, batch.num_reqs), reduced(batch, counts, None)
    device, number = batch.query_start_loc.device, int(counts.sum())
    rows = needed_rows(starts, counts)
    kept = np.flatnonzero(counts) if counts.min() == 0 else None
    needed = Needed(to_device(rows, device), number, None if kept is None else last)
    return needed, reduced(batch, counts, kept) if number else batch


def reduced(batch: CommonAttentionMetadata, counts: np.ndarray, kept: np.ndarray | None) -> CommonAttentionMetadata:
    """`batch` with the last `counts` tokens of each request as queries, without the requests not `kept` (None: all).

    Such queries see the whole sequence, so its length stays what it was.
    """
    device, values = batch.query_start_loc.device, {f.name: getattr(batch, f.name) for f in fields(batch)}
    values = {name: values[name] for name in REQUEST_FIELDS if values.get(name) is not None}
    if kept is not None:
        counts, rows = counts[kept], torch.from_numpy(kept)
        on_device = to_device(kept, device)
        values = {name: value[on_device if value.device == device else rows] for name, value in values.items()}
    starts = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    longest = int(counts.max())
    # One query per request, the usual case, needs no copy from the host.
    ones = torch.arange(len(counts) + 1, dtype=torch.int32, device=device) if longest == 1 == counts.min() else None
    return CommonAttentionMetadata(
        query_start_loc=to_device(starts, device) if ones is None else ones,
        query_start_loc_cpu=torch.from_numpy(starts),
        num_reqs=len(counts),
        num_actual_tokens=int(starts[-1]),
        max_query_len=longest,
        max_seq_len=batch.max_seq_len,
        slot_mapping=batch.slot_mapping,  # of no use: late layers write nothing
        causal=True,
        **values,
    )
