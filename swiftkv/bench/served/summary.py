"""From rows of served.jsonl to each arm's latency against the base, and to the load up to which it keeps the SLO."""

from itertools import pairwise
from statistics import median

from swiftkv import stats
from swiftkv.bench.served.metrics import PERCENTILES
from swiftkv.config import BASE_ARM
from swiftkv.registry import LOAD_RATIOS

TIMES = [f"{name}_p{q}_s" for name in ("ttft", "tpot", "itl", "e2el") for q in PERCENTILES]
RATES = ["requests_per_s", "goodput_per_s", "total_tokens_per_s"]
SAME = "point kind load load_unit requests time_scale length_scale source".split()  # in every round of a load
ABOVE, BELOW = "the highest load is within it", "the lowest load is not within it"


def rows_of(rows: list[dict], **wanted) -> list[dict]:
    """The rows that have these values, in the order of the rounds."""
    return sorted((r for r in rows if all(r[k] == v for k, v in wanted.items())), key=lambda row: row["round"])


def summarise(config, rows: list[dict]) -> list[dict]:
    """Rows of summary.csv: one per load and arm, in the order measured."""
    cells = dict.fromkeys((row["point"], row["load"]) for row in rows)
    arms = [arm for arm in config_arms(config) if rows_of(rows, arm=arm)]
    return [summary_row(config, rows_of(rows, point=point, load=load), arm) for point, load in cells for arm in arms]


def config_arms(config) -> list[str]:
    """The base, then the variants of `served.arms`, in the order of the configuration."""
    return [BASE_ARM, *(variant.name for variant in config.variants if variant.name in config.served.arms)]


def middle(rows: list[dict], name: str) -> float | None:
    """Median over the rounds; None where a round has no value."""
    values = [row[name] for row in rows]
    return None if None in values else median(values)


def summary_row(config, rows: list[dict], arm: str) -> dict:
    """Medians over the rounds, and ratios to the base within a round (of times, below 1 is faster) with intervals."""
    mine, base = rows_of(rows, arm=arm), rows_of(rows, arm=BASE_ARM)
    found = {name: mine[0][name] for name in SAME} | {"arm": arm, "rounds": len(mine)}
    found |= {name: middle(mine, name) for name in ("offered_per_s", *RATES, "attainment", *TIMES, "cache_hit_share")}
    for name in LOAD_RATIOS:
        pairs = [(a[f"{name}_s"], b[f"{name}_s"]) for a, b in zip(mine, base, strict=True)]
        if all(b for _, b in pairs):
            ratio = stats.ratio_ci(*zip(*pairs, strict=True), config.seed)
            found |= dict(zip((f"{name}_{end}" for end in ("ratio", "ci_low", "ci_high")), ratio, strict=True))
    return found


def crossing(attained: list[tuple[float, float]], wanted: float) -> tuple[float | None, str]:
    """The load at which attainment falls below `wanted`, from (load, attainment) by rising load: linear between the
    first load that misses it and the one before. None, and why, if the tested loads do not enclose it."""
    for (low, above), (high, below) in pairwise(attained):
        if above >= wanted > below:
            return low + (high - low) * (above - wanted) / (above - below), ""
        if above < wanted:
            break
    return None, ABOVE if attained[0][1] >= wanted else BELOW


def attained(rows: list[dict]) -> list[tuple[float, float]]:
    """(load, attainment) by rising load."""
    return sorted((row["load"], row["attainment"]) for row in rows)


def within(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """The highest load up to which every load attains `wanted`."""
    passed = None
    for load, share in curve:
        if share < wanted:
            break
        passed = load
    return passed


def saturation(config, rows: list[dict]) -> list[dict]:
    """Rows of saturation.csv: per point and arm the load up to which the SLO is kept."""
    points = dict.fromkeys(row["point"] for row in rows)
    return [saturation_row(config, rows_of(rows, point=point), arm) for point in points for arm in config_arms(config)]


def saturation_row(config, rows: list[dict], arm: str) -> dict:
    """`highest_within`: highest tested load whose median attainment, and that of all lower ones, is as wanted.
    `saturation`: median over the rounds of the interpolated load, and its ratio to the base where all rounds have one.
    """
    slo, found = config.served.slo, {}
    mine = rows_of(rows, arm=arm)
    loads = dict.fromkeys(row["load"] for row in mine)
    curve = sorted((load, median(row["attainment"] for row in rows_of(mine, load=load))) for load in loads)
    rounds = sorted({row["round"] for row in mine})
    values = {
        name: [crossing(attained(rows_of(rows, arm=name, round=number)), slo.attainment) for number in rounds]
        for name in (arm, BASE_ARM)
    }
    loads_of = {name: [load for load, _ in pairs] for name, pairs in values.items()}
    if None not in loads_of[arm]:
        found["saturation"] = median(loads_of[arm])
        if None not in loads_of[BASE_ARM]:
            ratio = stats.ratio_ci(loads_of[arm], loads_of[BASE_ARM], config.seed)
            found |= dict(zip(("ratio", "ci_low", "ci_high"), ratio, strict=True))
    return {
        **{name: mine[0][name] for name in ("point", "kind", "load_unit")},
        **{"arm": arm, "rounds": len(rounds), "slo_ttft_s": slo.ttft_s, "slo_tpot_s": slo.tpot_s},
        **{"wanted": slo.attainment, "highest_within": within(curve, slo.attainment)},
        **{name: found.get(name) for name in ("saturation", "ratio", "ci_low", "ci_high")},
        "note": "; ".join(dict.fromkeys(why for _, why in values[arm] if why)),
    }
