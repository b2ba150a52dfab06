"""Base models as others publish them: Llama 3's missing padding token and RoPE, a head that the configuration denies,
quantised weights. Each is the embedded base, changed in one respect."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from swiftkv.base_model import fetch as base_stage
from swiftkv.config import ROOT, load_config
from swiftkv.distill import advise, loop
from swiftkv.distill.parallel import World
from swiftkv.distill.teacher import Teacher
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import check_checkpoint, read_config
from swiftkv.modeling.convert import convert
from swiftkv.workloads.stream import Batch, batch
from swiftkv.workloads.tokens import load_tokenizer
from tests.helpers.config import make_config

BASE = ROOT / "workflow" / "resources" / "base"
LAYERS = 8
LLAMA_31 = {  # as published: https://huggingface.co/meta-llama/Llama-3.1-8B
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}


def edit(path: Path, drop=(), **changes) -> None:
    raw = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(raw | changes))


def change_tensors(directory: Path, change) -> None:
    """Replace the checkpoint's tensors by what `change` makes of them."""
    tensors = change(load_file(directory / "model.safetensors"))
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / "model.safetensors", {"format": "pt"})


def no_pad(directory: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        edit(directory / name, ["pad_token_id"])
    edit(directory / "tokenizer_config.json", ["pad_token"])


def llama3_rope(directory: Path) -> None:
    edit(directory / "config.json", ["rope_parameters"], **LLAMA_31)


def own_head(directory: Path) -> None:
    """`tie_word_embeddings` stays true; the checkpoint has a head of other content."""
    order = torch.randperm(1280, generator=torch.Generator().manual_seed(1))
    change_tensors(directory, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"][order]})


CHANGES = {"no-pad": no_pad, "llama3-rope": llama3_rope, "own-head": own_head}


def make(directory: Path, change) -> Path:
    shutil.copytree(BASE, directory)
    change(directory)
    return directory


def texts(directory: Path) -> Batch:
    return batch(load_config().tasks, load_tokenizer(directory), 4, 400, seed=3, index=0, split="test")


def of_transformers(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] in float32; `from_pretrained` is what everyone reads a model with."""
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()(ids).logits


def model_class(worker) -> str:
    """Of the decoder stack in a worker."""
    return type(worker.get_model().model).__name__


def of_teacher(directory: Path, data: Batch) -> torch.Tensor:
    """Logits [tokens, V] of every row in turn, without its padding."""
    teacher = Teacher(directory, World(), float32=True)
    passed = teacher.run(data, {0})
    with torch.inference_mode():
        return passed.head(passed.final)[0]


@pytest.mark.vllm
@pytest.mark.parametrize("name", CHANGES)
def test_everyone_reads_the_same_model(name, tmp_path):
    """Transformers, the teacher, a student at l = L in Transformers, and both in vLLM."""
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import RAW_LOGITS, Reference, generate

    directory, whole = make(tmp_path / "base", CHANGES[name]), tmp_path / "whole"
    convert(directory, whole, LAYERS, 1)
    data = texts(directory)
    wanted = of_transformers(directory, data.input_ids)
    real = torch.arange(wanted.shape[1]) < data.lengths[:, None]
    torch.testing.assert_close(of_teacher(directory, data), wanted[real], rtol=0, atol=5e-3)
    torch.testing.assert_close(of_transformers(whole, data.input_ids), wanted, rtol=0, atol=5e-3)
    if name != "no-pad":  # the change is one that a wrong reader would miss
        assert (of_transformers(BASE, data.input_ids) - wanted).abs().max() > 1
    prompts = [row[:length].tolist() for row, length in zip(data.input_ids, data.lengths, strict=True)]
    settings = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 2048, "kv_cache_gib": 0.02}
    reference, classes = Reference(directory), []
    for served in (directory, whole):
        with engine(served, **settings, **RAW_LOGITS) as opened:
            classes += opened.collective_rpc(model_class)
            difference = reference.compare(generate(opened, prompts, 8))
        # The base was not trained with Llama 3.1's RoPE, and amplifies rounding under it (1.8e-3 as it is served).
        assert difference.delta < 5e-3 and difference.mismatches == 0, served
    assert classes[0] == classes[1], "at l = L vLLM compiles a model of its own as a whole"


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_distilled_and_the_student_is_close(name, tmp_path):
    """At a cut near the top, so that the student's logits are near the base's only if both read it alike."""
    directory = make(tmp_path / "base", CHANGES[name])
    change = {"distill": {"steps": 2, "batch_tokens": 2048}, "tasks": {"sql": {}}}
    config = make_config(change, of="smoke", instead={"variants": [{"name": "top", "skip": 1 / LAYERS}]})
    loop.run(config, directory, tmp_path / "models", tmp_path / "work", loop.Options(float32=True))
    ids = texts(directory).input_ids
    base, student = of_transformers(directory, ids), of_transformers(tmp_path / "models" / "top", ids)
    assert (base.argmax(-1) == student.argmax(-1)).float().mean() > 0.95


def test_a_model_without_padding_token_is_advised_on(tmp_path):
    directory = make(tmp_path / "base", no_pad)
    config = make_config({"distill": {"batch_tokens": 2048}}, of="smoke")
    advise.run(config, directory, tmp_path / "a.csv", tmp_path / "work", 1.0, 1, 1)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + len(advise.candidates(LAYERS))


def test_a_tokenizer_without_any_end_is_told(tmp_path):
    directory = make(tmp_path / "base", no_pad)
    edit(directory / "tokenizer_config.json", ["eos_token"])
    with pytest.raises(UserError, match="no end-of-sequence token"):
        texts(directory)


def test_a_student_with_llama3_rope_has_a_tokenizer_in_a_new_process(tmp_path):
    """No import before this one has registered the classes of students with Transformers."""
    convert(make(tmp_path / "base", llama3_rope), tmp_path / "student", 4, 1)
    code = "import sys; from swiftkv.workloads.tokens import load_tokenizer; print(len(load_tokenizer(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "student")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["1223"]


def test_a_student_says_that_its_head_is_its_own(tmp_path):
    convert(make(tmp_path / "base", own_head), tmp_path / "student", 4, 1)
    assert read_config(tmp_path / "student")["tie_word_embeddings"] is False


def test_a_copy_of_the_embeddings_is_no_head_of_its_own(tmp_path):
    doubled = make(tmp_path / "base", lambda d: change_tensors(
        d, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}))  # fmt: skip
    convert(doubled, tmp_path / "student", 4, 1)
    assert read_config(tmp_path / "student")["tie_word_embeddings"] is True


# Quantised bases


def projections(change):
    """`change` of a projection's tensors, by name and weight; the others stay."""

    def changed(tensors):
        found = {}
        for name, weight in tensors.items():
            found |= change(name, weight) if name.endswith("_proj.weight") else {name: weight}
        return found

    return changed


def fp8(name, weight):  # block scales, as Qwen3-*-FP8 and DeepSeek have them
    scale = (weight.abs().max() / 448).reshape(1, 1)
    return {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def int8(name, weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {name: (weight / scale).round().to(torch.int8), f"{name}_scale": scale}


def packed(name, weight):  # four bits, eight to a word
    stem, shape = name.removesuffix("weight"), (weight.shape[1], weight.shape[0] // 8)
    return {f"{stem}qweight": torch.zeros(shape, dtype=torch.int32), f"{stem}scales": torch.ones(1, weight.shape[0])}


def nibbles(name, weight):  # as bitsandbytes and NVFP4 keep them
    return {name: torch.zeros((weight.shape[0], weight.shape[1] // 2), dtype=torch.uint8)}


SCHEMES = {  # what config.json says -> how the weights are stored, the name in the error
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8, "F8_E4M3"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "int-quantized"}, int8, "I8"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64}, packed, "I32"),
    "bitsandbytes_4bit": ({"load_in_4bit": True}, nibbles, "U8"),
    "a-scheme-of-tomorrow": ({"quant_method": "a-scheme-of-tomorrow"}, nibbles, "U8"),
}


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantised_bases_are_refused_by_name(scheme, said, tmp_path):
    """By what config.json says, and where it says nothing, by the tensors' types."""
    settings, change, dtype = SCHEMES[scheme]
    directory = make(tmp_path / "base", lambda d: change_tensors(d, projections(change)))
    named = f"quantization_config: {scheme.removesuffix('_4bit')}" if said else f"is {dtype}"
    if said:
        edit(directory / "config.json", quantization_config=settings)
    config = make_config(instead={"base": {"source": "local", "path": str(directory)}})
    for command in (
        lambda: base_stage.resolve_base(config, tmp_path / "fetched"),
        lambda: convert(directory, tmp_path / "student", 4, 1),
        lambda: loop.start(config, directory, tmp_path / "models", tmp_path / "work", loop.Options()),
        lambda: check_checkpoint(directory),
    ):
        with pytest.raises(UserError, match=f"the base model is quantised .*{named}") as error:
            command()
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_old_key_of_compressed_tensors_is_read(tmp_path):
    directory = make(tmp_path / "base", lambda d: edit(
        d / "config.json", compression_config={"quant_method": "compressed-tensors"}))  # fmt: skip
    with pytest.raises(UserError, match="compressed-tensors"):
        check_checkpoint(directory)


def test_masks_of_old_checkpoints_are_no_quantisation(tmp_path):
    change = {"model.layers.0.self_attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
    check_checkpoint(make(tmp_path / "base", lambda d: change_tensors(d, lambda t: t | change)))
