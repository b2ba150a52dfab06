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
NAMED = ("point", "kind", "load", "arm", "round")


def kept(load: Load, arm: str, number: int, seen: dict, what: str) -> dict:
    """The measurement that `seen`, the client's result, reports. Times in seconds; `start_s` from the first request on.

    Raises UserError if a request had another length than it should: arms would not be comparable.
    """
    for name, wanted, got in (
        ("prompt", load.prompt, seen["input_lens"]),
        ("output", load.output, seen["output_lens"]),
    ):
        if list(wanted) != list(got):
            raise UserError(f"served {what}: {sum(got)} {name} tokens instead of {sum(wanted)}")
    begun = min(seen["start_times"])
    replay = load.replay
    return {
        **dict(zip(NAMED, (load.point, load.kind, load.value, arm, number), strict=True)),
        "burstiness": load.burstiness if load.kind == "rate" else None,
        "time_scale": replay and replay.speed,
        "length_scale": replay and replay.length_scale,
        "source": replay and replay.source,
        "reusable": replay and replay.reusable,
        "duration_s": seen["duration"],
        "start_s": [start - begun for start in seen["start_times"]],
        **{"ttft_s": seen["ttfts"], "e2el_s": seen["latencies"], "itl_s": seen["itls"]},
        **{"prompt_tokens": seen["input_lens"], "output_tokens": seen["output_lens"]},
    }


def requests(measured: dict) -> list[dict]:
    """Rows of requests.jsonl.gz of one measurement."""
    named = {name: measured[name] for name in NAMED}
    columns = zip(*(measured[name] for name in SERIES), strict=True)
    return [named | {"request": n} | dict(zip(SERIES, values, strict=True)) for n, values in enumerate(columns)]


def tpot(measured: dict) -> np.ndarray:
    """Seconds per output token after the first of each request, [requests]; 0 where there is one alone."""
    ttft, e2el, tokens = (np.asarray(measured[name], dtype=float) for name in ("ttft_s", "e2el_s", "output_tokens"))
    return np.where(tokens > 1, (e2el - ttft) / np.maximum(tokens - 1, 1), 0.0)


def good(measured: dict, slo: Slo) -> int:
    """Requests within both limits."""
    return int(np.sum((np.asarray(measured["ttft_s"]) <= slo.ttft_s) & (tpot(measured) <= slo.tpot_s)))


def percentiles(name: str, values) -> dict:
    """`<name>_p50_s` and so on; None where there are no values."""
    found = np.percentile(values, PERCENTILES).tolist() if len(values) else [None] * len(PERCENTILES)
    return {f"{name}_p{q}_s": value for q, value in zip(PERCENTILES, found, strict=True)}


def offered(measured: dict) -> float | None:
    """Requests per second as they were sent; None of a closed loop, where answers set the pace, or of one request."""
    span, count = max(measured["start_s"]), len(measured["start_s"])
    return (count - 1) / span if measured["kind"] != "concurrency" and span > 0 else None


def row(measured: dict, slo: Slo) -> dict:
    """A row of served.jsonl. TPOT's percentiles leave out requests of one output token, ITL's are over all gaps."""
    count, seconds, within = len(measured["ttft_s"]), measured["duration_s"], good(measured, slo)
    prompt, output = sum(measured["prompt_tokens"]), sum(measured["output_tokens"])
    queries = measured["cache_queries"]
    times = {"ttft": measured["ttft_s"], "tpot": tpot(measured)[np.asarray(measured["output_tokens"]) > 1]}
    times |= {"itl": [gap for gaps in measured["itl_s"] for gap in gaps], "e2el": measured["e2el_s"]}
    return {
        **{name: measured[name] for name in NAMED},
        "position": measured.get("position"),
        **{"load_unit": UNITS[measured["kind"]], "requests": count, "duration_s": seconds},
        **{"offered_per_s": offered(measured), "requests_per_s": count / seconds},
        **{"prompt_tokens": prompt, "output_tokens": output, "total_tokens_per_s": (prompt + output) / seconds},
        **{"attainment": within / count, "goodput_per_s": within / seconds},
        **{key: value for name, values in times.items() for key, value in percentiles(name, values).items()},
        **{name: measured[name] for name in ("burstiness", "time_scale", "length_scale", "source", "reusable")},
        "cache_hit_share": measured["cache_hits"] / queries if queries else None,
    }


def check_section(config) -> None:
    """Raise UserError if there is no `served` section."""
    if config.served is None:
        raise UserError(f"{config.path}: no key 'served'; config/served.yaml has one")
