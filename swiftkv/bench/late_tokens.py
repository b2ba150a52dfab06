"""Late-layer tokens of the engines that are timed: counted in a round of their warm-up batch, outside what is timed.

Gates count them on small students in float32; these are the engines that claims about speed are about. Such a claim
needs every engine to run the late layers for exactly the tokens whose logits are needed (a base, and a student with
l = L: for all).
"""

from dataclasses import asdict
from pathlib import Path

from swiftkv.bench.plan import EngineSet, ThroughputPlan
from swiftkv.bench.rounds import Rounds
from swiftkv.engines.arms import LiveEngines
from swiftkv.engines.counting import TokenCounts
from swiftkv.registry import FILES

COLUMNS = FILES["late_tokens"].columns


def name_of(number: int) -> str:
    """Of the round of the `number`th set of engines in the work directory."""
    return f"late-tokens-{number}"


def decisive(plan: ThroughputPlan) -> dict[str, dict]:
    """By round what decides its counts, as `ThroughputPlan.decisive` of the others."""
    return {name_of(number): {"engine": asdict(each.settings)} for number, each in enumerate(plan.engine_sets)}


def count(plan: ThroughputPlan, engine_set: EngineSet, work: Path, key: str, engines: LiveEngines) -> list[dict]:
    """Rows of late_tokens.csv of a set of engines, counted unless they are among the measurements kept in `work`, of
    which `key` is as in `Rounds`."""
    name, own = name_of(plan.engine_sets.index(engine_set)), [arm for arm in plan.arms if not arm.runs_on]
    rounds = Rounds(work, key, [arm.name for arm in own], plan.seed, decisive(plan))
    if not rounds.has(name, 0):
        warm_up, whole = engine_set.settings.warm_up, plan.settings.shape["num_hidden_layers"]
        every = {arm.name for arm in own if arm.cut == whole}
        rounds.measure(
            name, 0, lambda arm: row(engine_set, arm, engines[arm].count_tokens(warm_up, seed=plan.seed), arm in every)
        )
    found = {one["arm"]: one for one in rounds.read(name, 0)}
    return [{column: found[arm.name][column] for column in COLUMNS} for arm in own]


def row(engine_set: EngineSet, arm: str, counts: TokenCounts, every: bool) -> dict:
    """A row of late_tokens.csv: the engines by the points that they measure (the first set, with the default flags,
    also latency), and tokens of all steps of one batch; of a model that has no late layers `every` one is expected."""
    points = [point.name for point in engine_set.points]
    return {
        "points": " ".join(points) or "latency",
        "arm": arm,
        "steps": counts.steps,
        "tokens": counts.early,
        "late_tokens": counts.late,
        "expected_late_tokens": counts.early if every else counts.needed,
    }
