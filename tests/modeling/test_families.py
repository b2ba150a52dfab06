"""Every model family: conversion, Transformers and vLLM agree, and what a family cannot do is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from swiftkv.errors import UserError
from swiftkv.modeling import FAMILIES
from swiftkv.modeling.checkpoint import check_checkpoint
from swiftkv.modeling.convert import convert
from tests.helpers.config import make_config
from tests.helpers.models import save_family_base
from tests.helpers.vllm_helpers import RAW, SETTINGS, prompts


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A function family -> directory of a tiny base model."""
    root = tmp_path_factory.mktemp("families")

    def make(family: str):
        if not (root / family).exists():
            save_family_base(root / family, family)
        return root / family

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_student_without_late_layers_is_the_base(base, family, tmp_path):
    from transformers import AutoModelForCausalLM

    convert(base(family), tmp_path / "student", 8, 1)
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (base(family), tmp_path / "student")]
    ids = torch.tensor(prompts((40,)))
    with torch.inference_mode():
        first, second = (model(ids).logits for model in models)
    assert type(models[1]).__name__.endswith("SwiftKVForCausalLM") and torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_equals_one_pass(base, family, tmp_path):
    from transformers import AutoModelForCausalLM

    convert(base(family), tmp_path / "student", 4, 2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.tensor(prompts((30,)))
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        whole = model(out[:, :-1], use_cache=False).logits[0, 29:].argmax(-1)
    assert torch.equal(out[0, 30:], whole)


def test_late_key_norms_belong_to_group_leaders(base, tmp_path):
    convert(base("qwen3"), tmp_path / "student", 4, 2)
    names = [name for name in load_file(tmp_path / "student" / "model.safetensors") if "k_norm" in name]
    assert sorted(int(name.split(".")[2]) for name in names) == [0, 1, 2, 3, 4, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_distillation_trains_the_students_own_tensors_alone(base, family):
    from transformers import AutoModelForCausalLM

    from swiftkv.distill.students import build_student

    student = build_student(AutoModelForCausalLM.from_pretrained(base(family)), 4, 2, init="group-mean", train="qkv")
    trained = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    assert trained and all("_swiftkv" in name for name in trained)


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_sliding_windows_are_refused_by_name(family, tmp_path):
    window = {"sliding_window": 64} | (
        {"use_sliding_window": True, "max_window_layers": 4} if family == "qwen2" else {}
    )
    save_family_base(tmp_path / "base", family, **window)
    with pytest.raises(UserError, match="sliding_window is 64"):
        convert(tmp_path / "base", tmp_path / "student", 4, 1)
    assert not (tmp_path / "student").exists()


def test_other_families_are_refused_by_name(base, tmp_path):
    shutil.copytree(base("llama"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    with pytest.raises(UserError, match=r"'mixtral' is not supported; allowed is .*llama.*qwen3"):
        check_checkpoint(tmp_path / "base")


def with_dead_tensors(student, base, target) -> None:
    """The student as published checkpoints are: the base's late q, k and v (and key norms) still inside."""
    shutil.copytree(student, target)
    ours, theirs = (load_file(path / "model.safetensors") for path in (student, base))
    dead = {name: theirs[name] for name in theirs.keys() - ours.keys()}
    assert {name.split(".")[-2] for name in dead} >= {"q_proj", "k_proj", "v_proj"}
    save_file(ours | dead, target / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_published_checkpoints_load_with_their_dead_tensors(base, family, tmp_path):
    from transformers import AutoModelForCausalLM

    convert(base(family), tmp_path / "student", 4, 2)
    with_dead_tensors(tmp_path / "student", base(family), tmp_path / "published")
    check_checkpoint(tmp_path / "published")
    ids, logits = torch.tensor(prompts((40,))), []
    for name in ("student", "published"):
        model, info = AutoModelForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        with torch.inference_mode():
            logits.append(model.eval()(ids).logits)
    assert torch.equal(*logits)


def save_biased(directory) -> None:
    """A Llama with biases on q, k, v and o and in the MLP, as some models in its format have them."""
    save_family_base(directory, "llama", attention_bias=True, mlp_bias=True)


def save_both_formats(directory) -> None:
    """A Mistral as its makers publish it: sharded weights, and the same once more in a format of their own, whose
    tensors here are others, so that whoever reads them shows it."""
    from transformers import AutoModelForCausalLM

    save_family_base(directory, "mistral", head_dim=64)
    AutoModelForCausalLM.from_pretrained(directory).save_pretrained(directory, max_shard_size="100KB")
    (directory / "model.safetensors").unlink()
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    names = [f"layers.{n}.attention.wq.weight" for n in range(8)] + ["tok_embeddings.weight", "output.weight"]
    save_file({name: torch.zeros(64, 64) for name in names}, directory / "consolidated.safetensors")
    sizes = {"dim": 64, "n_layers": 8, "head_dim": 64, "hidden_dim": 96, "n_heads": 2, "n_kv_heads": 1}
    rest = {"norm_eps": 1e-6, "vocab_size": 300, "rope_theta": 1e4}
    (directory / "params.json").write_text(json.dumps(sizes | rest))


@pytest.mark.vllm
@pytest.mark.parametrize("save", [save_biased, save_both_formats])
def test_checkpoints_of_other_makes_are_read_alike(save, tiny_tokenizer, tmp_path):
    """By Transformers and vLLM, as a base and as a student."""
    from swiftkv.base_model.fetch import resolve_base
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import Reference, generate

    save(tmp_path / "given")
    tiny_tokenizer.save_pretrained(tmp_path / "given")
    base = {"source": "local", "path": str(tmp_path / "given")}
    resolve_base(make_config(instead={"base": base}), tmp_path / "base")
    convert(tmp_path / "base", tmp_path / "student", 4, 2)
    for name in ("base", "student"):
        assert not (tmp_path / name / "consolidated.safetensors").exists()
        with engine(tmp_path / name, **SETTINGS | RAW) as opened:
            answers = generate(opened, prompts((7, 129)), 12)
        difference = Reference(tmp_path / name).compare(answers)
        assert difference.mismatches == 0 and difference.delta < 1e-3, name


@pytest.mark.vllm
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_answers_as_transformers(base, family, tmp_path):
    """With dead tensors, AcrossKV 2, chunks of 64 tokens; the second pass reads prompts and answers from the cache."""
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import Reference, count_layer_tokens, generate

    convert(base(family), tmp_path / "student", 4, 2)
    with_dead_tensors(tmp_path / "student", base(family), tmp_path / "published")
    settings = SETTINGS | RAW | {"max_num_batched_tokens": 64, "enable_prefix_caching": True}
    with engine(tmp_path / "published", **settings) as opened:
        counted = count_layer_tokens(opened)
        first = generate(opened, prompts(), 16)
        counts = counted()
        assert counts["late"] < counts["early"] / 2
        second = generate(opened, [a.prompt + a.tokens + [7, 8, 9] for a in first], 16)
    assert sum(answer.cached for answer in second) > 0
    difference = Reference(tmp_path / "student").compare(first + second)
    assert difference.mismatches == 0 and difference.delta < 1e-3


@pytest.mark.vllm
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_vllm_serves_a_student_without_late_layers_as_the_base(base, family, tmp_path):
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import generate

    convert(base(family), tmp_path / "student", 8, 1)
    answers = []
    for directory in (base(family), tmp_path / "student"):
        with engine(directory, **SETTINGS | RAW) as opened:
            answers.append([answer.tokens for answer in generate(opened, prompts((7, 200)), 16)])
    assert answers[0] == answers[1]
