"""Quantised checkpoints: each answers as its dequantised self does, or is refused by name.

Early exit is held against the same engine in full-prefill mode, and the weights against the student of the same weights
in plain numbers.
"""

import pytest
import torch
from safetensors.torch import load_file

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.modeling.convert import convert, dead_tensors
from swiftkv.provenance import vector_units
from tests.helpers.models import FAMILY_CHANGES, save_tiny_base
from tests.helpers.quantised import FP8, Scheme, dequantised, gptq, quantise, save
from tests.helpers.vllm_helpers import answers_of, assert_equal_answers

pytestmark = pytest.mark.vllm
K, V = (f"model.layers.{{}}.self_attn.{name}_proj_swiftkv.weight" for name in "kv")
LATE_KV = ("k_proj_swiftkv", "v_proj_swiftkv")
WIDE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
LENGTHS = (7, 64, 200)


@pytest.fixture(scope="module")
def student(tiny_tokenizer, tmp_path_factory):
    """A student with two KV heads of 32, cut 4 of 8 and AcrossKV 2."""
    root = tmp_path_factory.mktemp("quantised")
    # Smaller weights than other tests have, which would make eight bits of an activation another model.
    save_tiny_base(root / "base", tiny_tokenizer, std=0.05, **WIDE)
    convert(root / "base", root / "student", 4, 2)
    return root / "student"


def answers(directory, **settings) -> list:
    return answers_of(directory, LENGTHS, dtype="bfloat16", **settings)[0]


def distance(ours, theirs) -> float:
    """How far the first logits of each answer are from others', as a share of the largest. Between a student and itself
    with late values of zero it is 0.26 to 0.45."""
    pairs = [(a.logits[0], b.logits[0]) for a, b in zip(ours, theirs, strict=True)]
    return max(abs(x[token] - y[token]) / max(y.values()) for x, y in pairs for token in x.keys() & y.keys())


@pytest.mark.parametrize(
    ("ignore", "plain"),
    [
        ([], ()),
        (["re:.*self_attn.[kv]_proj_swiftkv"], LATE_KV),
        ([name.format(layer).removesuffix(".weight") for layer in (4, 6) for name in (K, V)], LATE_KV),
        (["re:.*self_attn.*"], ("self_attn",)),
    ],
    ids=["all quantised", "late K and V plain, by regex", "late K and V plain, by name", "attention plain"],
)
def test_int8_weights_answer_as_the_same_weights_in_plain_numbers(student, tmp_path, ignore, plain):
    quantise(student, tmp_path / "int8", ["lm_head", *ignore], plain)
    dequantised(student, tmp_path / "plain", plain)
    assert distance(answers(tmp_path / "int8"), answers(tmp_path / "plain")) < 0.2


def test_int8_weights_answer_as_in_full_prefill(student, tmp_path):
    quantise(student, tmp_path / "int8")
    assert_equal_answers(answers(tmp_path / "int8"), answers(tmp_path / "int8", full_prefill=True))


def released(directory, base, student):
    """`student` with the tensors and the configuration keys of the released Llama 3.1 models: the late layers keep the
    base's q, k and v, and the rotary embedding has its older names alone."""
    tensors = load_file(base / "model.safetensors")
    save(directory, student, load_file(student / "model.safetensors") | dead_tensors(tensors, 8, 4, 1), None)
    config = files.read_json(directory / "config.json")
    newer = ("rope_parameters", "key_value_group_size", "dtype")
    older = {key: value for key, value in config.items() if key not in newer} | {"torch_dtype": "bfloat16"}
    files.write_json(directory / "config.json", older)


@pytest.mark.parametrize("scheme", [None, Scheme(FP8)], ids=["bf16", "FP8"])
def test_checkpoints_with_the_names_of_the_released_models(tiny_tokenizer, tmp_path, scheme):
    rope = FAMILY_CHANGES["llama"]
    save_tiny_base(tmp_path / "base", tiny_tokenizer, std=0.05, **WIDE, **rope, tie_word_embeddings=False)
    convert(tmp_path / "base", tmp_path / "ours", 4, 1)
    released(tmp_path / "theirs", tmp_path / "base", tmp_path / "ours")
    if scheme is None:
        assert_equal_answers(answers(tmp_path / "theirs"), answers(tmp_path / "ours"))
        return
    quantise(tmp_path / "theirs", tmp_path / "fp8", scheme=scheme)
    dequantised(tmp_path / "ours", tmp_path / "plain", scheme=scheme)
    assert "model.layers.7.self_attn.k_proj.weight_scale" in load_file(tmp_path / "fp8" / "model.safetensors")
    assert distance(answers(tmp_path / "fp8"), answers(tmp_path / "plain")) < 0.2


def test_four_bits_of_gptq_answer_as_the_same_weights_in_plain_numbers(student, tmp_path):
    if vector_units() == "AVX2":
        pytest.skip("vLLM has no product with four-bit weights on CPUs without AVX-512")
    save(tmp_path / "plain", student, gptq(student, tmp_path / "gptq"), None)
    assert distance(answers(tmp_path / "gptq"), answers(tmp_path / "plain")) < 0.2


IN_ORDER, MIXED = torch.arange(4) // 2, torch.tensor([1, 0, 0, 1])


@pytest.mark.parametrize(
    ("orders", "kept", "culprit"),
    [
        ((IN_ORDER, IN_ORDER), False, "lacks"),  # as every test above: the tensors that follow are missing
        ((MIXED, MIXED), True, "lacks"),
        ((MIXED, MIXED), False, r"4\.self_attn\.k_proj_swiftkv\.g_idx is an activation order"),
        ((IN_ORDER, MIXED), True, r"6\.self_attn\.k_proj_swiftkv\.g_idx is another order"),
    ],
)
def test_orders_that_one_matrix_cannot_have_are_named(orders, kept, culprit):
    from swiftkv.modeling import LlamaSwiftKVConfig
    from swiftkv.vllm.weights import LATE_KV, load_weights

    class Model(torch.nn.Module):
        def named_parameters(self):
            held = torch.nn.Parameter(torch.zeros(4, dtype=torch.int64), requires_grad=False)
            held.weight_loader = lambda parameter, tensor, shard: parameter.data.copy_(tensor)
            return ([(f"{LATE_KV}.g_idx", held)] if kept else []) + [("model.norm.weight", held)]

    config = LlamaSwiftKVConfig(num_hidden_layers=8, num_key_value_layers=4, key_value_group_size=2)
    names = (f"model.layers.{layer}.self_attn.k_proj_swiftkv.g_idx" for layer in (4, 6))
    with pytest.raises(UserError, match=culprit):
        load_weights(Model(), config, zip(names, orders, strict=True))


@pytest.mark.parametrize(
    ("ignore", "plain", "culprit"),
    [
        # Some of the matrix, which vLLM cannot hold.
        (["re:.*k_proj_swiftkv"], ("k_proj_swiftkv",), "quantization_config: k_proj_swiftkv and v_proj_swiftkv of all"),
        (["re:.*6.self_attn.[kv]_proj_swiftkv"], ("6.self_attn.k_proj_s", "6.self_attn.v_proj_s"), "one matrix here"),
        # Not quantised, and not said to be so.
        ([], LATE_KV, r"layers\.[46]\.self_attn\.[kv]_proj_swiftkv\.weight is torch.*under `ignore`"),
        ([], ("4.self_attn.q_proj_swiftkv",), r"layers\.4\.self_attn\.q_proj_swiftkv\.weight is torch"),
        # Said not to be quantised, and quantised.
        (["re:.*_proj_swiftkv"], (), r"_proj_swiftkv\.weight.* (does not fit|has no place)"),
    ],
)
def test_what_is_quantised_otherwise_than_the_configuration_says_is_named(student, tmp_path, ignore, plain, culprit):
    quantise(student, tmp_path / "int8", ["lm_head", *ignore], plain)
    with pytest.raises(UserError, match=culprit):
        answers(tmp_path / "int8")


@pytest.mark.parametrize(
    "missing", [f"{V.format(6)}_scale", "model.layers.1.self_attn.k_proj.weight_scale", "model.norm_swiftkv.weight"]
)
def test_a_missing_scale_is_named(student, tmp_path, monkeypatch, missing):
    monkeypatch.setattr("swiftkv.modeling.checkpoint.check_checkpoint", lambda directory: None)
    quantise(student, tmp_path / "int8", missing=[missing])
    with pytest.raises(UserError, match=missing):
        answers(tmp_path / "int8")


def test_scales_of_another_strategy_do_not_fit(student, tmp_path):
    quantise(student, tmp_path / "int8", added=[(f"{V.format(6)}_scale", torch.ones(1))])
    with pytest.raises(UserError, match=rf"{V.format(6)}_scale .*does not fit"):
        answers(tmp_path / "int8")


CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def cache_scales(name: str, layers) -> list:
    """Scales of the KV cache, other ones for every layer; powers of two, with which FP8 rounds as without."""
    return [
        (f"model.layers.{layer}.{name.format(kind)}", torch.tensor(2.0 ** (layer % 4 - 3 + (kind == "v"))))
        for layer in layers
        for kind in "kv"
    ]


def test_scales_of_the_kv_cache_are_those_of_the_checkpoint(student, tmp_path):
    """A group's layers read with the scales of its leader, whatever a checkpoint holds for the others."""
    if vector_units() == "AVX2":
        pytest.skip("vLLM has an FP8 KV cache only on CPUs with AVX-512 or AMX")
    quantise(student, tmp_path / "with", added=cache_scales("self_attn.{}_scale", range(8)), kv_cache_scheme=CACHE)
    quantise(student, tmp_path / "without", kv_cache_scheme=CACHE)
    ours, plain = (answers(tmp_path / which, kv_cache_dtype="fp8") for which in ("with", "without"))
    assert distance(ours, plain) < 0.05
    assert_equal_answers(ours, answers(tmp_path / "with", kv_cache_dtype="fp8", full_prefill=True))


def test_scales_of_the_kv_cache_are_of_no_use_to_one_that_is_not_quantised(student, tmp_path):
    quantise(student, tmp_path / "with", added=cache_scales("self_attn.attn.{}_scale", range(8)))
    quantise(student, tmp_path / "without")
    assert_equal_answers(answers(tmp_path / "with"), answers(tmp_path / "without"))
