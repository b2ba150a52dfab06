"""The FLOPs model against torch's counter, published figures and laws that must hold for every shape."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import costmodel
from swiftkv.config import load_config
from swiftkv.errors import UserError
from swiftkv.report.tables import beside_published
from tests.helpers.models import shapes

TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}


@pytest.mark.parametrize(("cut", "group", "published"), [(80, 1, 302), (60, 1, 228), (40, 1, 154), (40, 4, 153)])
def test_published_70b_totals(cut, group, published):
    total = costmodel.paper_prefill_gflops(costmodel.LLAMA_70B, cut, group)["total"]
    assert total == pytest.approx(published, rel=0.01)


def test_table_of_compute_stands_beside_the_published_one():
    """302, 228 and 154 GFLOPs per prompt token, each within 1%; other variants have no published number."""
    table = beside_published(pd.DataFrame(costmodel.compute_rows(load_config())))
    found = table.dropna(subset="published_gflops").set_index("arm")
    assert found.published_gflops.to_dict() == {"base": 302, "skip25": 228, "skip50": 154}
    assert found.gflops_per_prompt_token.to_list() == pytest.approx(found.published_gflops.to_list(), rel=0.01)


def test_published_70b_parts():
    parts = costmodel.paper_prefill_gflops(costmodel.LLAMA_70B, 80, 1)
    printed = {"vocab": 4.3, "kv": 2.7, "qo": 21, "mlp": 113, "attention": 160}
    assert {part: parts[part] for part in printed} == pytest.approx(printed, rel=0.025)
    assert parts["attention"] == 160.0
    assert costmodel.paper_prefill_gflops(costmodel.LLAMA_70B, 40, 4)["kv"] == pytest.approx(1.7, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "base", "half"), [(costmodel.LLAMA_8B, 13.96, 7.25), (costmodel.LLAMA_70B, 136.9, 69.8)]
)
def test_dense_gflops_at_long_prompts(shape, base, half):
    """published.md 3.1: dense parts alone; the one token that runs every layer vanishes in a long prompt."""
    layers = shape["num_hidden_layers"]
    for cut, expected in ((layers, base), (layers // 2, half)):
        parts = costmodel.exact_prefill_gflops(shape, cut, 1, 100_000)
        assert sum(parts[part] for part in ("kv", "qo", "mlp")) == pytest.approx(expected, rel=1e-3)


def test_against_torch_flop_counter():
    """torch counts the products of a real Llama; eager attention computes the full square, the model half of it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    length, layers = 24, TINY["num_hidden_layers"]
    config = LlamaConfig(**TINY, head_dim=16, attn_implementation="eager", use_cache=False)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long), logits_to_keep=1)
    parts = costmodel.workload_flops(TINY, layers, 1, length, 1)
    square = parts["attention"] * 2 * length // (length + 1)
    assert counter.get_total_flops() == parts["total"] - parts["attention"] + square


@settings(max_examples=60, deadline=None)
@given(shapes(), st.integers(1, 3000), st.integers(1, 300))
def test_laws(model, input_len, output_len):
    shape, cut, group = model
    layers = shape["num_hidden_layers"]
    base = costmodel.workload_flops(shape, layers, 1, input_len, output_len)
    late = costmodel.workload_flops(shape, cut, group, input_len, output_len)
    assert base["total"] == sum(base[part] for part in costmodel.PARTS)
    assert all(late[part] <= base[part] for part in base)
    assert late["vocab"] == base["vocab"]
    limit = costmodel.workload_speedup_limit(shape, cut, group, input_len, output_len)
    assert 1 <= limit <= layers / cut
    assert costmodel.workload_speedup_limit(shape, layers, 1, input_len, output_len) == 1


@settings(max_examples=60, deadline=None)
@given(shapes(), st.integers(1, 3000), st.integers(2, 50))
def test_generating_adds_decode_steps(model, input_len, output_len):
    """A request costs its prefill plus one decode step per further token, in every part."""
    shape, cut, group = model
    whole = costmodel.workload_flops(shape, cut, group, input_len, output_len)
    prefill = costmodel.workload_flops(shape, cut, group, input_len, 1)
    layer, layers, steps = costmodel.layer_flops(shape), shape["num_hidden_layers"], output_len - 1
    seen = sum(input_len + i for i in range(1, output_len))
    added = {
        "vocab": 2 * shape["hidden_size"] * shape["vocab_size"] * steps,
        "kv": layer["kv"] * costmodel.kv_caches(shape, cut, group) * steps,
        "qo": layer["qo"] * layers * steps,
        "mlp": layer["mlp"] * layers * steps,
        "attention": layer["attention"] * layers * seen,
    }
    assert {part: whole[part] - prefill[part] for part in costmodel.PARTS} == added


@settings(max_examples=60, deadline=None)
@given(shapes(), st.integers(2, 3000), st.integers(1, 50), st.data())
def test_cached_tokens_leave_the_rest_of_the_prompt(model, input_len, output_len, data):
    """A cached prefix saves its own prefill but for the late layers and logits of one token, which it does not need."""
    shape, cut, group = model
    cached = data.draw(st.integers(1, input_len - 1))
    whole = costmodel.workload_flops(shape, cut, group, input_len, output_len)
    left = costmodel.workload_flops(shape, cut, group, input_len, output_len, cached)
    prefix = costmodel.workload_flops(shape, cut, group, cached, 1)
    layer, late = costmodel.layer_flops(shape), shape["num_hidden_layers"] - cut
    of_one = {"qo": late * layer["qo"], "mlp": late * layer["mlp"], "attention": late * cached * layer["attention"]}
    of_one |= {"vocab": prefix["vocab"]}
    saved = {part: prefix[part] - of_one.get(part, 0) for part in costmodel.PARTS}
    assert {part: whole[part] - left[part] for part in costmodel.PARTS} == saved


def test_a_prompt_that_is_cached_whole_is_refused():
    with pytest.raises(UserError, match="10 cached prompt tokens; allowed are 0 to 9"):
        costmodel.workload_flops(TINY, 2, 1, 10, 1, cached=10)


@settings(max_examples=60, deadline=None)
@given(shapes())
def test_kv_cache_follows_the_formula(model):
    shape, cut, group = model
    layers = shape["num_hidden_layers"]
    ratio = costmodel.kv_bytes_per_token(shape, layers) / costmodel.kv_bytes_per_token(shape, cut, group)
    assert ratio == pytest.approx(costmodel.kv_capacity_ratio(shape, cut, group))
    assert ratio == pytest.approx(layers / (cut + (layers - cut) / group))


def test_compute_rows():
    config = load_config()
    rows = costmodel.compute_rows(config)
    keys = [(row["model"], row["context"], row["arm"], row["part"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["arm"] for row in rows} == {"base", *(variant.name for variant in config.variants)}
    totals = {row["arm"]: row for row in rows if row["model"] == "Llama-3.1-70B" and row["part"] == "total"}
    assert totals["skip50"]["relative_to_base"] == pytest.approx(0.51, abs=0.005)
    assert totals["base"]["relative_to_base"] == 1
    assert {row["counting"] for row in rows if row["model"] == "benchmark"} == {"exact"}


@pytest.mark.parametrize(("cut", "group"), [(0, 1), (5, 1), (2, 3), (2, 0)])
def test_impossible_cut(cut, group):
    with pytest.raises(UserError, match="costmodel"):
        costmodel.kv_caches(TINY, cut, group)


def test_bad_shape_and_lengths():
    with pytest.raises(UserError, match="vocab_size is missing"):
        costmodel.kv_caches({key: value for key, value in TINY.items() if key != "vocab_size"}, 2)
    with pytest.raises(UserError, match="output_len 0"):
        costmodel.workload_flops(TINY, 4, 1, 10, 0)
