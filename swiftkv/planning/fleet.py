"""A fleet of engines over a stream of requests: who is served when, and how many keep the latency limits.

Steps take what the roofline says, the policy is that of `simulator`. No wall clock, no randomness.
"""

import numpy as np

from swiftkv.planning import simulator
from swiftkv.planning.simulator import NOBODY, Cost, Limits, ServedTimes
from swiftkv.workloads.traffic import Requests

CELL = 8  # engines that stand for a larger fleet


def simulate(
    cost: Cost, limits: Limits, requests: Requests, engines: int, cached: np.ndarray | None = None
) -> ServedTimes:
    """Serve `requests` on `engines` engines with one shared queue policy; exact for the assumptions above.

    `cached`: prompt tokens of each request that every engine's prefix cache holds, fewer than its prompt has.
    """

    def integers(shape: int | tuple, fill: int = 0) -> np.ndarray:
        return np.full(shape, fill, dtype=np.int64)

    count, fit = len(requests.arrival), requests.prompt + requests.output <= limits.kv_tokens
    state = simulator.Engines(
        clock=np.zeros(engines),
        head=integers(engines, NOBODY),
        tail=integers(engines, NOBODY),
        load=integers(engines),
        running=integers(engines),
        contexts=integers(engines),
        held=integers(engines),
        kv=integers(engines),
        steps=integers(engines),
        # One entry more than the longest output: a slot is empty again before a later step needs it.
        due=integers((engines, int(requests.output[fit].max(initial=1)) + 1), NOBODY),
    )
    cached = integers(count) if cached is None else cached
    progress = simulator.PromptProgress(following=integers(count, NOBODY), prefilled=integers(count), cached=cached)
    served = ServedTimes(first=np.full(count, np.inf), end=np.full(count, np.inf), busy=np.zeros(engines))
    simulator.run(cost, limits, state, requests, progress, served)
    return served


def ttft(requests: Requests, served: ServedTimes) -> np.ndarray:
    """Seconds from arrival to first token, queueing included; infinite for a refused request."""
    return served.first - requests.arrival


def tpot(requests: Requests, served: ServedTimes) -> np.ndarray:
    """Seconds per output token after the first; 0 for a request of one token, infinite for a refused one."""
    refused = np.isinf(served.end)  # set apart, since infinity less infinity is not a number
    spent = np.where(refused, np.inf, np.where(refused, 0, served.end) - np.where(refused, 0, served.first))
    return np.where((requests.output == 1) & ~refused, 0.0, spent / np.maximum(requests.output - 1, 1))


def attainment(requests: Requests, served: ServedTimes, slo_ttft: float, slo_tpot: float) -> float:
    """Share of the requests that meet both limits, in seconds; refused requests miss them."""
    return float(np.mean((ttft(requests, served) <= slo_ttft) & (tpot(requests, served) <= slo_tpot)))
