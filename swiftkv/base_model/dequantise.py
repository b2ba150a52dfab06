"""A GGUF file as a model directory: weights dequantised to bfloat16, configuration, tokenizer, and a card.

Transformers reads the weights (`from_pretrained(..., gguf_file=...)`, which undoes llama.cpp's order of rotary rows).
It passes over tensors and metadata that it does not know, and so would load Llama 3.1 without its rotary scaling: here
all of them are accounted for, or the file is refused.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from swiftkv.base_model.gguf_file import ROPE_FACTORS, GgufFile, library
from swiftkv.base_model.gguf_tokenizer import end_ids, read_tokenizer, save
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import BASE_TYPES, Tensors, expected_shapes
from swiftkv.modeling.convert import HEAD, save_model

# By llama.cpp's names, which are those of Transformers; a Mistral without a sliding window is a Llama there.
ARCHITECTURES = tuple(name for name in BASE_TYPES if name != "mistral")
DTYPE = torch.bfloat16
APART = (
    "What quantisation took away is not there, so this is another model than the one that was quantised: compare it, "
    "and students made from it, with itself, and not with published scores of the original."
)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
NO_SETTINGS = ("_model_name_or_path", "unk_token_id")  # of the file's name, and of its tokenizer
SAME_FREQUENCIES = 1e-4  # relative; the factors are stored in float32


def write_directory(gguf: GgufFile, directory: Path, origin: str) -> None:
    """Write the model of a GGUF file into an existing directory; `origin` says in words where the file is from.

    Raises UserError for a file whose tensors, rotary scaling or tokenizer are not those of a supported model, and where
    Transformers is too old to read one.
    """
    unpacked()
    tokenizer = read_tokenizer(gguf)
    config = configuration(gguf, tokenizer)
    check_tensors(gguf, config)
    model = load(gguf, config)
    raw = json.loads(config.to_json_string()) | {"architectures": [type(model).__name__]}
    raw = {key: value for key, value in raw.items() if key not in NO_SETTINGS}
    save_model(directory, raw, tensors_of(model))
    save(tokenizer, directory)
    ids = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    GenerationConfig(eos_token_id=end_ids(tokenizer), **ids).save_pretrained(directory)
    (directory / "README.md").write_text(card(gguf, origin), encoding="utf-8")


def named(gguf: GgufFile) -> dict:
    """The file as Transformers takes it: whole, for a bare name is looked for in the working directory first."""
    path = gguf.path.absolute()
    return {"pretrained_model_name_or_path": path.parent, "gguf_file": str(path), "local_files_only": True}


def configuration(gguf: GgufFile, tokenizer) -> PreTrainedConfig:
    """The Transformers configuration of a file: Transformers' own reading, with what it leaves at its defaults.

    Raises UserError for a sliding window or a rotary scaling that cannot be told from the file.
    """
    config = AutoConfig.from_pretrained(**named(gguf))
    if config.model_type != gguf.architecture:  # a Llama whose name is "mistral", whose tensors it then does not find
        raise UserError(
            f"{gguf.path}: general.name is {gguf.name!r}, by which Transformers reads it as {config.model_type}; give "
            "it another name with `gguf-set-metadata`"
        )
    if window := gguf.of_model("attention.sliding_window"):
        raise UserError(f"{gguf.path}: has a sliding window of {window} tokens; SwiftKV supports none")
    if heads := gguf.of_model("attention.key_length"):
        config.head_dim = heads
    config.dtype = DTYPE
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    config.rms_norm_eps = float(str(np.float32(config.rms_norm_eps)))  # 1e-05 and not its neighbour in float64
    scale_rope(gguf, config)
    return config


def scale_rope(gguf: GgufFile, config: PreTrainedConfig) -> None:
    """Set Llama 3.1's rotary scaling from the factors in the file. Raises UserError if they are of another kind, and
    for scaling that the metadata name."""
    kind = gguf.of_model("rope.scaling.type", "none")
    if kind != "none":
        raise UserError(f"{gguf.path}: rotary scaling {kind!r} is not read from GGUF; take the model's safetensors")
    if gguf.rope_factors is None:
        return
    config.rope_parameters |= {"rope_type": "llama3", "factor": float(gguf.rope_factors.max()), **LLAMA3}
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    wanted = frequencies_of(config) / gguf.rope_factors
    if wanted.shape != frequencies.shape or not np.allclose(frequencies.numpy(), wanted, rtol=SAME_FREQUENCIES, atol=0):
        raise UserError(f"{gguf.path}: {ROPE_FACTORS} is not Llama 3.1's rotary scaling; take the model's safetensors")


def frequencies_of(config: PreTrainedConfig) -> np.ndarray:
    """Rotary frequencies [head_dim / 2] without scaling, in radians per token."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    exponents = np.arange(0, width, 2, dtype=np.float64) / width
    return config.rope_parameters["rope_theta"] ** -exponents


def check_tensors(gguf: GgufFile, config: PreTrainedConfig) -> None:
    """Raise UserError unless the file has the tensors of this configuration and no others: Transformers fills what is
    missing with random numbers, and drops what it does not know."""
    module = library()
    architecture = next(key for key, name in module.MODEL_ARCH_NAMES.items() if name == gguf.architecture)
    names = module.get_tensor_name_map(architecture, config.num_hidden_layers)
    wanted = {}
    for name, shape in expected_shapes(config).items():
        stem, _, kind = name.rpartition(".")
        wanted[f"{names.get_name(stem)}.{kind}"] = shape
    there = gguf.shapes.keys() - {ROPE_FACTORS}
    for found, words in (
        (wanted.keys() - there, "lacks"),
        (there - wanted.keys(), f"has, beside those of a {config.model_type} model,"),
    ):
        if found:
            first, *others = sorted(found)
            more = f" and {len(others)} others" if others else ""
            raise UserError(f"{gguf.path}: {words} the tensor {first}{more}: no whole model of a supported family")
    for name, shape in wanted.items():
        if gguf.shapes[name] != shape:
            raise UserError(f"{gguf.path}: tensor {name} has shape {gguf.shapes[name]}, its metadata say {shape}")


def unpacked():
    """What tells Transformers to dequantise. Raises UserError for a release that cannot be told."""
    try:
        return transformers.GgufConfig(dequantize=True)
    except AttributeError:
        raise UserError(
            "a base from a GGUF file needs a newer Transformers (5.17 and 5.19 were tried); "
            f"{transformers.__version__} is installed"
        ) from None


def load(gguf: GgufFile, config: PreTrainedConfig) -> PreTrainedModel:
    """The model with dequantised weights."""
    return AutoModelForCausalLM.from_pretrained(
        **named(gguf), config=config, dtype=DTYPE, quantization_config=unpacked()
    )


def tensors_of(model: PreTrainedModel) -> Tensors:
    """Every tensor by its name; a head that is tied has none."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop(HEAD)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def card(gguf: GgufFile, origin: str) -> str:
    """README.md of the directory; its front matter has the licence that the file names, if any."""
    said = {key.rpartition(".")[2]: value for key, value in gguf.metadata.items() if key.startswith("general.license")}
    licence = {"license": said.get("license")}
    licence |= {f"license_{key}": said[key] for key in ("name", "link") if key in said}
    front = {key: value for key, value in licence.items() if value} | {"library_name": "transformers"}
    verb = f"dequantised from {gguf.quantisation}" if gguf.is_quantised else f"stored as {gguf.quantisation}"
    states = f"`{said['license']}`, as the file says" if said.get("license") else "the file names none"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {gguf.name}, {verb}",
        "",
        f"Written by `swiftkv fetch-base` as bfloat16 from `{gguf.path.name}` ({origin}).",
        "",
        *[APART] * gguf.is_quantised,
        "",
        f"- sha256 of the file: `{gguf.sha256}`",
        f"- tensors in it: {', '.join(f'{count} {kind}' for kind, count in gguf.record()['tensors'].items())}",
        f"- licence: {states}",
    ]
    return "\n".join(lines) + "\n"
