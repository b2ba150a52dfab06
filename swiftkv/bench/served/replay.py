"""A window of a request trace, scaled in time and length to a machine, as a file that vLLM's benchmark client replays.

vLLM's `timed_trace` data set sends each request at its time and draws its tokens from the ids of its prompt blocks:
equal ids, equal tokens. Mooncake's trace has such ids, one per 512 tokens, so prefix caching finds what it would have
found in production; a request of another trace gets blocks of its own.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swiftkv import files
from swiftkv.config.measuring import ServedPoint
from swiftkv.errors import UserError
from swiftkv.workloads.traffic import Traffic

BLOCK_TOKENS = 512  # of a Mooncake block, before scaling


@dataclass(frozen=True)
class Replay:
    """Requests in order of arrival. `arrival_s` in replayed seconds; `speed`: times the trace's own pace.

    `block_tokens`: tokens of a prompt block after scaling; `blocks`: ids of each prompt's blocks if the trace has them.
    """

    source: str
    speed: float
    length_scale: float
    block_tokens: int
    arrival_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    blocks: list[list[int]] | None

    @property
    def reusable(self) -> float:
        """Share of the prompt tokens that lie in a leading run of whole blocks seen before: the most that a prefix
        cache of unlimited size can spare, up to its own block size."""
        if self.blocks is None:
            return 0.0
        seen, spared = set(), 0
        for ids, prompt in zip(self.blocks, self.prompt, strict=True):
            run = next((i for i, block in enumerate(ids) if block not in seen), len(ids))
            spared += min(int(prompt), run * self.block_tokens)
            seen.update(ids)
        return spared / int(self.prompt.sum())


def sampled(trace: Traffic, share: float, seed: int) -> np.ndarray:
    """Which requests remain if `share` of the conversations do, drawn at random. Requests are of one conversation if
    they share their second block (the first is a system prompt that most have); without blocks each is its own."""
    count = len(trace.requests.arrival)
    blocks = trace.blocks or [[]] * count
    roots = [f"block {ids[1]}" if len(ids) > 1 else f"request {number}" for number, ids in enumerate(blocks)]
    _, conversation = np.unique(roots, return_inverse=True)
    return np.random.default_rng(seed).random(conversation.max() + 1)[conversation] < share


def make(trace: Traffic, speed: float, point: ServedPoint, seed: int) -> Replay:
    """`duration_s` seconds of the trace at `speed` times its pace, from its second `start_s` on, of a `sample` of its
    conversations; lengths times `length_scale` (for a trace with blocks the nearest that leaves whole tokens in a
    block), at least one token. These are keys of `point`.

    Raises UserError if no request arrives in that time.
    """
    requests, start, seconds = trace.requests, point.start_s, point.duration_s * speed
    inside = (requests.arrival >= start) & (requests.arrival < start + seconds)
    inside &= sampled(trace, point.sample, seed)
    if not inside.any():
        raise UserError(f"served.points: {point.name}: no request in {seconds:g} s from second {start:g} on")
    length_scale = point.length_scale
    block_tokens = max(1, round(BLOCK_TOKENS * length_scale)) if trace.blocks else BLOCK_TOKENS
    scale = block_tokens / BLOCK_TOKENS if trace.blocks else length_scale
    return Replay(
        source=trace.source,
        speed=speed,
        length_scale=scale,
        block_tokens=block_tokens,
        arrival_s=(requests.arrival[inside] - start) / speed,
        prompt=np.maximum(1, np.rint(requests.prompt[inside] * scale)).astype(int),
        output=np.maximum(1, np.rint(requests.output[inside] * scale)).astype(int),
        blocks=[trace.blocks[i] for i in np.flatnonzero(inside)] if trace.blocks else None,
    )


def write(replay: Replay, path: Path, label: str) -> None:
    """The data set's JSON Lines. `label` enters every block's id, so that measurements with other labels share no
    token with this one, and each begins with a cache that knows nothing of it."""
    rows, columns = [], zip(replay.arrival_s.tolist(), replay.prompt.tolist(), replay.output.tolist(), strict=True)
    for number, (arrival, prompt, output) in enumerate(columns):
        own = [f"{number}.{block}" for block in range(math.ceil(prompt / replay.block_tokens))]
        ids = own if replay.blocks is None else replay.blocks[number]
        rows.append(
            {
                "timestamp": arrival,
                "input_length": prompt,
                "output_length": output,
                "hash_ids": [f"{label}/{block}" for block in ids],
            }
        )
    files.write_jsonl(path, rows)
