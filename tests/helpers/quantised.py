"""Quantised checkpoints made of a student, in the formats that others publish, and the same weights dequantised."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FP8 = torch.float8_e4m3fn


def save(directory: Path, source: Path, tensors: dict, quantization: dict | None) -> None:
    """A copy of `source` with these tensors and this quantization_config."""
    shutil.copytree(source, directory)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {} if quantization is None else {"quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config))


def projections(tensors: dict, plain=()) -> list[str]:
    """The weights of all projections but those whose names contain one of `plain`."""
    return [n for n in tensors if n.endswith(".weight") and "_proj" in n and not any(part in n for part in plain)]


@dataclass(frozen=True)
class Scheme:
    """Eight-bit weights in the compressed-tensors format, a scale per row ("channel") or per matrix ("tensor"),
    activations quantised as they come."""

    dtype: torch.dtype  # int8 or float8_e4m3fn
    strategy: str = "channel"

    @property
    def largest(self) -> float:
        return 127 if self.dtype == torch.int8 else torch.finfo(FP8).max

    def quantise(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes of a matrix and its scale [rows, 1] or [1]."""
        weight = weight.float()
        rows = weight.abs().amax(1, keepdim=True) if self.strategy == "channel" else weight.abs().amax().reshape(1)
        codes = weight / (rows / self.largest)
        return (codes.round() if self.dtype == torch.int8 else codes).to(self.dtype), rows / self.largest

    def config(self, ignore, **more) -> dict:
        kind = "int" if self.dtype == torch.int8 else "float"
        eight = {"num_bits": 8, "type": kind, "symmetric": True}
        group = {
            "targets": ["Linear"],
            "weights": eight | {"strategy": self.strategy, "dynamic": False},
            "input_activations": eight | {"strategy": "token", "dynamic": True},
        }
        return {
            "quant_method": "compressed-tensors",
            "format": f"{kind}-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": list(ignore),
        } | more


INT8 = Scheme(torch.int8)


def quantise(source, target, ignore=("lm_head",), plain=(), missing=(), scheme=INT8, added=(), **config) -> None:
    """Write `source` quantised to `target`. Tensors whose names contain one of `plain` stay as they are; those of
    `missing` are left out; (name, tensor) pairs are `added`; `config` goes into the quantization_config."""
    tensors = load_file(source / "model.safetensors")
    for name in projections(tensors, plain):
        tensors[name], tensors[f"{name}_scale"] = scheme.quantise(tensors[name])
    tensors = {name: tensor for name, tensor in (tensors | dict(added)).items() if name not in missing}
    save(target, source, tensors, scheme.config(ignore, **config))


def dequantised(source, target, plain=(), scheme=INT8) -> None:
    """Write to `target` the weights that a reader of `quantise` computes with."""
    tensors = load_file(source / "model.safetensors")
    for name in projections(tensors, plain):
        codes, scale = scheme.quantise(tensors[name])
        tensors[name] = codes.float() * scale
    save(target, source, tensors, None)


def gptq(source, target, group: int = 32) -> dict:
    """Write `source` as a GPTQ checkpoint, four bits, a scale per `group` inputs; the tensors that it stands for."""
    tensors, meant = load_file(source / "model.safetensors"), {}
    shifts = torch.arange(8, dtype=torch.int32) * 4
    for name in projections(tensors):
        weight = tensors.pop(name).float().T.contiguous()  # [inputs, outputs]
        stem, inputs = name.removesuffix("weight"), len(weight)
        index = torch.arange(inputs, dtype=torch.int32) // group
        scales = torch.stack([weight[index == g].abs().amax(0) / 7 for g in range(int(index.max()) + 1)])
        codes = (weight / scales[index]).round().clamp(-8, 7).to(torch.int32) + 8
        meant[name] = ((codes - 8) * scales[index]).T
        packed = (codes.view(inputs // 8, 8, -1) << shifts[:, None]).sum(1).to(torch.int32)
        zeros = torch.full((len(scales), weight.shape[1] // 8), 0x77777777, dtype=torch.int32)
        tensors |= {f"{stem}qweight": packed, f"{stem}scales": scales, f"{stem}qzeros": zeros, f"{stem}g_idx": index}
    settings = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, "sym": True}
    save(target, source, tensors, settings | {"lm_head": False})
    return load_file(source / "model.safetensors") | meant
