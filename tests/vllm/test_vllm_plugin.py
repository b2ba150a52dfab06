"""The vLLM plugin against Transformers, on small random models: exact logits, real savings, clear refusals."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from swiftkv.errors import UserError
from swiftkv.modeling.convert import convert
from tests.helpers import vllm_helpers
from tests.helpers.vllm_helpers import RAW, SETTINGS, prompts

pytestmark = pytest.mark.vllm
LAYERS, BLOCK = 8, 128
PAGE = 2 * 1 * 32 * 4 * BLOCK  # bytes of a block in one KV cache of the tiny models, float32


def open_engine(directory, **settings):
    from swiftkv.engines.engine import engine

    return engine(directory, **SETTINGS | RAW | settings)


@pytest.fixture(scope="module")
def student(tiny_base, tmp_path_factory):
    """A function (cut, group) -> directory of an undistilled student of the tiny base."""
    root = tmp_path_factory.mktemp("students")

    def make(cut: int, group: int = 1) -> Path:
        directory = root / f"{cut}-{group}"
        if not directory.exists():
            convert(tiny_base, directory, cut, group)
        return directory

    return make


def tokens_of(directory, **settings):
    from swiftkv.evals.reference import generate

    with open_engine(directory, **settings) as engine:
        return [answer.tokens for answer in generate(engine, prompts(), 16)]


def test_plugin_registers_once_and_leaves_base_models_alone():
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from swiftkv.modeling import FAMILIES
    from swiftkv.vllm.plugin import register

    architectures = {model.__name__: model.vllm_model for model in FAMILIES.values()}
    before = ModelRegistry.models["LlamaForCausalLM"]
    register()
    first = {name: (ModelRegistry.models[name], MODELS_CONFIG_MAP[name]) for name in architectures}
    register()
    assert {name: (ModelRegistry.models[name], MODELS_CONFIG_MAP[name]) for name in architectures} == first
    for name, (model, _) in first.items():
        assert f"{model.module_name}:{model.class_name}" == architectures[name]
    assert ModelRegistry.models["LlamaForCausalLM"] is before
    assert "LlamaForCausalLM" not in MODELS_CONFIG_MAP


@pytest.mark.parametrize(("cut", "group"), [(4, 1), (2, 2), (4, 4)])
def test_chunked_mixed_and_cached_batches_match_transformers(student, cut, group):
    """Chunks of 64 tokens mix prompts with decoding; the second pass reads prompts and answers from the cache."""
    from swiftkv.evals.reference import Reference, capacity, count_layer_tokens, generate

    reference = Reference(student(cut, group))
    settings = {"max_num_batched_tokens": 64, "enable_prefix_caching": True}
    with open_engine(student(cut, group), **settings) as engine:
        counted = count_layer_tokens(engine)
        first = generate(engine, prompts(), 24)
        counts = counted()
        assert counts["late"] < counts["early"] / 2
        longer = [answer.prompt + answer.tokens + [7, 8, 9] for answer in first]
        second = generate(engine, longer, 24)
        caches = cut + (LAYERS - cut) // group
        assert capacity(engine) == int(SETTINGS["kv_cache_gib"] * 2**30) // (PAGE * caches) * BLOCK
    assert sum(answer.cached for answer in first) == 0 < sum(answer.cached for answer in second)
    difference = reference.compare(first + second)
    assert difference.mismatches == 0 and difference.tokens == 2 * 24 * len(first)
    assert difference.delta < 1e-3


def test_only_needed_tokens_run_late_layers_and_prompt_logprobs_are_refused(student):
    from vllm.exceptions import VLLMValidationError

    from swiftkv.evals.reference import Reference, count_layer_tokens, generate, request

    with open_engine(student(4, 2)) as engine:
        counted = count_layer_tokens(engine)
        request(engine, prompts(), 1)
        assert counted() == Counter(early=sum(map(len, prompts())), late=len(prompts()))
        for wanted in (0, 1):
            with pytest.raises(VLLMValidationError, match=r"prompt_logprobs.*full-prefill mode"):
                request(engine, prompts(), 1, prompt_logprobs=wanted)
        difference = Reference(student(4, 2)).compare(generate(engine, prompts(), 16))
    assert difference.mismatches == 0 and difference.delta < 1e-3


def test_guard_is_one_of_the_second_model_runner_too():
    """Where the engine keeps it: before vLLM 0.31 that runner has no such processors."""
    loader = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor.loader", exc_type=ImportError)
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

    from swiftkv.vllm.guards import GUARD, PromptLogprobsGuard

    check = loader.build_custom_logits_processors_params_validator([GUARD])
    check(SamplingParams(logprobs=5))
    with pytest.raises(VLLMValidationError, match="full-prefill mode"):
        check(SamplingParams(prompt_logprobs=0))
    guard = PromptLogprobsGuard(None, None)
    assert (
        isinstance(guard, LogitsProcessor) and guard.add_request(0, None) is False and guard.apply("logits") == "logits"
    )


@pytest.mark.parametrize("switch", ["setting", "environment"])
def test_full_prefill_mode_runs_every_layer_and_scores_prompts(student, monkeypatch, switch):
    from swiftkv.evals.reference import Reference, count_layer_tokens, request

    if switch == "environment":
        monkeypatch.setenv("SWIFTKV_FULL_PREFILL", "1")
    with open_engine(student(4, 2), full_prefill=switch == "setting") as engine:
        counted = count_layer_tokens(engine)
        outputs = request(engine, prompts(), 1, prompt_logprobs=0)
        counts = counted()
        assert counts["late"] == counts["early"] == sum(map(len, prompts()))
    reference = Reference(student(4, 2))
    assert max(reference.prompt_delta(o.prompt_token_ids, o.prompt_logprobs) for o in outputs) < 1e-3


def test_without_late_layers_it_is_the_base_model(tiny_base, student):
    assert tokens_of(student(LAYERS)) == tokens_of(tiny_base)


def test_published_checkpoints_load_with_their_dead_projections(tiny_base, student, tmp_path):
    shutil.copytree(student(4, 2), tmp_path / "published")
    ours, base = load_file(student(4, 2) / "model.safetensors"), load_file(tiny_base / "model.safetensors")
    dead = {name: base[name] for name in base.keys() - ours.keys()}
    assert len(dead) == 3 * 4
    save_file(ours | dead, tmp_path / "published" / "model.safetensors", {"format": "pt"})
    assert tokens_of(tmp_path / "published") == tokens_of(student(4, 2))


@pytest.mark.parametrize("checked_before", [True, False])
def test_missing_tensor_is_named(student, tmp_path, monkeypatch, checked_before):
    missing = "model.layers.6.self_attn.v_proj_swiftkv.weight"
    shutil.copytree(student(4, 2), tmp_path / "broken")
    tensors = load_file(student(4, 2) / "model.safetensors")
    del tensors[missing]
    save_file(tensors, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    if not checked_before:  # as when served with vLLM's own command
        monkeypatch.setattr("swiftkv.modeling.checkpoint.check_checkpoint", lambda directory: None)
    with pytest.raises(UserError, match=missing), open_engine(tmp_path / "broken"):
        pass


def test_weight_map_and_its_inverse_agree():
    from swiftkv.modeling import LlamaSwiftKVConfig
    from swiftkv.vllm.weights import WeightMap

    config = LlamaSwiftKVConfig(
        num_hidden_layers=6, num_key_value_layers=2, key_value_group_size=2, tie_word_embeddings=True
    )
    where = WeightMap(config)
    assert where.target("model.layers.3.self_attn.k_proj.weight") is None
    assert where.target("model.layers.1.self_attn.k_proj.weight") == (
        "model.layers.1.self_attn.qkv_proj.weight",
        "k",
    )
    names = [f"model.layers.{j}.self_attn.{n}_proj_swiftkv.weight" for n in "kv" for j in (2, 4)]
    assert [where.target(name)[1] for name in names] == [0, 1, 2, 3]
    for name in (
        *names,
        "model.layers.5.mlp.up_proj.weight",
        "model.norm_swiftkv.weight",
        "model.norm.weight",
    ):
        assert name in where.sources(where.target(name)[0])


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("1.self_attn.k_scale", [1]),
        ("1.self_attn.attn.v_scale", [1]),
        ("1.self_attn.k_proj.k_scale", [1]),
        ("1.self_attn.v_proj.output_scale", [1]),
        ("2.self_attn.k_scale", [2, 3]),
        ("4.self_attn.v_proj_swiftkv.output_scale", [4, 5]),
        ("3.self_attn.k_scale", []),  # its group's first layer says it
        ("3.self_attn.q_scale", [3]),
        ("4.self_attn.k_proj.output_scale", []),  # of K that is never computed
    ],
)
def test_scales_of_a_cache_go_to_all_layers_that_read_it(name, readers):
    from swiftkv.modeling import LlamaSwiftKVConfig
    from swiftkv.vllm.weights import WeightMap

    where = WeightMap(LlamaSwiftKVConfig(num_hidden_layers=6, num_key_value_layers=2, key_value_group_size=2))
    kind = next(letter for letter in "kvq" if f"{letter}_" in name)
    wanted = [f"model.layers.{reader}.self_attn.attn.{kind}_scale" for reader in readers]
    assert where.cache_scales(f"model.layers.{name}") == wanted


@pytest.mark.parametrize("name", ["weight", "weight_scale", "input_scale", "weight_scale_inv"])
def test_scales_of_weights_are_no_scales_of_a_cache(name):
    from swiftkv.modeling import LlamaSwiftKVConfig
    from swiftkv.vllm.weights import WeightMap

    where = WeightMap(LlamaSwiftKVConfig(num_hidden_layers=6, num_key_value_layers=2))
    for module in ("self_attn.k_proj", "self_attn.v_proj_swiftkv", "mlp.up_proj"):
        assert where.cache_scales(f"model.layers.2.{module}.{name}") is None


def test_config_alone_serves_with_dummy_weights(student, tmp_path):
    shutil.copy(student(4, 4) / "config.json", tmp_path)
    answers = tokens_of(tmp_path, load_format="dummy", dtype="bfloat16")
    assert [len(tokens) for tokens in answers] == [16] * len(answers)


def test_engines_of_one_process_live_side_by_side(tiny_base, student):
    from swiftkv.evals.reference import request

    with open_engine(tiny_base) as base:
        before = [output.outputs[0].token_ids for output in request(base, prompts(), 8)]
        with open_engine(student(4)) as other:
            request(other, prompts(), 8)
        del other
        gc.collect()  # closed and forgotten, an engine leaves the others alone
        assert [output.outputs[0].token_ids for output in request(base, prompts(), 8)] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_model_len": 4096}, "max_position_embeddings 2048"),
        ({"max_num_batched_tokens": 4}, "refused the engine"),
    ],
)
def test_bad_settings_are_one_line(student, change, message):
    with pytest.raises(UserError, match=message) as caught, open_engine(student(4), **change):
        pass
    assert "\n" not in str(caught.value)


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"), open_engine(tmp_path / "nowhere"):
        pass


def lives(process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_served_engine_refuses_goes_on_and_dies_with_its_parent(student):
    script = vllm_helpers.__file__
    command = [sys.executable, script, str(student(4, 2))]
    front = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    try:
        lines = list(itertools.takewhile(lambda line: line != "READY\n", front.stdout))  # ends if the front end does
        children = psutil.Process(front.pid).children(recursive=True)
    finally:
        front.kill()
        front.wait()
    answers = [line.removeprefix("ANSWER ").strip() for line in lines if line.startswith("ANSWER")]
    assert [answer.split(":")[0] for answer in answers] == [
        "VLLMValidationError",
        "VLLMValidationError",
        "ok",
    ]
    assert "full-prefill mode" in answers[0]
    assert len(children) >= 2
    deadline = time.monotonic() + 60
    while any(map(lives, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [child.pid for child in children if lives(child)]
