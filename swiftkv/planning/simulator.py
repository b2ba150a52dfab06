"""Compiled: seconds of an engine step, and engines that serve a stream of requests step by step.

Each engine runs vLLM's default policy: a step holds one token of every running sequence and fills up to its token
budget with prompts, first come first served, in chunks. A request is admitted when the KV cache has room for its prompt
and its whole output, so nothing is ever preempted. A request goes to the engine with the fewest unfinished requests.

All of it is one module because numba's cache notices changes of a function's own file alone. In compiled functions c is
a Cost, e the Engines, r the Requests, p their PromptProgress, s the ServedTimes; g counts engines, i requests.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

NOBODY = -1


class Cost(NamedTuple):
    """A model's parts on a machine. FLOPs and weight bytes of `early` (what every token runs: layers 1..l and K, V of
    the later groups), `late` and `vocab` (tokens with logits); of attention per position and layer. Compiled code
    takes it as it is."""

    early_flops: float
    early_bytes: float
    late_flops: float
    late_bytes: float
    vocab_flops: float
    vocab_bytes: float
    attention_flops: float
    kv_read_bytes: float
    kv_write_bytes: float
    early_layers: float
    late_layers: float
    curve_tokens: np.ndarray
    curve_flops: np.ndarray
    attention_rate: float
    bandwidth: float
    write_bandwidth: float
    overhead_s: float


class Limits(NamedTuple):
    """Of one engine: tokens of a step, sequences at once, tokens in the KV cache."""

    step_tokens: int
    sequences: int
    kv_tokens: int


class ServedTimes(NamedTuple):
    """Seconds at which each request had its first and its last token (infinite if refused: longer than the KV cache),
    and per engine the seconds spent in steps."""

    first: np.ndarray
    end: np.ndarray
    busy: np.ndarray


class Engines(NamedTuple):
    """State, one entry per engine: its clock, the queue of prompts (first, last), unfinished requests, sequences that
    decode, the positions they attend to, sequences and tokens that hold KV, steps, and for each coming step modulo the
    longest output the first of the requests that end there."""

    clock: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    load: np.ndarray
    running: np.ndarray
    contexts: np.ndarray
    held: np.ndarray
    kv: np.ndarray
    steps: np.ndarray
    due: np.ndarray


class PromptProgress(NamedTuple):
    """One entry per request: the next one in its list, the prompt tokens done (both state), and how many of them the
    prefix cache holds."""

    following: np.ndarray
    prefilled: np.ndarray
    cached: np.ndarray


@njit(cache=True)
def step_parts(c, tokens, late_tokens, positions, late_positions):
    """FLOPs of a step: of every token, of tokens with logits, of the vocabulary, of early and late attention."""
    return (
        c.early_flops * tokens,
        c.late_flops * late_tokens,
        c.vocab_flops * late_tokens,
        c.attention_flops * c.early_layers * positions,
        c.attention_flops * c.late_layers * late_positions,
    )


@njit(cache=True)
def rate_at(tokens, curve_tokens, curve_flops):
    """FLOP/s at a count of tokens; `np.interp`, whose compiled form allocates arrays in every step."""
    i = np.searchsorted(curve_tokens, tokens)
    if i == 0 or i == len(curve_tokens):
        return curve_flops[max(0, i - 1)]
    share = (tokens - curve_tokens[i - 1]) / (curve_tokens[i] - curve_tokens[i - 1])
    return curve_flops[i - 1] + share * (curve_flops[i] - curve_flops[i - 1])


@njit(cache=True)
def step_seconds(c, tokens, late_tokens, positions, late_positions, reads, late_reads):
    """Seconds of a step of `tokens`, of which `late_tokens` yield logits. `positions` are those attended to, summed
    over tokens; `reads` the cached positions read, summed over sequences (a chunk of a prompt reads each once)."""
    early, late, vocab, attention, late_attention = step_parts(c, tokens, late_tokens, positions, late_positions)
    rate = rate_at(tokens, c.curve_tokens, c.curve_flops)
    seconds = c.overhead_s + tokens * c.kv_write_bytes / c.write_bandwidth
    seconds += max(early / rate, c.early_bytes / c.bandwidth)
    seconds += max(attention / c.attention_rate, c.kv_read_bytes * c.early_layers * reads / c.bandwidth)
    if late_tokens:
        late_rate = rate_at(late_tokens, c.curve_tokens, c.curve_flops)
        seconds += max(late / late_rate, c.late_bytes / c.bandwidth)
        seconds += max(vocab / late_rate, c.vocab_bytes / c.bandwidth)
        seconds += max(late_attention / c.attention_rate, c.kv_read_bytes * c.late_layers * late_reads / c.bandwidth)
    return seconds


@njit(cache=True)
def _admit(limits, e, r, g, i):
    # Room for the whole answer is taken at once, where vLLM takes blocks as it goes and preempts when they run out.
    size = r.prompt[i] + r.output[i]
    if e.held[g] >= limits.sequences or e.kv[g] + size > limits.kv_tokens:
        return False
    e.held[g] += 1
    e.kv[g] += size
    return True


@njit(cache=True)
def _prefill(limits, e, r, p, g):
    """Give the step's free tokens to queued prompts. Returns tokens, prompts done, positions attended to, those of the
    prompts done, and cached positions read."""
    room, tokens, done, positions, done_positions, reads = limits.step_tokens - e.running[g], 0, 0, 0, 0, 0
    i = e.head[g]
    while i != NOBODY and room > 0:
        start = p.prefilled[i]
        if start == 0:
            if not _admit(limits, e, r, g, i):
                break  # first come, first served: nobody overtakes a prompt that does not fit yet
            start = p.cached[i]
        chunk = min(room, r.prompt[i] - start)
        p.prefilled[i], room, tokens = start + chunk, room - chunk, tokens + chunk
        # Causal: the chunk's tokens see what came before, and each other up to themselves.
        positions += chunk * start + chunk * (chunk + 1) // 2
        reads += start + chunk
        if start + chunk == r.prompt[i]:
            done, done_positions = done + 1, done_positions + r.prompt[i]
        i = p.following[i]
    return tokens, done, positions, done_positions, reads


@njit(cache=True)
def _finish(e, r, s, g, i):
    s.end[i] = e.clock[g]
    e.load[g] -= 1
    e.held[g] -= 1
    e.kv[g] -= r.prompt[i] + r.output[i]


@njit(cache=True)
def _start_decoding(e, r, p, s, g):
    """First tokens of the prompts that are done; each is listed under the step of its last token."""
    while e.head[g] != NOBODY and p.prefilled[e.head[g]] == r.prompt[e.head[g]]:
        i = e.head[g]
        e.head[g] = p.following[i]
        s.first[i] = e.clock[g]
        if r.output[i] == 1:
            _finish(e, r, s, g, i)
            continue
        # The end is known, so requests lie in lists by the step in which they end and no step looks at all of them.
        slot = (e.steps[g] + r.output[i] - 1) % e.due.shape[1]
        p.following[i], e.due[g, slot] = e.due[g, slot], i
        e.running[g] += 1
        e.contexts[g] += r.prompt[i]


@njit(cache=True)
def _retire(e, r, p, s, g):
    """End the requests whose last token this step made."""
    slot = e.steps[g] % e.due.shape[1]
    i = e.due[g, slot]
    e.due[g, slot] = NOBODY
    while i != NOBODY:
        e.running[g] -= 1
        e.contexts[g] -= r.prompt[i] + r.output[i] - 1
        _finish(e, r, s, g, i)
        i = p.following[i]


@njit(cache=True)
def _step(c, limits, e, r, p, s, g):
    e.contexts[g] += e.running[g]  # every running sequence attends to one position more than in the step before
    running, contexts = e.running[g], e.contexts[g]
    tokens, done, positions, done_positions, reads = _prefill(limits, e, r, p, g)
    # Late layers see running sequences and the last token of prompts that are done, each with its whole context; such a
    # token reads as many positions as it attends to.
    late = contexts + done_positions
    seconds = step_seconds(c, running + tokens, running + done, contexts + positions, late, contexts + reads, late)
    e.clock[g] += seconds
    s.busy[g] += seconds
    # In this order: a prompt that this step finished decodes from the next step on.
    _retire(e, r, p, s, g)
    _start_decoding(e, r, p, s, g)
    e.steps[g] += 1


@njit(cache=True)
def _join(e, r, p, i, g):
    """Put request i at the end of engine g's queue."""
    if e.load[g] == 0:  # idle until now; a busy engine's clock is already past this arrival
        e.clock[g] = max(e.clock[g], r.arrival[i])
    if e.head[g] == NOBODY:
        e.head[g] = i
    else:
        p.following[e.tail[g]] = i
    e.tail[g] = i
    e.load[g] += 1


@njit(cache=True)
def _shortest(e, i):
    """The engine with the fewest unfinished requests; of equals, the next in turn."""
    engines = len(e.load)
    best = i % engines
    for offset in range(1, engines):
        g = (i + offset) % engines
        if e.load[g] < e.load[best]:
            best = g
    return best


@njit(cache=True, nogil=True)
def run(c, limits, e, r, p, s):
    for i in range(len(r.arrival)):
        # All engines up to this arrival first, since whom it goes to depends on their loads then.
        for g in range(len(e.load)):
            while e.load[g] and e.clock[g] < r.arrival[i]:
                _step(c, limits, e, r, p, s, g)
        if r.prompt[i] + r.output[i] <= limits.kv_tokens:  # else refused: its times stay infinite
            _join(e, r, p, i, _shortest(e, i))
    for g in range(len(e.load)):
        while e.load[g]:
            _step(c, limits, e, r, p, s, g)
