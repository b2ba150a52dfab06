"""Latency, rates and goodput of one measurement, with the formulae of vLLM's benchmark client.

They are computed from the times of every request that the client took, not read from its report, so that other limits
of the SLO need no new measurement.
"""

import numpy as np

from swiftkv.bench.served.loads import UNITS, Load
from swiftkv.config.measuring import Slo
from swiftkv.errors import UserError

PERCENTILES = (50, 90, 99)
SERIES = ("start_s", "ttft_s", "e2el_s", "itl_s", "prompt_tokens", "output_tokens")  # one entry per request
KEYS = ("point", "kind", "load", "arm", "round")


def measurement(load: Load, arm: str, number: int, result: dict, what: str) -> dict:
    """The measurement that the client's `result` reports. Times in seconds; `start_s` from the first request on.

    Raises UserError if a request had another length than it should: arms would not be comparable.
    """
    for name, expected, actual in (
        ("prompt", load.prompt, result["input_lens"]),
        ("output", load.output, result["output_lens"]),
    ):
        if list(expected) != list(actual):
            raise UserError(f"served {what}: {sum(actual)} {name} tokens instead of {sum(expected)}")
    first, replay = min(result["start_times"]), load.replay
    return {
        "point": load.point,
        "kind": load.kind,
        "load": load.value,
        "arm": arm,
        "round": number,
        "burstiness": load.burstiness if load.kind == "rate" else None,
        "time_scale": replay and replay.speed,
        "length_scale": replay and replay.length_scale,
        "source": replay and replay.source,
        "reusable": replay and replay.reusable,
        "duration_s": result["duration"],
        "start_s": [start - first for start in result["start_times"]],
        "ttft_s": result["ttfts"],
        "e2el_s": result["latencies"],
        "itl_s": result["itls"],
        "prompt_tokens": result["input_lens"],
        "output_tokens": result["output_lens"],
    }


def requests(measured: dict) -> list[dict]:
    """Rows of requests.jsonl.gz of one measurement."""
    keys = {name: measured[name] for name in KEYS}
    columns = zip(*(measured[name] for name in SERIES), strict=True)
    return [keys | {"request": n} | dict(zip(SERIES, values, strict=True)) for n, values in enumerate(columns)]


def tpot(measured: dict) -> np.ndarray:
    """Seconds per output token after the first of each request, [requests]; 0 where there is one alone."""
    ttft, e2el, tokens = (np.asarray(measured[name], dtype=float) for name in ("ttft_s", "e2el_s", "output_tokens"))
    return np.where(tokens > 1, (e2el - ttft) / np.maximum(tokens - 1, 1), 0.0)


def good(measured: dict, slo: Slo) -> int:
    """Requests within both limits."""
    return int(np.sum((np.asarray(measured["ttft_s"]) <= slo.ttft_s) & (tpot(measured) <= slo.tpot_s)))


def percentiles(name: str, values) -> dict:
    """`<name>_p50_s` and so on; None where there are no values."""
    at = np.percentile(values, PERCENTILES).tolist() if len(values) else [None] * len(PERCENTILES)
    return {f"{name}_p{q}_s": value for q, value in zip(PERCENTILES, at, strict=True)}


def offered(measured: dict) -> float | None:
    """Requests per second as they were sent; None of a closed loop, where answers set the pace, or of one request."""
    span, count = max(measured["start_s"]), len(measured["start_s"])
    return (count - 1) / span if measured["kind"] != "concurrency" and span > 0 else None


def row(measured: dict, slo: Slo) -> dict:
    """A row of served.jsonl. TPOT's percentiles leave out requests of one output token, ITL's are over all gaps."""
    count, seconds, within = len(measured["ttft_s"]), measured["duration_s"], good(measured, slo)
    prompt, output = sum(measured["prompt_tokens"]), sum(measured["output_tokens"])
    queries = measured["cache_queries"]
    return {
        "point": measured["point"],
        "kind": measured["kind"],
        "load": measured["load"],
        "arm": measured["arm"],
        "round": measured["round"],
        "position": measured.get("position"),
        "load_unit": UNITS[measured["kind"]],
        "requests": count,
        "duration_s": seconds,
        "offered_per_s": offered(measured),
        "requests_per_s": count / seconds,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "total_tokens_per_s": (prompt + output) / seconds,
        "attainment": within / count,
        "goodput_per_s": within / seconds,
        **percentiles("ttft", measured["ttft_s"]),
        **percentiles("tpot", tpot(measured)[np.asarray(measured["output_tokens"]) > 1]),
        **percentiles("itl", [gap for gaps in measured["itl_s"] for gap in gaps]),
        **percentiles("e2el", measured["e2el_s"]),
        "burstiness": measured["burstiness"],
        "time_scale": measured["time_scale"],
        "length_scale": measured["length_scale"],
        "source": measured["source"],
        "reusable": measured["reusable"],
        "cache_hit_share": measured["cache_hits"] / queries if queries else None,
    }
