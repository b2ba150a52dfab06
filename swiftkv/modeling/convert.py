"""Base checkpoint -> SwiftKV student in the published format, and a strict check of either.

Transformers silently fills a missing tensor with random numbers and vLLM leaves it as allocated, so every
model directory goes through `check_checkpoint` before anything is measured on it.
"""

import json
import shutil
from pathlib import Path
from typing import NoReturn

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from swiftkv import files, outputs
from swiftkv.config import check_cut
from swiftkv.errors import UserError
from swiftkv.modeling import FAMILIES  # importing it registers the SwiftKV classes with Transformers
from swiftkv.provenance import Provenance

BASE_TYPES = tuple(FAMILIES)
STUDENT_TYPES = tuple(model.config_class.model_type for model in FAMILIES.values())
# Whose work a stage that writes students may replace.
REPLACED = {"convert": ["convert"], "distill": ["convert", "distill"]}
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BUFFERS = ("BOOL", "I64")  # masks and positions that old checkpoints carry; no scheme stores weights so
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, torch.Tensor]
# What a student takes over from its base besides weights and config.json.
COPIED = (
    "generation_config.json",
    "*token*.json",
    "*.model",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)


def scheme_of(raw: dict) -> str | None:
    """The quantisation that config.json `raw` names, as Transformers reads it; None if there is none."""
    from transformers.quantizers.auto import AutoQuantizationConfig

    settings = raw.get("quantization_config") or raw.get("compression_config")  # the second: old compressed-tensors
    if not settings:
        return None
    try:
        method = AutoQuantizationConfig.from_dict(settings).quant_method
        return str(getattr(method, "value", method))
    except Exception:  # a scheme of a newer release, or one whose package is not installed
        named = settings.get("quant_method") if isinstance(settings, dict) else None
        return str(named or "of an unknown scheme")


def refuse_quantised(directory: Path, how: str) -> NoReturn:
    """Raise UserError: K and V of the late layers are means of the base's weights, which its stored numbers are not."""
    raise UserError(
        f"{directory}: the base model is quantised ({how}); allowed are weights in {', '.join(FLOATS.values())} and no "
        "quantization_config, so take the unquantised checkpoint, or write a dequantised one"
    )


def read_config(directory: Path, allowed: tuple[str, ...] = BASE_TYPES + STUDENT_TYPES) -> dict:
    """config.json of a model directory. Raises UserError if absent, of a family not in `allowed`, or of a quantised
    base model."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory")
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: not a model directory (config.json is missing)")
    config = files.read_json(directory / "config.json")
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in allowed:
        raise UserError(
            f"{directory}: model_type {family!r} is not supported; allowed is {' or '.join(allowed)} "
            "(mixture-of-experts and latent-attention families are out of scope)"
        )
    if family in BASE_TYPES and (scheme := scheme_of(config)):
        refuse_quantised(directory, f"quantization_config: {scheme}")
    return config


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory. Raises UserError if none or a shard is missing."""
    index = directory / INDEX
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(files.read_json(index).get("weight_map", {}).values()))
    for name in names:
        if not (directory / name).is_file():
            raise UserError(f"{directory}: {name} is missing (weights must be safetensors)")
    return [directory / name for name in names]


def tensor_headers(directory: Path) -> dict[str, tuple[str, list[int]]]:
    """Name -> type (as safetensors calls it) and shape of every tensor, read from the file headers. Raises UserError
    naming a truncated file."""
    found = {}
    for path in weight_files(directory):
        try:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                found |= {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None
    return found


def load_tensors(directory: Path) -> Tensors:
    """Every tensor of a model directory, on the CPU, memory-mapped where the platform can."""
    tensors = {}
    for path in weight_files(directory):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def parse_config(directory: Path, raw: dict) -> PreTrainedConfig:
    """The Transformers configuration. Raises UserError for a cut, group, sliding window or other value not allowed."""
    where = f"{directory}/config.json"
    if raw["model_type"] in STUDENT_TYPES:
        names = ("num_key_value_layers", "num_hidden_layers", "key_value_group_size")
        numbers = [raw.get(name, 1 if name == names[2] else None) for name in names]
        if not all(isinstance(number, int) for number in numbers):
            raise UserError(f"{where}: {', '.join(names)} are {numbers}; they must be whole numbers")
        check_cut(*numbers, where=where)
    try:
        config = AutoConfig.from_pretrained(directory)
    except Exception as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from None
    if window := getattr(config, "sliding_window", None):
        raise UserError(f"{where}: sliding_window is {window}; SwiftKV supports no sliding windows, allowed is null")
    return config


def num_hidden_layers(directory: str | Path) -> int:
    """Layers L of a model directory. Raises UserError if there is no usable config.json."""
    directory = Path(directory)
    return parse_config(directory, read_config(directory)).num_hidden_layers


def expected_shapes(config: PreTrainedConfig) -> dict[str, list[int]]:
    """Name -> shape of every tensor a model of this configuration needs from its checkpoint."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(model._tied_weights_keys) if config.tie_word_embeddings else set()
    return {name: list(t.shape) for name, t in model.state_dict().items() if name not in tied}


def check_checkpoint(directory: str | Path) -> PreTrainedConfig:
    """Check that a base or student directory is whole and return its configuration; weights are not read.

    Raises UserError naming the culprit: directory, file, config value, missing tensor, wrong shape, or a base's weights
    that are not floating-point numbers of 16 bits or more.
    """
    directory = Path(directory)
    config = parse_config(directory, read_config(directory))
    found = tensor_headers(directory)
    if config.model_type in BASE_TYPES:
        for name, (dtype, _) in found.items():
            if dtype not in (*FLOATS, *BUFFERS):
                refuse_quantised(directory, f"tensor {name} is {dtype}")
    for name, shape in expected_shapes(config).items():
        if name not in found:
            raise UserError(f"{directory}: tensor {name} is missing (expected shape {shape})")
        if list(found[name][1]) != shape:
            raise UserError(f"{directory}: tensor {name} has shape {list(found[name][1])}, expected {shape}")
    return config


def group_mean(tensors: Tensors, names: list[str]) -> torch.Tensor:
    """Mean of equal-shaped tensors, computed in float32, in the dtype of the first."""
    if len(names) == 1:
        return tensors[names[0]].clone()
    return torch.stack([tensors[name].float() for name in names]).mean(0).to(tensors[names[0]].dtype)


def initial_tensors(base: Tensors, layers: int, cut: int, group: int, init: str = "group-mean") -> Tensors:
    """The SwiftKV tensors of an undistilled student, by published name.

    q is the same layer's q_proj, k and v are the mean over the group's layers, norm_swiftkv is the input norm
    of layer `cut` (0-based; ones if cut = layers, where nothing reads it). Source: train.py in
    https://github.com/snowflakedb/ArcticTraining/tree/main/projects/swiftkv. Two other choices of k and v, for
    comparison: those of the group's "first-layer", and for all groups those of layer `cut` ("cut-layer").
    """
    members = {
        "group-mean": lambda layer: range(layer, layer + group),
        "first-layer": lambda layer: [layer],
        "cut-layer": lambda layer: [cut],
    }[init]
    norms = "model.layers.{}.input_layernorm.weight"
    norm = base[norms.format(cut)].clone() if cut < layers else torch.ones_like(base[norms.format(0)])
    made = {"model.norm_swiftkv.weight": norm}
    for layer in range(cut, layers):
        leads = (layer - cut) % group == 0
        for name in ("q", "k", "v") if leads else ("q",):
            for kind in ("weight", "bias"):
                origin = members(layer) if name != "q" else [layer]
                sources = [f"model.layers.{member}.self_attn.{name}_proj.{kind}" for member in origin]
                if sources[0] in base:
                    target = f"model.layers.{layer}.self_attn.{name}_proj_swiftkv.{kind}"
                    made[target] = group_mean(base, sources)
    return made


def frozen_tensors(base: Tensors, layers: int, cut: int, group: int) -> Tensors:
    """The base tensors a student keeps: all but those dead at inference, which are the late layers' q, k and v
    projections and the key norms (Qwen3) of layers that do not lead a group."""
    late = range(cut, layers)
    dead = tuple(f"model.layers.{j}.self_attn.{n}_proj." for j in late for n in "qkv")
    dead += tuple(f"model.layers.{j}.self_attn.k_norm." for j in late if (j - cut) % group)
    return {name: tensor for name, tensor in base.items() if not name.startswith(dead)}


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, generation config and licence files."""
    for pattern in COPIED:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def save_model(directory: Path, raw: dict, tensors: Tensors) -> None:
    """Write config.json and the weights (sharded if large) into an existing directory."""
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    save_torch_state_dict(tensors, directory, metadata={"format": "pt"})
    for path in weight_files(directory):
        path.chmod(0o644)


def has_own_head(raw: dict, base: Tensors) -> bool:
    """Whether a checkpoint holds a head of its own although its config.json ties it to the embeddings.

    Transformers and vLLM (from 0.32 on) compare the two tensors and take the head; older vLLM takes the embeddings.
    """
    return bool(raw.get("tie_word_embeddings")) and HEAD in base and not torch.equal(base[HEAD], base[EMBEDDING])


def write_student(base_dir: Path, out_dir: Path, cut: int, group: int, trained: Tensors | None = None) -> None:
    """Write a student directory atomically, with provenance; `base_dir` must have passed `check_checkpoint`.

    `trained` (published names) replaces initial or frozen tensors, in the base's dtype. Raises UserError if `out_dir`
    may not be replaced: a conversion does not replace a distilled student.
    """
    raw, base = read_config(base_dir, BASE_TYPES), load_tensors(base_dir)
    layers = raw["num_hidden_layers"]
    tensors = frozen_tensors(base, layers, cut, group) | initial_tensors(base, layers, cut, group)
    tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in (trained or {}).items()}
    model = FAMILIES[raw["model_type"]]
    raw |= {"model_type": model.config_class.model_type, "architectures": [model.__name__], "swiftkv": True}
    raw |= {"num_key_value_layers": cut, "key_value_group_size": group}
    if has_own_head(raw, base):
        raw["tie_word_embeddings"] = False  # say what is so: every reader then takes the head
    stage = "convert" if trained is None else "distill"
    with (
        outputs.directory(out_dir, REPLACED[stage], [base_dir]) as directory,
        Provenance(stage, inputs=weight_files(base_dir), cut=cut, group=group) as provenance,
    ):
        save_model(directory, raw, tensors)
        copy_companions(base_dir, directory)
        check_checkpoint(directory)
        provenance.save(directory / "config.json")


def convert(base_dir: str | Path, out_dir: str | Path, cut: int, group: int) -> None:
    """Convert a base model directory into an undistilled student: cut `cut` (1..L), AcrossKV group `group`.

    Raises UserError for a damaged or unsupported base, a cut outside 1..L or a group that does not divide.
    """
    base_dir, out_dir = Path(base_dir), Path(out_dir)
    outputs.check_dir(out_dir, REPLACED["convert"], [base_dir])
    read_config(base_dir, BASE_TYPES)
    layers = check_checkpoint(base_dir).num_hidden_layers
    check_cut(cut, layers, group, where=str(out_dir))
    write_student(base_dir, out_dir, cut, group)
