"""From rows of served.jsonl to each arm's latency against the base, and to the load up to which it keeps the SLO."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median

from swiftkv import stats
from swiftkv.bench.served.metrics import PERCENTILES
from swiftkv.config import BASE_ARM
from swiftkv.config.measuring import Slo
from swiftkv.registry import LOAD_RATIOS

TIMES = [f"{name}_p{q}_s" for name in ("ttft", "tpot", "itl", "e2el") for q in PERCENTILES]
RATES = ["requests_per_s", "goodput_per_s", "total_tokens_per_s"]
MEDIANS = ["offered_per_s", *RATES, "attainment", *TIMES, "cache_hit_share"]
SAME = "point kind load load_unit requests time_scale length_scale source".split()  # in every round of a load
ABOVE, BELOW = "the highest load is within it", "the lowest load is not within it"


def select(rows: list[dict], **values) -> list[dict]:
    """The rows that have these values, in the order of the rounds."""
    matching = [row for row in rows if all(row[key] == value for key, value in values.items())]
    return sorted(matching, key=lambda row: row["round"])


def summarise(rows: list[dict], arms: list[str], seed: int, interval: str | None = stats.T_OF_LOGS) -> list[dict]:
    """Rows of summary.csv: one per load, in the order measured, and per arm that was measured; their intervals are one
    of `stats.RATIO_INTERVALS`."""
    ratio = partial(stats.RATIO_INTERVALS[interval], seed=seed)
    loads = dict.fromkeys((row["point"], row["load"]) for row in rows)
    arms = [arm for arm in arms if select(rows, arm=arm)]
    made = [summary_row(select(rows, point=point, load=load), arm, ratio) for point, load in loads for arm in arms]
    return [row | {"interval": interval} for row in made]


def median_of_rounds(rows: list[dict], name: str) -> float | None:
    """Median over the rounds; None where a round has no value."""
    values = [row[name] for row in rows]
    return None if None in values else median(values)


def summary_row(rows: list[dict], arm: str, ratio: Callable) -> dict:
    """Medians over the rounds, and ratios to the base within a round (of times, below 1 is faster) with intervals; no
    ratio of a time that a round of the base does not have."""
    arm_rows, base_rows = select(rows, arm=arm), select(rows, arm=BASE_ARM)
    row = {name: arm_rows[0][name] for name in SAME} | {"arm": arm, "rounds": len(arm_rows)}
    row |= {name: median_of_rounds(arm_rows, name) for name in MEDIANS}
    for name in LOAD_RATIOS:
        times, base_times = ([one[f"{name}_s"] for one in of_arm] for of_arm in (arm_rows, base_rows))
        if all(base_times):
            row[f"{name}_ratio"], row[f"{name}_ci_low"], row[f"{name}_ci_high"] = ratio(times, base_times)
    return row


def crossing(curve: list[tuple[float, float]], required: float) -> tuple[float | None, str]:
    """The load at which attainment falls below `required`, from (load, attainment) by rising load: linear between the
    first load that misses it and the one before. None, and why, if the tested loads do not enclose it."""
    for (low, above), (high, below) in pairwise(curve):
        if above >= required > below:
            return low + (high - low) * (above - required) / (above - below), ""
        if above < required:
            break
    return None, ABOVE if curve[0][1] >= required else BELOW


def within(curve: list[tuple[float, float]], required: float) -> float | None:
    """The highest load up to which every load attains `required`."""
    highest = None
    for load, attainment in curve:
        if attainment < required:
            break
        highest = load
    return highest


def saturation(
    rows: list[dict], arms: list[str], slo: Slo, seed: int, interval: str | None = stats.T_OF_LOGS
) -> list[dict]:
    """Rows of saturation.csv: per point and arm the load up to which the SLO is kept; intervals as in `summarise`."""
    ratio = partial(stats.RATIO_INTERVALS[interval], seed=seed)
    points = dict.fromkeys(row["point"] for row in rows)
    made = [saturation_row(select(rows, point=point), arm, slo, ratio) for point in points for arm in arms]
    return [row | {"interval": interval} for row in made]


def saturation_row(rows: list[dict], arm: str, slo: Slo, ratio_of: Callable) -> dict:
    """`highest_within`: highest tested load whose median attainment, and that of all lower ones, is as wanted.
    `saturation`: median over the rounds of the interpolated load, and its ratio to the base where all rounds have one.
    """
    arm_rows = select(rows, arm=arm)
    loads = sorted({row["load"] for row in arm_rows})
    medians = [(load, median(row["attainment"] for row in select(arm_rows, load=load))) for load in loads]
    crossings, notes = crossings_of(arm_rows, slo.attainment)
    base_crossings, _ = crossings_of(select(rows, arm=BASE_ARM), slo.attainment)
    ratio = ci_low = ci_high = None
    if None not in crossings and None not in base_crossings:
        ratio, ci_low, ci_high = ratio_of(crossings, base_crossings)
    return {
        "point": arm_rows[0]["point"],
        "kind": arm_rows[0]["kind"],
        "load_unit": arm_rows[0]["load_unit"],
        "arm": arm,
        "rounds": len(crossings),
        "slo_ttft_s": slo.ttft_s,
        "slo_tpot_s": slo.tpot_s,
        "wanted": slo.attainment,
        "highest_within": within(medians, slo.attainment),
        "saturation": None if None in crossings else median(crossings),
        "ratio": ratio,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "note": "; ".join(dict.fromkeys(note for note in notes if note)),
    }


def crossings_of(rows: list[dict], required: float) -> tuple[list[float | None], list[str]]:
    """The load of each round at which an arm's attainment falls below `required`, and the notes of `crossing`."""
    curves: dict[int, list[tuple[float, float]]] = {}
    for row in select(rows):
        curves.setdefault(row["round"], []).append((row["load"], row["attainment"]))
    loads, notes = zip(*(crossing(sorted(curve), required) for curve in curves.values()), strict=True)
    return list(loads), list(notes)
