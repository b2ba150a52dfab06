"""Conversion, the strict checkpoint check, and bringing the base model in."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from swiftkv.base_model import fetch
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import check_checkpoint, num_hidden_layers, read_shape
from swiftkv.modeling.convert import convert
from swiftkv.planning import capacity
from tests.helpers.models import save_tiny_base


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.fixture
def student(tiny_base, tmp_path):
    convert(tiny_base, tmp_path / "student", cut=4, group=2)
    return tmp_path / "student"


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, change):
    tensors = weights(directory)
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def test_initial_values_are_the_published_ones(tiny_base, student):
    old, new = weights(tiny_base), weights(student)
    name = "model.layers.{}.self_attn.{}.weight".format
    for layer in range(4, 8):
        assert torch.equal(new[name(layer, "q_proj_swiftkv")], old[name(layer, "q_proj")])
    for first in (4, 6):
        for kind in "kv":
            pair = [old[name(first + i, f"{kind}_proj")] for i in range(2)]
            torch.testing.assert_close(new[name(first, f"{kind}_proj_swiftkv")], (pair[0] + pair[1]) / 2)
            assert name(first + 1, f"{kind}_proj_swiftkv") not in new
    assert torch.equal(new["model.norm_swiftkv.weight"], old["model.layers.4.input_layernorm.weight"])


def test_frozen_tensors_are_kept_and_dead_ones_left_out(tiny_base, student):
    old, new = weights(tiny_base), weights(student)
    dead = {f"model.layers.{j}.self_attn.{n}_proj.weight" for j in range(4, 8) for n in "qkv"}
    assert set(old) - set(new) == dead
    assert all(torch.equal(new[name], old[name]) for name in set(old) - dead)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_student_at_the_top_of_the_stack_is_the_base(tiny_base, tmp_path, group):
    convert(tiny_base, tmp_path / "same", cut=8, group=group)
    tokens = torch.arange(30)[None] % 300
    both = [AutoModelForCausalLM.from_pretrained(path)(tokens).logits for path in (tiny_base, tmp_path / "same")]
    assert torch.equal(*both)


def test_config_and_tokenizer_come_along(tiny_base, student):
    config = json.loads((student / "config.json").read_text())
    assert config["model_type"] == "llama_swiftkv"
    assert config["architectures"] == ["LlamaSwiftKVForCausalLM"]
    assert (config["swiftkv"], config["num_key_value_layers"], config["key_value_group_size"]) == (True, 4, 2)
    text = "SELECT total FROM orders"
    old, new = (AutoTokenizer.from_pretrained(path) for path in (tiny_base, student))
    assert old(text)["input_ids"] == new(text)["input_ids"]
    assert json.loads((student / "config.json.provenance.json").read_text())["cut"] == 4


def test_biases_and_dtype_are_carried(tmp_path, tiny_tokenizer):
    save_tiny_base(tmp_path / "base", tiny_tokenizer, attention_bias=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(tmp_path / "base")
    convert(tmp_path / "base", tmp_path / "student", cut=4, group=4)
    old, new = weights(tmp_path / "base"), weights(tmp_path / "student")
    stack = torch.stack([old[f"model.layers.{j}.self_attn.v_proj.bias"].float() for j in range(4, 8)])
    got = new["model.layers.4.self_attn.v_proj_swiftkv.bias"]
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, stack.mean(0).bfloat16())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "student")(torch.arange(5)[None]).logits.isfinite().all()


def test_published_checkpoints_with_the_dead_projections_load(tiny_base, student):
    tokens = torch.arange(20)[None]
    expected = AutoModelForCausalLM.from_pretrained(student)(tokens).logits
    old = weights(tiny_base)
    edit_weights(student, lambda t: t.update({k: v for k, v in old.items() if k not in t}))
    assert "model.layers.7.self_attn.k_proj.weight" in weights(student)
    check_checkpoint(student)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(student)(tokens).logits, expected)


def test_a_failed_conversion_leaves_the_old_student(tiny_base, student, monkeypatch):
    before = weights(student)
    monkeypatch.setattr("swiftkv.modeling.convert.copy_companions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(tiny_base, student, cut=6, group=1)
    assert set(weights(student)) == set(before)
    assert [path.name for path in student.parent.iterdir()] == ["student"]


def test_missing_directory_and_config(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such model directory"):
        check_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        check_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.999])
def test_truncated_weights_name_the_file(student, keep):
    path = student / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated"):
        check_checkpoint(student)


def test_missing_weights_and_shards(student):
    (student / "model.safetensors").rename(student / "model-00001.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        check_checkpoint(student)
    index = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (student / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-00002\.safetensors is missing"):
        check_checkpoint(student)


@pytest.mark.parametrize(
    "name",
    [
        "model.norm_swiftkv.weight",
        "model.layers.5.self_attn.q_proj_swiftkv.weight",
        "model.layers.6.self_attn.v_proj_swiftkv.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.embed_tokens.weight",
    ],
)
def test_missing_tensor_is_named(student, name):
    edit_weights(student, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"tensor {name} is missing"):
        check_checkpoint(student)


def test_wrong_shape_is_named_with_both_shapes(student):
    name = "model.layers.4.self_attn.k_proj_swiftkv.weight"
    edit_weights(student, lambda tensors: tensors.update({name: torch.zeros(16, 64)}))
    with pytest.raises(UserError, match=rf"{name} has shape \[16, 64\], expected \[32, 64\]"):
        check_checkpoint(student)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_layers": 9}, "num_key_value_layers is 9; allowed is 1 to 8"),
        ({"num_key_value_layers": 0}, "num_key_value_layers is 0; allowed is 1 to 8"),
        ({"key_value_group_size": 3}, "key_value_group_size 3 does not divide the 4 layers"),
        ({"num_key_value_layers": "four"}, "whole numbers"),
        ({"model_type": "mixtral"}, "'mixtral' is not supported"),
        ({"model_type": "deepseek_v2"}, "'deepseek_v2' is not supported"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
    ],
)
def test_impossible_configs_are_named(student, changes, words):
    edit_config(student, **changes)
    with pytest.raises(UserError, match=words) as caught:
        check_checkpoint(student)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cut", "group", "words"),
    [(9, 1, "num_key_value_layers is 9"), (0, 1, "num_key_value_layers is 0"), (4, 3, "does not divide")],
)
def test_convert_refuses_impossible_students(tiny_base, tmp_path, cut, group, words):
    with pytest.raises(UserError, match=words):
        convert(tiny_base, tmp_path / "out", cut, group)
    assert not (tmp_path / "out").exists()


def test_number_of_layers(tiny_base, student, tmp_path):
    assert num_hidden_layers(tiny_base) == num_hidden_layers(student) == 8
    with pytest.raises(UserError, match="no such model directory"):
        num_hidden_layers(tmp_path / "none")


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "tie_word_embeddings"])
def test_a_shape_has_what_its_class_says_of_keys_left_out(tiny_tokenizer, tmp_path, key):
    """Early Llamas name no num_key_value_heads: they have as many as query heads."""
    save_tiny_base(tmp_path / "base", tiny_tokenizer, num_key_value_heads=2, tie_word_embeddings=False)
    whole = read_shape(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    raw = json.loads(path.read_text())
    del raw[key]
    path.write_text(json.dumps(raw))
    assert read_shape(tmp_path / "base") == whole
    assert capacity.model_shape(str(tmp_path / "base"))[key] == whole[key]


def test_convert_refuses_a_student_as_base(student, tmp_path):
    with pytest.raises(UserError, match="'llama_swiftkv' is not supported; allowed is llama or"):
        convert(student, tmp_path / "out", 4, 1)


def resolve(settings, out):
    fetch.resolve_base(RunConfig({"scale": "x", "seed": 0, "base": settings}, "x"), out)


@pytest.mark.parametrize("source", ["local", "embedded"])
def test_local_base_is_copied(tiny_base, tmp_path, source):
    resolve({"source": source, "path": str(tiny_base)}, tmp_path / "base")
    check_checkpoint(tmp_path / "base")
    assert not (tmp_path / "base" / "model.safetensors").is_symlink()
    record = json.loads((tmp_path / "base" / "config.json.provenance.json").read_text())
    assert next(iter(record["data_sha256"].values()))


def test_large_base_is_linked(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "COPY_BELOW_BYTES", 1000)
    resolve({"source": "local", "path": str(tiny_base)}, tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors").is_symlink()
    assert not (tmp_path / "base" / "config.json").is_symlink()
    check_checkpoint(tmp_path / "base")


def test_missing_local_base(tmp_path):
    with pytest.raises(UserError, match=r"base\.path: no/such/place: no such directory"):
        resolve({"source": "local", "path": "no/such/place"}, tmp_path / "base")


def test_unsupported_base_is_refused_by_name(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "moe")
    edit_config(tmp_path / "moe", model_type="qwen3_moe")
    with pytest.raises(UserError, match="'qwen3_moe' is not supported"):
        resolve({"source": "local", "path": str(tmp_path / "moe")}, tmp_path / "base")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RepositoryNotFoundError", "no such repository"),
        ("RevisionNotFoundError", "no such revision"),
        ("GatedRepoError", "gated"),
        ("LocalEntryNotFoundError", "not cached and not reachable"),
    ],
)
def test_hub_errors_are_one_line(tmp_path, monkeypatch, error, words):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*_, **__):
        kind = getattr(errors, error)
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind("no", response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))
        raise kind("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=words) as caught:
        resolve({"source": "hub", "path": "org/model", "revision": "0" * 40}, tmp_path / "base")
    assert "org/model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_base_without_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not cached and not reachable"):
        resolve({"source": "hub", "path": "org/none", "revision": "0" * 40}, tmp_path / "base")
