"""Late-layer tokens of the engines that are timed: counted in a round of their warm-up batch, outside what is timed.

Gates count them on small students in float32; these are the engines that claims about speed are about. Such a claim
needs every engine to run the late layers for exactly the tokens whose logits are needed (a base: for all).
"""

from collections.abc import Callable
from dataclasses import asdict

from swiftkv.bench.plan import EngineSet, ThroughputPlan
from swiftkv.bench.rounds import Rounds
from swiftkv.config import BASE_ARM
from swiftkv.engines.arms import LiveEngines
from swiftkv.engines.counting import TokenCounts


def name_of(which: int | str) -> str:
    """Of the round of a set of engines, by number, or of servers, in the work directory."""
    return f"late-tokens-{which}"


def decisive(plan: ThroughputPlan) -> dict[str, dict]:
    """By round what decides its counts, as `ThroughputPlan.decisive` of the others."""
    return {name_of(number): {"engine": asdict(each.settings)} for number, each in enumerate(plan.engine_sets)}


def count(plan: ThroughputPlan, engine_set: EngineSet, rounds: Rounds, engines: LiveEngines) -> list[dict]:
    """Rows of late_tokens.csv of a set of engines, counted unless they are there. The first measures latency, too."""
    points = " ".join(point.name for point in engine_set.points) or "latency"

    def count_arm(arm: str) -> TokenCounts:
        return engines[arm].count_tokens(engine_set.settings.warm_up, seed=plan.seed)

    return rows(rounds, name_of(plan.engine_sets.index(engine_set)), points, count_arm)


def rows(rounds: Rounds, name: str, points: str, count_arm: Callable[[str], TokenCounts]) -> list[dict]:
    """Rows of the engines of all arms that measure `points`, counted as round `name` unless it is there."""
    if not rounds.attempts(name, 0):
        rounds.measure(name, 0, lambda arm: row(points, arm, count_arm(arm)))
    found = {one["arm"]: one for one in rounds.read(name, 0)}
    return [{key: value for key, value in found[arm].items() if key != "position"} for arm in rounds.arms]


def row(points: str, arm: str, counts: TokenCounts) -> dict:
    """A row of late_tokens.csv: tokens of all steps of one batch."""
    return {
        "points": points,
        "arm": arm,
        "steps": counts.steps,
        "tokens": counts.early,
        "late_tokens": counts.late,
        "expected_late_tokens": counts.early if arm == BASE_ARM else counts.needed,
    }
