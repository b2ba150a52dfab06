"""The plans of the measuring stages: derived from the configuration alone, in its order, and what decides a hash."""

from dataclasses import FrozenInstanceError

import pytest

from swiftkv import files
from swiftkv.bench import rounds
from swiftkv.bench.plan import CAPACITY, LATENCY, throughput_plan
from swiftkv.bench.served.plan import served_plan
from swiftkv.config import ROOT, RunConfig, load_config
from swiftkv.engines.settings import Batch, benchmark_arms
from swiftkv.errors import UserError
from tests.helpers.config import make_config
from tests.helpers.fake_engines import throughput_config

SMOKE = load_config(ROOT / "config" / "smoke.yaml")
PREFIX = {"name": "prefix", "input_len": 300, "output_len": 5, "num_requests": 3, "prefix_share": 0.9}
PLAIN = {"name": "plain", "input_len": 50, "output_len": 5, "num_requests": 2}


def test_a_plan_has_the_arms_points_and_seeds_of_its_configuration():
    plan = throughput_plan(SMOKE)
    assert [(arm.name, arm.cut, arm.group) for arm in plan.arms] == [
        ("base", 8, 1),
        ("skip50", 4, 1),
        ("skip50-across4", 4, 4),
        ("base-again", 8, 1),
        ("l-equals-L", 8, 1),
    ]
    assert [arm.runs_on for arm in plan.arms] == [None, None, None, "base", None]
    assert plan.judged == ["skip50", "skip50-across4", "base-again"]
    assert [point.name for point in plan.points] == [point.name for point in SMOKE.throughput.points]
    assert plan.points[0].batch == Batch(input_len=80, output_len=8, num_requests=2)
    assert (plan.repeats, plan.min_seconds, plan.latency_rounds) == (SMOKE.throughput.repeats, 0, 3)
    assert plan.latency == Batch(input_len=16, output_len=4, num_requests=1)
    assert [plan.request_seed(number) for number in range(3)] == [SMOKE.seed, SMOKE.seed + 1, SMOKE.seed + 2]
    with pytest.raises(FrozenInstanceError):
        plan.repeats = 1


def test_points_keep_their_order_whatever_engines_they_need():
    """The default engines come first, even where the first point needs others, and where no point needs them."""
    plan = throughput_plan(throughput_config(points=[PREFIX, PLAIN]))
    assert [point.name for point in plan.points] == ["prefix", "plain"]
    assert [[point.name for point in engines.points] for engines in plan.engine_sets] == [["plain"], ["prefix"]]
    assert plan.points[0].batch.prefix_len == 270 and plan.points[0].settings.prefix_caching
    alone = throughput_plan(throughput_config(points=[PREFIX]))
    assert [len(engines.points) for engines in alone.engine_sets] == [0, 1]
    assert (alone.settings.max_num_seqs, alone.settings.max_model_len) == (1, 128)  # what latency needs


def test_what_decides_the_measurements_of_the_smoke_configuration():
    """The inputs of the hash under which measurements are kept: with others, a run that was killed starts over."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
    engine = {
        "shape": shape | {"num_key_value_heads": 2, "vocab_size": 2048, "dtype": "float32"},
        "max_model_len": 128,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 2048,
        "kv_memory_bytes": 2621440,
        "prefix_caching": False,
        "kv_cache_dtype": "auto",
        "seed": 0,
        "tensor_parallel_size": 1,
    }
    expected = {
        CAPACITY: {"engine": engine},
        LATENCY: {"engine": engine, "load": {"input_len": 16, "output_len": 4}},
        "ratio-10to1": {"engine": engine, "load": {"input_len": 80, "output_len": 8, "num_requests": 2}},
        "authors-2000to256": {"engine": engine, "load": {"input_len": 64, "output_len": 8, "num_requests": 2}},
        "prompt-only": {"engine": engine, "load": {"input_len": 64, "output_len": 1, "num_requests": 2}},
    }
    plan = throughput_plan(SMOKE)
    assert plan.decisive({}) == expected
    assert files.digest(plan.decisive({})) == "88f170b2c373a1df"
    expected["prompt-only"]["load"]["batches"] = 3
    assert plan.decisive({"prompt-only": 3}) == expected


def test_a_prefix_decides_and_what_is_only_counted_does_not():
    few, many = (throughput_plan(throughput_config(points=[PREFIX], repeats=n, min_seconds=n)) for n in (1, 9))
    assert few.decisive({"prefix": 2}) == many.decisive({"prefix": 2})
    assert few.decisive({})["prefix"]["load"]["prefix_len"] == 270


def test_served_arms_are_those_of_the_configuration_in_its_order():
    variants = {"variants": load_config(ROOT / "config" / "config.yaml").raw["variants"]}
    config = make_config(variants, {"served": {"arms": ["skip50-across4", "skip50"]}}, of="served")
    plan = served_plan(config)
    assert [arm.name for arm in plan.arms] == config.served_arms == ["base", "skip50", "skip50-across4"]
    fewer = make_config(variants, {"served": {"arms": ["skip50"]}}, of="served")
    assert plan.settings == served_plan(fewer).settings
    assert (plan.rounds, plan.slo, plan.timeouts) == (config.served.rounds, config.served.slo, config.served.timeouts)
    assert plan.request_seed(2) == config.seed + 2
    points = [point.name for point in config.served.points for _ in point.loads]
    assert [load.point for load in plan.loads] == points


def test_no_served_section_is_named():
    with pytest.raises(UserError, match=r"no key 'served'; config/served\.yaml has one"):
        served_plan(SMOKE)


def test_a_variant_that_does_not_fit_is_refused_though_it_is_not_chosen():
    config = make_config({"throughput": {"model": {"num_hidden_layers": 7}}})
    with pytest.raises(UserError, match=r"variants\.\w+\.skip: 0\.\d+ of 7 layers is not a whole number of layers"):
        benchmark_arms(config, ["base"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"variants": []}])
def test_seed_and_variants_decide_every_measurement(change):
    one, other = (throughput_plan(each) for each in (SMOKE, RunConfig(SMOKE.raw | change, "")))
    assert rounds.fingerprint(one.variants, one.seed) != rounds.fingerprint(other.variants, other.seed)
