"""TTFT and TPOT at concurrency 1: live engines of all arms, request by request in turn.

TTFT is the time from a request's arrival to its first token; TPOT = (latency - TTFT) / (output_len - 1), in seconds,
both from vLLM's own request metrics. Ratios to the base are taken within a round, in which every arm serves the same
request once; comparisons across processes scattered by 25% where this one does by a few percent.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from swiftkv import stats
from swiftkv.bench.conditions import noise
from swiftkv.bench.plan import LATENCY, ThroughputPlan
from swiftkv.bench.rounds import Rounds, count_processes, processes
from swiftkv.config import BASE_ARM
from swiftkv.engines.arms import BatchResult, LiveEngines
from swiftkv.engines.settings import Batch
from swiftkv.errors import UserError


def measure(plan: ThroughputPlan, rounds: Rounds, engines: LiveEngines, restart: int) -> None:
    """Measure every round of process `restart` that is not there yet. Raises UserError for a request that failed or had
    other lengths."""
    for number in plan.dealt(restart, plan.latency_rounds):
        if not rounds.has(LATENCY, number):
            measure_round(plan, number, rounds, engines, restart)
            print(f"latency round {number + 1} of {plan.latency_rounds} done", flush=True)


def read(plan: ThroughputPlan, rounds: Rounds) -> list[dict]:
    """Rows of latency.jsonl: one per arm and round."""
    return [row for number in range(plan.latency_rounds) for row in rounds.read(LATENCY, number)]


def measure_round(plan: ThroughputPlan, number: int, rounds: Rounds, engines: LiveEngines, restart: int) -> None:
    """Serve one request on every arm, the same on all."""

    def measure_arm(arm: str) -> dict:
        result = engines[arm].run(plan.latency, seed=plan.request_seed(number))
        return to_row(arm, number, plan.latency, result) | {"restart": restart}

    engines.ready()
    rounds.measure(LATENCY, number, measure_arm)


def to_row(arm: str, number: int, batch: Batch, result: BatchResult) -> dict:
    """A row of latency.jsonl from the result of round `number`."""
    where = f"latency, arm {arm}, round {number}"
    if result.failed or len(result.ttft_s) != 1 or len(result.tpot_s) != 1:
        raise UserError(f"{where}: the request failed")
    if (result.prompt_tokens, result.output_tokens) != (batch.input_len, batch.output_len):
        actual = f"{result.prompt_tokens} prompt and {result.output_tokens} output tokens"
        raise UserError(f"{where}: {actual} instead of {batch.input_len} and {batch.output_len}")
    return {
        "arm": arm,
        "round": number,
        "ttft_s": result.ttft_s[0],
        "tpot_s": result.tpot_s[0],
        "input_len": batch.input_len,
        "output_len": batch.output_len,
    }


def summarise(rows: list[dict], arms: Sequence[str], seed: int, interval: str | None = stats.T_OF_LOGS) -> list[dict]:
    """Rows of latency.csv, of those of `arms` that were measured: medians, and ratios to the base (below 1 is faster)
    with their intervals (one of `stats.RATIO_INTERVALS`) over the rounds."""
    by_arm = {arm: sorted((r for r in rows if r["arm"] == arm), key=lambda row: row["round"]) for arm in arms}
    ratio = partial(stats.RATIO_INTERVALS[interval], seed=seed)
    return [
        summary_row(arm, its, by_arm[BASE_ARM], ratio) | {"interval": interval, **noise(rows)}
        for arm, its in by_arm.items()
        if its
    ]


def summary_row(arm: str, rows: list[dict], base_rows: list[dict], ratio: Callable) -> dict:
    """One row of latency.csv from the rows of an arm and of the base, both in the order of the rounds."""
    ttft_s, tpot_s = ([row[name] for row in rows] for name in ("ttft_s", "tpot_s"))
    groups = processes(rows, arm)
    tpot_ratio, tpot_low, tpot_high = ratio(tpot_s, [row["tpot_s"] for row in base_rows], groups=groups)
    ttft_ratio, ttft_low, ttft_high = ratio(ttft_s, [row["ttft_s"] for row in base_rows], groups=groups)
    return {
        "arm": arm,
        "ttft_median_s": median(ttft_s),
        "tpot_median_s": median(tpot_s),
        "tpot_ratio": tpot_ratio,
        "ci_low": tpot_low,
        "ci_high": tpot_high,
        "ttft_ratio": ttft_ratio,
        "ttft_ci_low": ttft_low,
        "ttft_ci_high": ttft_high,
        "rounds": len(rows),
        "restarts": count_processes(rows),
    }
