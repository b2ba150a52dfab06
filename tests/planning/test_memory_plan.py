"""Memory of every stage before anything is loaded, and what the keys of `parallel` do to jobs and engines."""

import subprocess
from functools import partial

import pytest

from swiftkv import commands, devices
from swiftkv.config import ROOT, load_config
from swiftkv.costmodel import LLAMA_8B
from swiftkv.engines.arms import VLLMEngine
from swiftkv.engines.engine import GIB, SCORING_KV_GIB, scoring_kv_gib
from swiftkv.engines.settings import Arm, Batch, EngineSettings
from swiftkv.errors import UserError
from swiftkv.evals import harness
from swiftkv.modeling.checkpoint import read_shape
from swiftkv.planning import memory_plan
from tests.helpers.config import make_config


def planned(name: str, gib: float = 80, **parallel) -> dict[str, memory_plan.Need]:
    config = make_config({"parallel": parallel}, of=name)
    return {need.stage: need for need in memory_plan.needs(config, config.shape, gib)}


def fits(needs: dict, gib: float) -> dict[str, bool]:
    return {stage: need.each <= 0.9 * gib * 2**30 for stage, need in needs.items()}


@pytest.mark.parametrize(
    ("name", "gib", "gpus"), [("llama-8b", 80, 1), ("paper", 80, 8), ("paper-70b", 80, 8), ("paper-70b", 141, 4)]
)
def test_the_papers_models_fit(name, gib, gpus):
    parallel = {"fsdp_world_size": gpus} | ({"tensor_parallel_size": gpus} if name == "paper-70b" else {})
    needs = planned(name, gib, **parallel)
    assert all(fits(needs, gib).values()) and needs["distill"].gpus == gpus


def test_70b_on_four_gpus_of_80_does_not_fit_side_by_side():
    needs = planned("paper-70b", tensor_parallel_size=4, fsdp_world_size=4)
    assert fits(needs, 80) == {"distill": False, "verify": True, "throughput": False, "accuracy": True}


def test_sharing_weights_is_for_engines_of_one_gpu():
    """Five models of 8 B: one and what students have of their own, against five."""
    fleet = [Arm("base", 32, 1), Arm("skip50", 16, 1), Arm("skip50-across4", 16, 4)]
    shape = LLAMA_8B | {"dtype": "bfloat16"}
    shared, loading = memory_plan.side_by_side(shape, fleet, 1)
    apart, none = memory_plan.side_by_side(shape, fleet, 2)
    assert loading == pytest.approx(16.06e9, rel=0.01) and none == 0
    assert shared == pytest.approx(16.06e9 + 16 * 4096 * (2 * 4096 + 2048 + 512) * 2, rel=0.01)
    assert 2 * apart == pytest.approx(3 * 16.06e9, rel=0.02)


def test_ranks_that_do_not_divide_the_heads_are_named():
    with pytest.raises(UserError, match=r"parallel\.tensor_parallel_size: 3 does not divide 8 key-value heads"):
        planned("paper", tensor_parallel_size=3)


def test_jobs_ask_for_the_gpus_of_the_configuration():
    """A dry run of the paper's 70 B configuration."""
    command = ["snakemake", "-n", "--forceall", "--cores", "1", "--nocolor", "--configfile", "config/paper-70b.yaml"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert printed.returncode == 0, printed.stdout[-2000:] + printed.stderr[-2000:]
    jobs = {text.split(":")[0]: text for text in (printed.stdout + printed.stderr).split("rule ")[1:]}
    assert all("gpu=8" in jobs[name] for name in ("distill", "verify", "throughput", "accuracy"))
    assert "gpu=1" in jobs["similarity"] and "gpu=" not in jobs["tables"]


@pytest.mark.vllm
def test_an_arm_on_two_ranks_reports_as_on_one(tmp_path):
    """The same capacity, bytes and tokens; memory is that of both ranks together."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 512, "dtype": "float32"}
    found = []
    for ranks in (1, 2):
        settings = EngineSettings(shape, 256, 2, 128, 16 * 128 * 4 * 2 * 2 * 32 * 4, False, "auto", 0, ranks)
        engine = VLLMEngine(Arm("skip50-across2", 2, 2), settings, tmp_path / str(ranks))
        try:
            run = engine.run(Batch(100, 5, 2), seed=1)
            found.append((engine.kv(), run.prompt_tokens, run.output_tokens, run.failed))
        finally:
            engine.close()
    assert found[0] == found[1] and found[0][0]["kv_caches"] == 3 and found[0][1:] == (200, 10, 0)


# Shared and exclusive GPUs


@pytest.fixture
def leases(monkeypatch):
    """What commands ask of the GPUs: how many, and how much memory of each (None: all of it, alone)."""
    asked = []
    monkeypatch.setattr(devices, "lease", lambda count=1, gib=None: asked.append((count, gib)))
    return asked


def test_what_times_nothing_shares_a_gpu(tiny_base, leases):
    commands.load_beside_others(ROOT / "config/config.yaml", tiny_base, memory_plan.accuracy)
    ((count, gib),) = leases
    assert count == 1 and SCORING_KV_GIB < gib < SCORING_KV_GIB + 2


def test_engines_of_several_gpus_hold_them_alone(tiny_base, leases):
    commands.load_beside_others(ROOT / "config/paper-70b.yaml", tiny_base, memory_plan.accuracy)
    assert leases == [(8, None)]


def test_what_times_something_is_alone(leases):
    commands.load_with_engine_gpus(ROOT / "config/config.yaml")
    commands.load_with_gpu(ROOT / "config/config.yaml")
    assert leases == [(1, None), (1, None)]


def test_engines_that_score_are_told_their_memory():
    """Left to itself, vLLM on a GPU measures what is free while it starts, and fails if another process ends then."""
    on_cpu, on_gpu = (harness.scoring_memory(2**30, 1, where) for where in (True, False))
    assert on_cpu == {"kv_cache_memory_bytes": 2**30}
    assert on_gpu["kv_cache_memory_bytes"] == SCORING_KV_GIB * 2**30 and on_gpu["gpu_memory_utilization"] < 0.1


def test_a_small_gpu_scores_with_what_it_has_left(monkeypatch):
    """A model of 7 B parameters on 24 GiB, and one that leaves nothing on 16."""
    monkeypatch.setattr(devices, "memory_gib", lambda: {"GPU-aaaa-1": 24.0})
    memory = harness.scoring_memory(14 * 2**30, 1, on_cpu=False)
    assert memory["kv_cache_memory_bytes"] == pytest.approx((0.9 * 24 - 14 - 1) * 2**30, abs=1)
    assert scoring_kv_gib(15.5, 16) == 2
    assert fits(planned("llama-8b", 24), 24)["accuracy"]


def test_models_side_by_side_share_what_they_have_in_common():
    """Base and three students of an 8 B model, of which one trains every layer."""
    shape = LLAMA_8B | {"dtype": "bfloat16"}
    variants = [{"name": "skip50", "skip": 0.5}, {"name": "own", "skip": 0.5, "distill": {"train": "layers"}}]
    config = make_config(instead={"variants": variants})
    config.raw["accuracy"]["undistilled"] = ["own"]
    need = memory_plan.divergence(config, shape)
    late = 16 * 4096 * (4096 + 2 * 1024) * 2
    assert need.each == pytest.approx(1.5 * (2 * 16.06e9 + 2 * late) + 2**30, rel=0.01)
    assert need.gpus == 1 and need.what.startswith("4 models")


def test_engines_of_the_gates_side_by_side(tiny_base):
    """As many as GPU, cores and memory hold, not more than there are; one without a GPU and on several."""
    config, shape = load_config(ROOT / "config/h200-short.yaml"), read_shape(tiny_base)
    sessions = 3 * (1 + len(config.variants))
    most = partial(memory_plan.verify_jobs, config, shape)
    assert most(141, 64, 512) == sessions and most(None, 64, 512) == 1
    assert most(141, 4, 512) == 4 and most(141, 64, 20) == 3 and most(141, 1, 4) == 1
    few = most(8, 64, 512)
    assert 1 < few < sessions and memory_plan.verify(config, shape, few).each <= 0.9 * 8 * GIB
    assert memory_plan.verify(config, shape, few + 1).each > 0.9 * 8 * GIB
    several = load_config(ROOT / "config/paper-70b.yaml")
    assert several.tensor_parallel_size > 1 and memory_plan.verify_jobs(several, shape, 141, 64, 512) == 1
