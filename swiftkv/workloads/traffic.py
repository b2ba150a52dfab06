"""A stream of requests made from a public trace: its hour repeated to a day, scaled, and thinned to a part of a fleet.

Scaled traffic is a superposition of independent copies: each request of the trace appears a Poisson number of times,
each copy up to JITTER_S before or after the original. Rates then follow the trace from minute to minute, and any part
of the fleet sees the same process at its share of the rate, which is what makes its engines exchangeable.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swiftkv.errors import UserError
from swiftkv.workloads import traces

JITTER_S = 30.0
LATEST_S = 1e12  # beyond every date; a float still tells microseconds apart
SHORTEST_S = 1.0  # a shorter trace would be repeated 86,400 times a day or more
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
BLOCK_FIELD = "hash_ids"
OWN = ("arrival_s", "prompt_tokens", "output_tokens")


class Requests(NamedTuple):
    """One entry per request, ordered by arrival: seconds, prompt tokens, output tokens (each at least 1)."""

    arrival: np.ndarray
    prompt: np.ndarray
    output: np.ndarray


@dataclass(frozen=True)
class Traffic:
    """Requests of a trace, `span_s` seconds of them, and in words where they are from and what was made of them.

    `blocks`: ids of each request's prompt blocks, equal where the text is, of a trace that has them (Mooncake).
    """

    name: str
    source: str
    requests: Requests
    span_s: float
    blocks: list[list[int]] | None = None


def read(name: str, mirror: Path | None = None, seed: int = 0) -> Traffic:
    """A known trace (from `mirror`, else from the committed quantiles) or a CSV file with the columns arrival_s,
    prompt_tokens, output_tokens. Raises UserError for an unknown name, a missing file or a malformed row."""
    known = traces.known_traces()
    if name in known and mirror is not None:
        return _published(known[name], mirror)
    if name in known:
        return _from_quantiles(known[name], seed)
    if not name.endswith(".csv"):
        raise UserError(f"--trace {name!r}: not known; allowed are {', '.join(known)}, or a .csv file")
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file")
    trace = traces.Trace(name, name, OWN[1], OWN[2], "", "", "", "", OWN[0], "")
    return _parsed(trace, Path(name).read_bytes(), name, "the file given")


def _published(trace: traces.Trace, mirror: Path) -> Traffic:
    data, where = trace.pinned.fetch(mirror)
    trace.pinned.verify(data, where)
    return _parsed(trace, data, where, f"{trace.origin} (arrival times and lengths)")


def _parsed(trace: traces.Trace, data: bytes, where: str, source: str) -> Traffic:
    rows = traces.rows_of(data, where)
    prompts, outputs = traces.lengths_of(trace, rows, where)
    arrivals = [traces.field(row, trace.time_field, f"{where}:{number}") for number, row in rows]
    places = [f"{where}:{number}: {trace.time_field}" for number, _ in rows]
    times = np.array([_seconds(text, place) for text, place in zip(arrivals, places, strict=True)])
    served = outputs > 0
    if not served.any():
        raise UserError(f"{where}: no request has output tokens, so there is nothing to plan for")
    span = float(np.ptp(times))  # of all requests: those that failed came, too
    if span <= 0:
        raise UserError(f"{where}: all requests arrive at once; the rate cannot be told")
    blocks = [rows[i][1].get(BLOCK_FIELD) for i in np.argsort(times, kind="stable") if served[i]]
    requests = _ordered((times - times.min())[served], prompts[served], outputs[served])
    known = [isinstance(ids, list) and all(type(block) is int for block in ids) for ids in blocks]
    failed, total, empty = int((~served).sum()), len(rows), int((prompts[served] == 0).sum())
    late, local = int((times < np.maximum.accumulate(times)).sum()), _without_offset(arrivals)
    source += _changes(
        {
            f"{failed:,} of {total:,} requests, without output tokens, are left out as failed": failed,
            f"{empty:,} without prompt tokens count as one token of prompt": empty,
            f"{late:,} of {total:,} requests, which stand after later ones, are put in order": late,
            f"{local:,} of {total:,} times, which name no offset from UTC as the others do, are taken for UTC": local,
            f"{BLOCK_FIELD} are not used: {known.count(False):,} of {len(known):,} requests have no list of whole "
            "numbers there": not all(known) and any(ids is not None for ids in blocks),
        }
    )
    return Traffic(trace.workload, source, requests, span, blocks if all(known) else None)


def _changes(said: dict[str, int]) -> str:
    """What was made of a trace's requests, in words: those said of none are left out."""
    return "".join(f"; {words}" for words, count in said.items() if count)


def _without_offset(arrivals: list) -> int:
    """How many times are dates without an offset from UTC, where others have one: the clock may be another."""
    dates = [text for text in arrivals if isinstance(text, str) and not NUMBER.fullmatch(text)]
    local = sum(datetime.fromisoformat(text).tzinfo is None for text in dates)
    return local if local < len(dates) else 0


def _seconds(text, where: str) -> float:
    """Mooncake's integer milliseconds, seconds, or a date and time as ISO 8601 has it: of any fraction, with its
    offset from UTC, and of UTC where it names none."""
    value = np.nan
    with suppress(TypeError, ValueError, OverflowError):
        if isinstance(text, int):
            value = np.nan if isinstance(text, bool) else text / 1e3
        elif isinstance(text, float) or NUMBER.fullmatch(text):
            value = float(text)
        else:
            moment = datetime.fromisoformat(text)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(value) < LATEST_S:
        raise UserError(f"{where} is {str(text)[:60]!r}; allowed are seconds or a date and time")
    return value


def _from_quantiles(trace: traces.Trace, seed: int) -> Traffic:
    """Prompt and output lengths drawn independently from the committed quantiles, arrivals uniform over the span."""
    lengths, rng = traces.from_committed(trace), np.random.default_rng(seed)
    count = int(lengths.row["requests"])

    def draw(quantity: str) -> np.ndarray:
        grid = [(row["q"], row["tokens"]) for row in lengths.quantiles if row["quantity"] == quantity]
        return np.interp(rng.random(count), *zip(*grid, strict=True)).round().astype(np.int64)

    span = float(trace.span_s)
    requests = _ordered(rng.uniform(0, span, count), draw("prompt"), draw("output"))
    return Traffic(trace.workload, "committed quantiles: lengths drawn independently, Poisson arrivals", requests, span)


def _ordered(times: np.ndarray, prompts: np.ndarray, outputs: np.ndarray) -> Requests:
    """By arrival; a request without prompt counts as one token of it."""
    order = np.argsort(times, kind="stable")
    return Requests(times[order], np.maximum(prompts, 1)[order], outputs[order])


def scaled(traffic: Traffic, hours: float, factor: float, seed: int = 0) -> Requests:
    """`hours` of the trace, repeated end to end, at `factor` times its rate. Raises UserError for a trace too short to
    be repeated."""
    if traffic.span_s < SHORTEST_S:
        raise UserError(
            f"{traffic.name}: {traffic.span_s:.2g} s lie between the first request and the last; allowed is "
            f"{SHORTEST_S:g} s or more, since the trace is repeated to {hours:g} h"
        )
    rng, trace, seconds = np.random.default_rng(seed), traffic.requests, hours * 3600
    parts = []
    for start in np.arange(0, seconds, traffic.span_s):
        copies = rng.poisson(factor, len(trace.arrival))
        times = np.repeat(trace.arrival, copies)
        times += start + rng.uniform(-JITTER_S, JITTER_S, len(times))
        within = (times >= 0) & (times < seconds)
        parts.append((times[within], np.repeat(trace.prompt, copies)[within], np.repeat(trace.output, copies)[within]))
    return _ordered(*(np.concatenate(column) for column in zip(*parts, strict=True)))
