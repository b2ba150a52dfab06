"""Model directories as others publish them, base or student: read, and checked for being whole.

Transformers silently fills a missing tensor with random numbers and vLLM leaves it as allocated, so every
model directory goes through `check_checkpoint` before anything is measured on it.
"""

from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from swiftkv import files
from swiftkv.config import check_cut
from swiftkv.errors import UserError
from swiftkv.modeling import FAMILIES  # importing it registers the SwiftKV classes with Transformers

BASE_TYPES = tuple(FAMILIES)
STUDENT_TYPES = tuple(model.config_class.model_type for model in FAMILIES.values())
INDEX = "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BUFFERS = ("BOOL", "I64")  # masks and positions that old checkpoints carry; no scheme stores weights so
Tensors = dict[str, torch.Tensor]


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
    headers = {}
    for path in weight_files(directory):
        try:
            with safe_open(path, "pt") as file:
                # A slice knows type and shape without reading the tensor, which `get_tensor` would.
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                headers |= {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None
    return headers


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
        # Before Transformers reads the file: its own errors name neither the key nor what is allowed.
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


def read_shape(directory: Path, allowed: tuple[str, ...] = BASE_TYPES + STUDENT_TYPES) -> dict:
    """The architecture of a model directory as Transformers reads it: config.json with the defaults of its class in
    place of keys that it leaves out. Raises UserError as `read_config` and `parse_config` do."""
    config = parse_config(directory, read_config(directory, allowed))
    return {key: value for key, value in config.to_dict().items() if value is not None}


def num_hidden_layers(directory: str | Path) -> int:
    """Layers L of a model directory. Raises UserError if there is no usable config.json."""
    directory = Path(directory)
    return parse_config(directory, read_config(directory)).num_hidden_layers


def expected_shapes(config: PreTrainedConfig) -> dict[str, list[int]]:
    """Name -> shape of every tensor a model of this configuration needs from its checkpoint."""
    with torch.device("meta"):  # shapes without memory
        model = AutoModelForCausalLM.from_config(config)
    # A tied head has no tensor of its own in the file.
    tied = set(model._tied_weights_keys) if config.tie_word_embeddings else set()
    return {name: list(t.shape) for name, t in model.state_dict().items() if name not in tied}


def check_checkpoint(directory: str | Path) -> PreTrainedConfig:
    """Check that a base or student directory is whole and return its configuration; weights are not read.

    Raises UserError naming the culprit: directory, file, config value, missing tensor, wrong shape, or a base's weights
    that are not floating-point numbers of 16 bits or more.
    """
    directory = Path(directory)
    raw = read_config(directory)
    config, headers = parse_config(directory, raw), tensor_headers(directory)
    if config.model_type in BASE_TYPES:
        # A checkpoint can be quantised without saying so in its configuration.
        for name, (dtype, _) in headers.items():
            if dtype not in (*FLOATS, *BUFFERS):
                refuse_quantised(directory, f"tensor {name} is {dtype}")
    # Tensors beyond those expected are allowed: published students carry their base's late q, k and v. A quantised
    # student may have others in a weight's place; what they must be is for vLLM to say.
    replaced = {name.rpartition(".")[0] for name in headers} if scheme_of(raw) else set()
    for name, shape in expected_shapes(config).items():
        if name not in headers and name.rpartition(".")[0] in replaced:
            continue
        if name not in headers:
            raise UserError(f"{directory}: tensor {name} is missing (expected shape {shape})")
        if list(headers[name][1]) != shape:
            raise UserError(f"{directory}: tensor {name} has shape {list(headers[name][1])}, expected {shape}")
    return config


def load_whole(directory: Path, dtype: str | torch.dtype = "auto", times: float = 1.5) -> PreTrainedModel:
    """The model of a directory for inference, on a GPU if `times` the bytes of its weights, what it takes with what it
    computes, are free there, else on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
    needed = times * sum(p.numel() * p.element_size() for p in model.parameters())
    fits = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > needed
    return model.to("cuda" if fits else "cpu")
