"""A student under torch.compile, tensor parallelism, a quantised KV cache, and wide AcrossKV groups.

Where arithmetic is exact enough the reference is Transformers; engines with a quantised cache are held against the same
engine in full-prefill mode, in which every token runs every layer. Quantised weights: test_quantised.py.
"""

import pytest

from swiftkv.modeling.convert import convert
from swiftkv.provenance import vector_units
from tests.helpers.models import save_tiny_base
from tests.helpers.vllm_helpers import SETTINGS, answers_of, assert_equal_answers, prompts

pytestmark = pytest.mark.vllm
WIDE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def student(tiny_tokenizer, tmp_path_factory):
    """A student with two KV heads of 32, cut 4 of 8 and AcrossKV 2."""
    root = tmp_path_factory.mktemp("modes")
    save_tiny_base(root / "base", tiny_tokenizer, **WIDE)
    convert(root / "base", root / "student", 4, 2)
    return root / "student"


def assert_transformers_agrees(directory, answers) -> None:
    from swiftkv.evals.reference import Reference

    found = Reference(directory).compare(answers)
    assert found.mismatches == 0 and found.delta < 1e-3


def test_compiled_halves_answer_as_transformers(student):
    answers, _ = answers_of(student, enforce_eager=False, max_num_batched_tokens=97)
    assert_transformers_agrees(student, answers)


def test_two_tensor_parallel_ranks_answer_as_transformers(student):
    answers, tokens = answers_of(student, tensor_parallel_size=2, max_num_batched_tokens=97)
    assert_transformers_agrees(student, answers)
    # Each rank holds one of the two KV heads, so that its memory is enough for twice the tokens.
    per_token = 2 * 1 * 32 * 4 * 6
    assert tokens == int(SETTINGS["kv_cache_gib"] * 2**30) // (per_token * 128) * 128


def test_groups_of_eight_layers_share_one_cache(tiny_tokenizer, tmp_path):
    save_tiny_base(tmp_path / "base", tiny_tokenizer, num_hidden_layers=16)
    convert(tmp_path / "base", tmp_path / "student", 8, 8)
    memory = 16 * 9 * 128 * 2 * 32 * 4  # 16 blocks of 9 caches, 9 blocks of 16
    settings = {"kv_cache_gib": 4 * memory / 2**30, "max_num_batched_tokens": 97}
    answers, tokens = answers_of(tmp_path / "student", **settings)
    _, of_base = answers_of(tmp_path / "base", **settings)
    assert_transformers_agrees(tmp_path / "student", answers)
    assert tokens * 9 == of_base * 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_kv_cache_answers_as_in_full_prefill(student, dtype):
    """With AcrossKV 2: its saving and that of one byte a value multiply."""
    if vector_units() == "AVX2":
        pytest.skip("vLLM has an FP8 KV cache only on CPUs with AVX-512 or AMX")
    settings = {"kv_cache_dtype": "fp8", "dtype": dtype}
    ours, tokens = answers_of(student, **settings)
    theirs, _ = answers_of(student, full_prefill=True, **settings)
    assert_equal_answers(ours, theirs)
    assert tokens == int(SETTINGS["kv_cache_gib"] * 2**30) // (2 * 2 * 32 * 1 * 6 * 128) * 128


def test_engines_of_a_process_share_random_weights(student):
    """All that base and student have in common is one copy, and both still answer."""
    from swiftkv.engines.engine import SHARED, engine
    from swiftkv.evals.reference import request

    def addresses(model) -> dict:
        return {name: (parameter.data_ptr(), parameter.shape) for name, parameter in model.named_parameters()}

    with (
        engine(student.parent / "base", load_format=SHARED, **SETTINGS) as first,
        engine(student, load_format=SHARED, **SETTINGS) as second,
    ):
        base, ours = (opened.apply_model(addresses)[0] for opened in (first, second))
        assert all(len(request(opened, prompts((7, 64)), 3)) == 2 for opened in (first, second))
    same_shape = {name for name in base.keys() & ours.keys() if base[name][1] == ours[name][1]}
    assert len(same_shape) > 40 and all(base[name] == ours[name] for name in same_shape)
    own = ours.keys() - same_shape
    assert {name.split(".")[-2] for name in own} == {"q_proj_swiftkv", "kv_proj", "norm_swiftkv"}


def test_base_models_keep_to_the_runner_that_takes_students(tmp_path, monkeypatch):
    """vLLM before 0.31 runs Llama on the second runner, which does not take the students' refusal of log-probs."""
    import importlib.util
    import os
    from types import SimpleNamespace

    from swiftkv.engines.engine import V2_LOGITS_PROCESSORS, keep_one_runner

    name = "VLLM_USE_V2_MODEL_RUNNER"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    monkeypatch.setenv(name, "1")
    keep_one_runner()
    assert os.environ[name] == "1"  # a user's own setting wins
    monkeypatch.delenv(name)
    keep_one_runner()
    assert os.environ[name] == "0"
    monkeypatch.delenv(name)
    (tmp_path / V2_LOGITS_PROCESSORS).parent.mkdir(parents=True)
    (tmp_path / V2_LOGITS_PROCESSORS).touch()
    keep_one_runner()
    assert name not in os.environ
