"""How much is measured: batches of a measurement, so that none is too short, and rounds of a workload, so that every
interval is as narrow as the configuration asks.

Both are decided by what was measured and kept, so a run that goes on after a kill decides the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from swiftkv import costmodel, stats
from swiftkv.bench.plan import PlannedPoint, ThroughputPlan
from swiftkv.bench.rounds import Rounds
from swiftkv.config import BASE_ARM
from swiftkv.engines.arms import LiveEngines

# A student with more KV cache can beat the FLOPs limit, and a machine is faster at times than in its warm-up.
SPARE = 1.25


def fastest(plan: ThroughputPlan, point: PlannedPoint) -> float:
    """The highest speed-up over the base that the FLOPs model allows any arm of a workload."""
    shape, batch = point.settings.shape, point.batch
    lengths = (batch.input_len, batch.output_len, batch.cached_len)
    return max(costmodel.workload_speedup_limit(shape, arm.cut, arm.group, *lengths) for arm in plan.arms)


def batches(plan: ThroughputPlan, point: PlannedPoint, rounds: Rounds, engines: LiveEngines) -> int:
    """Batches of one measurement, one after the other, the same for all arms: as many as keep the fastest arm busy for
    `min_seconds`, by the base's time for a batch in its warm-up. `rounds` keeps that of the base alone."""
    if not plan.min_seconds:
        return 1
    least = plan.min_seconds * fastest(plan, point) * SPARE

    def warm_up(arm: str) -> dict:
        seconds = engines[arm].run(point.batch, plan.request_seed(0)).elapsed_s
        if seconds < least:  # the first run of a shape is slow, and that would make for too few
            seconds = min(seconds, engines[arm].run(point.batch, plan.request_seed(0)).elapsed_s)
        return {"arm": arm, "elapsed_s": seconds}

    if not rounds.has(point.name, 0):
        rounds.measure(point.name, 0, warm_up)
    [row] = rounds.read(point.name, 0)
    needed = max(1, math.ceil(least / row["elapsed_s"]))
    if needed > 1:
        print(f"throughput {point.name}: {needed} batches a measurement, of {row['elapsed_s']:.3g} s each", flush=True)
    return needed


def wide(plan: ThroughputPlan, rows: Sequence[dict]) -> bool:
    """Whether the interval of a student's speed-up, or of the A/A control, is wider than `precision` allows; `rows` are
    all of a workload, in the order of its rounds."""
    rates = {name: [row["total_tokens_per_s"] for row in rows if row["arm"] == name] for name in plan.names}
    halves = (stats.half_width(stats.ratio_ci(rates[name], rates[BASE_ARM])) for name in plan.judged)
    return any(half > plan.precision for half in halves)


def add_rounds(
    plan: ThroughputPlan,
    points: Sequence[PlannedPoint],
    read: Callable[[PlannedPoint, int], list[dict]],
    need: Callable[[PlannedPoint, int], None],
    left_s: float,
) -> Mapping[str, int]:
    """Rounds of every point: `repeats`, then one more of each that is `wide` while the measurements of all have taken
    less than `left_s` seconds. `need(point, number)` has a round measured if it is not there, `read(point, count)`
    gives the rows of the first rounds."""
    for number in range(plan.repeats):
        for point in points:
            need(point, number)
    counts = {point.name: plan.repeats for point in points}
    while plan.precision is not None:
        measured = {point.name: read(point, counts[point.name]) for point in points}
        open_points = [point for point in points if wide(plan, measured[point.name])]
        if not open_points or sum(row["wall_s"] for rows in measured.values() for row in rows) >= left_s:
            break
        for point in open_points:
            need(point, counts[point.name])
            counts[point.name] += 1
    return counts
