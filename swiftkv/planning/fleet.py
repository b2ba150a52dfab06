"""A fleet of engines over a stream of requests: who is served when, and how many keep the latency limits.

Steps take what the roofline says, the policy is that of `simulator`. No wall clock, no randomness.
"""

import numpy as np

from swiftkv.planning import simulator
from swiftkv.planning.simulator import NOBODY, Cost, Limits, Served
from swiftkv.workloads.traffic import Requests

CELL = 8  # engines that stand for a larger fleet


def simulate(cost: Cost, limits: Limits, requests: Requests, engines: int, cached: np.ndarray | None = None) -> Served:
    """Serve `requests` on `engines` engines with one shared queue policy; exact for the assumptions above.

    `cached`: prompt tokens of each request that every engine's prefix cache holds, fewer than its prompt has.
    """
    count = len(requests.arrival)

    def whole(fill: int = 0) -> np.ndarray:
        return np.full(engines, fill, dtype=np.int64)

    fit = requests.prompt + requests.output <= limits.kv_tokens
    due = np.full((engines, int(requests.output[fit].max(initial=1)) + 1), NOBODY, dtype=np.int64)
    lists = (whole(NOBODY), whole(NOBODY))
    state = simulator.Engines(np.zeros(engines), *lists, *(whole() for _ in range(6)), due)
    cached = np.zeros(count, dtype=np.int64) if cached is None else cached
    progress = simulator.Progress(np.full(count, NOBODY, dtype=np.int64), np.zeros(count, dtype=np.int64), cached)
    served = Served(np.full(count, np.inf), np.full(count, np.inf), np.zeros(engines))
    simulator.run(cost, limits, state, requests, progress, served)
    return served


def ttft(requests: Requests, served: Served) -> np.ndarray:
    """Seconds from arrival to first token, queueing included; infinite for a refused request."""
    return served.first - requests.arrival


def tpot(requests: Requests, served: Served) -> np.ndarray:
    """Seconds per output token after the first; 0 for a request of one token, infinite for a refused one."""
    refused = np.isinf(served.end)
    spent = np.where(refused, np.inf, np.where(refused, 0, served.end) - np.where(refused, 0, served.first))
    return np.where((requests.output == 1) & ~refused, 0.0, spent / np.maximum(requests.output - 1, 1))


def attainment(requests: Requests, served: Served, slo_ttft: float, slo_tpot: float) -> float:
    """Share of the requests that meet both limits, in seconds; refused requests miss them."""
    return float(np.mean((ttft(requests, served) <= slo_ttft) & (tpot(requests, served) <= slo_tpot)))
