"""TTFT and TPOT at concurrency 1: live engines of all arms, request by request in turn.

TTFT is the time from a request's arrival to its first token; TPOT = (latency - TTFT) / (output_len - 1), in seconds,
both from vLLM's own request metrics. Ratios to the base are taken within a round, in which every arm serves the same
request once; comparisons across processes scattered by 25% where this one does by a few percent.
"""

from statistics import median

from swiftkv import stats
from swiftkv.config import BASE_ARM
from swiftkv.errors import UserError

NAME = "latency"  # of the rounds in the work directory


def measure(config, rounds, fleet) -> list[dict]:
    """Measure every round that is not there yet; rows of latency.jsonl: one per arm and round."""
    load, wanted = lengths(config), config.throughput.latency.rounds
    for number in range(wanted):
        if not rounds.attempts(NAME, number):
            one = measure_one(config, load, number, fleet)
            rounds.measure(NAME, number, one)
            print(f"latency round {number + 1} of {wanted} done", flush=True)
    return [row for number in range(wanted) for row in rounds.read(NAME, number)]


def lengths(config) -> dict:
    """Prompt and output tokens of the request."""
    section = config.throughput.latency
    return {"input_len": section.input_len, "output_len": section.output_len}


def measure_one(config, load: dict, number: int, fleet):
    """A function that serves round `number`'s request on the arm it is given."""

    def measure_arm(arm: str) -> dict:
        run = fleet[arm].run(**load, num_requests=1, seed=config.seed + number)
        if run.failed or len(run.ttft_s) != 1 or len(run.tpot_s) != 1:
            raise UserError(f"latency, arm {arm}, round {number}: the request failed")
        if (run.prompt_tokens, run.output_tokens) != (load["input_len"], load["output_len"]):
            got = f"{run.prompt_tokens} prompt and {run.output_tokens} output tokens"
            raise UserError(f"latency, arm {arm}, round {number}: {got} instead of {load}")
        return {"arm": arm, "round": number, "ttft_s": run.ttft_s[0], "tpot_s": run.tpot_s[0], **load}

    return measure_arm


def summarise(rows: list[dict], seed: int) -> list[dict]:
    """Rows of latency.csv: medians, and ratios to the base (below 1 is faster) with their intervals over the rounds."""
    arms = list(dict.fromkeys(row["arm"] for row in sorted(rows, key=lambda row: (row["round"], row["position"]))))
    times = {
        (arm, name): [row[name] for row in sorted(rows, key=lambda row: row["round"]) if row["arm"] == arm]
        for arm in arms
        for name in ("ttft_s", "tpot_s")
    }
    return [summary_row(times, arm, seed) for arm in arms]


def summary_row(times: dict, arm: str, seed: int) -> dict:
    """One row of latency.csv from the times per arm and quantity, in the order of the rounds."""
    ratio, low, high = stats.ratio_ci(times[arm, "tpot_s"], times[BASE_ARM, "tpot_s"], seed)
    ttft_ratio, ttft_low, ttft_high = stats.ratio_ci(times[arm, "ttft_s"], times[BASE_ARM, "ttft_s"], seed)
    return {
        **{"arm": arm, "ttft_median_s": median(times[arm, "ttft_s"]), "tpot_median_s": median(times[arm, "tpot_s"])},
        **{"tpot_ratio": ratio, "ci_low": low, "ci_high": high},
        **{"ttft_ratio": ttft_ratio, "ttft_ci_low": ttft_low, "ttft_ci_high": ttft_high},
        "rounds": len(times[arm, "tpot_s"]),
    }
