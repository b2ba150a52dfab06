"""Late-layer tokens of the engines that are timed: counted in a round of their warm-up batch, outside what is timed.

Gates count them on small students in float32; these are the engines that claims about speed are about. Such a claim
needs every engine to run the late layers for exactly the tokens whose logits are needed (a base, and a student with
l = L: for all).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from swiftkv.bench.plan import EngineSet, ThroughputPlan
from swiftkv.bench.rounds import Rounds
from swiftkv.engines.arms import LiveEngines
from swiftkv.engines.counting import TokenCounts
from swiftkv.engines.settings import Arm
from swiftkv.registry import FILES

COLUMNS = FILES["late_tokens"].columns
COUNTS = ("steps", "tokens", "late_tokens", "expected_late_tokens")


def name_of(which: int | str) -> str:
    """Of the round of a set of engines, by number, or of servers, in the work directory."""
    return f"late-tokens-{which}"


def decisive(plan: ThroughputPlan) -> dict[str, dict]:
    """By round what decides its counts, as `ThroughputPlan.decisive` of the others."""
    return {name_of(number): {"engine": asdict(each.settings)} for number, each in enumerate(plan.engine_sets)}


def count(
    plan: ThroughputPlan, engine_set: EngineSet, work: Path, key: str, engines: LiveEngines, restart: int
) -> list[dict]:
    """Rows of late_tokens.csv of a set of engines in process `restart`, counted unless they are among the measurements
    kept in `work`, of which `key` is as in `Rounds`. The first set measures latency, too."""
    own = [arm for arm in plan.arms if not arm.runs_on]
    points = " ".join(point.name for point in engine_set.points) or "latency"
    rounds = Rounds(work, key, [arm.name for arm in own], plan.seed, decisive(plan))

    def count_arm(arm: str) -> TokenCounts:
        return engines[arm].count_tokens(engine_set.settings.warm_up, seed=plan.seed)

    name = name_of(plan.engine_sets.index(engine_set))
    return rows(rounds, name, points, whole(own, plan.settings.shape["num_hidden_layers"]), count_arm, restart)


def summed(counted: Sequence[list[dict]]) -> list[dict]:
    """Rows of the same engines in several processes as one: their counts added up."""
    return [
        {name: sum(row[name] for row in same) if name in COUNTS else same[0][name] for name in COLUMNS}
        for same in zip(*counted, strict=True)
    ]


def whole(arms: Iterable[Arm], layers: int) -> set[str]:
    """The arms that have no late layers: every token runs all layers."""
    return {arm.name for arm in arms if arm.cut == layers}


def rows(
    rounds: Rounds,
    name: str,
    points: str,
    every: set[str],
    count_arm: Callable[[str], TokenCounts],
    number: int = 0,
) -> list[dict]:
    """Rows of the engines of all arms that measure `points`, counted as round `number` of `name` unless it is there; of
    the arms in `every` all tokens are expected."""
    if not rounds.has(name, number):
        rounds.measure(name, number, lambda arm: row(points, arm, count_arm(arm), arm in every))
    found = {one["arm"]: one for one in rounds.read(name, number)}
    return [{column: found[arm][column] for column in COLUMNS} for arm in rounds.arms]


def row(points: str, arm: str, counts: TokenCounts, every: bool) -> dict:
    """A row of late_tokens.csv: tokens of all steps of one batch."""
    return {
        "points": points,
        "arm": arm,
        "steps": counts.steps,
        "tokens": counts.early,
        "late_tokens": counts.late,
        "expected_late_tokens": counts.early if every else counts.needed,
    }
