"""How many batches and rounds: the coverage of an interval that was waited for, and what decides."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from swiftkv import costmodel, stats
from swiftkv.bench import pace
from swiftkv.bench.plan import throughput_plan
from swiftkv.config import ROOT, load_config
from tests.helpers.fake_engines import CONTROLS, throughput_config

POINT = SimpleNamespace(name="p")


def rows_of(rates: dict[str, list[float]]) -> list[dict]:
    return [{"arm": arm, "total_tokens_per_s": rate} for arm, its in rates.items() for rate in its]


@pytest.mark.parametrize(("sigma", "least"), [(0.02, 0.935), (0.06, 0.905)])
def test_coverage_when_rounds_are_added(sigma, least):
    """Waiting until an interval looks narrow costs some coverage: none to speak of where six rounds do, and up to three
    points where three times as many are needed (docs/method.md). 1,000 runs of up to 20 rounds."""
    generator, held = np.random.default_rng(2026), 0
    plan = SimpleNamespace(names=["base", "skip50"], judged=["skip50"], repeats=6, precision=0.03)
    for _ in range(1000):
        rates = 1.5 * np.exp(sigma * generator.standard_normal(20))

        def read(point, count, rates=rates):
            made = rows_of({"base": [1.0] * count, "skip50": rates[:count]})
            return [row | {"wall_s": 1.0} for row in made]

        count = pace.add_rounds(plan, [POINT], read, lambda point, number: None, left_s=40)["p"]
        _, low, high = stats.ratio_ci(rates[:count], [1.0] * count)
        held += low <= 1.5 <= high
    assert least <= held / 1000 <= 0.97


def test_every_judged_arm_is_waited_for_and_the_others_are_not():
    plan = throughput_plan(throughput_config(controls=CONTROLS, precision=0.02, max_minutes=1))
    steady = {name: [1.0, 1.0, 1.0] for name in plan.names}
    assert not pace.wide(plan, rows_of(steady))
    unsteady = {name: pace.wide(plan, rows_of(steady | {name: [1.0, 1.1, 0.9]})) for name in plan.names[1:]}
    assert unsteady == {name: name != "l-equals-L" for name in plan.names[1:]}


def test_two_rounds_are_never_narrow():
    plan = throughput_plan(throughput_config(precision=9.0, max_minutes=1))
    assert pace.wide(plan, rows_of({name: [1.0, 1.0] for name in plan.names}))


def test_the_fastest_arm_sets_the_batches():
    """That of the highest FLOPs limit, of the prompt tokens that no cache holds."""
    config = throughput_config(controls=CONTROLS)
    plan = throughput_plan(config)
    limits = [costmodel.workload_speedup_limit(config.shape, arm.cut, arm.group, 50, 5, 0) for arm in plan.arms]
    assert pace.fastest(plan, plan.points[0]) == max(limits) > 1.5
    assert all(math.isfinite(limit) for limit in limits)


@pytest.mark.parametrize("name", ["config", "h200", "h100", "llama-8b"])
def test_shipped_configurations_measure_six_rounds_with_both_controls(name):
    section = load_config(ROOT / "config" / f"{name}.yaml").throughput
    assert section.repeats >= 6 and section.controls == CONTROLS and section.precision <= 0.03
