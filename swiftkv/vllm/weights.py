"""Published tensor names -> vLLM parameters, most of which hold several tensors side by side."""

import re
from collections.abc import Iterable

import torch
from torch import nn
from vllm.model_executor.model_loader.weight_utils import default_weight_loader

from swiftkv.errors import UserError

LAYER = re.compile(r"model\.layers\.(\d+)\.")
# vLLM holds q, k, v of a layer in one matrix, gate and up in another; the shard is which part of it a tensor fills.
MERGED = {
    "self_attn.q_proj": ("self_attn.qkv_proj", "q"),
    "self_attn.k_proj": ("self_attn.qkv_proj", "k"),
    "self_attn.v_proj": ("self_attn.qkv_proj", "v"),
    "mlp.gate_proj": ("mlp.gate_up_proj", 0),
    "mlp.up_proj": ("mlp.gate_up_proj", 1),
}
LATE_KV = "model.early_decoder.late_kv.kv_proj"
# Scales and zero points of a quantised KV cache, which have defaults. Every other parameter holds what its memory held.
OPTIONAL = re.compile(r"\.self_attn\.attn\.\w+$")
Shard = str | int | None


class WeightMap:
    """Where a checkpoint tensor goes in the model of `config` (num_key_value_layers, key_value_group_size)."""

    def __init__(self, config):
        self.cut = config.num_key_value_layers
        self.leaders = list(config.layers_of().leaders)
        self.tied = config.tie_word_embeddings

    def target(self, name: str) -> tuple[str, Shard] | None:
        """(parameter, shard) of tensor `name`; None if the model does not use it."""
        # Old checkpoints carry buffers of RoPE; a tied head is the embedding; at l = L there is nothing to norm.
        unused = "rotary_emb." in name or (self.tied and name.startswith("lm_head."))
        if unused or (not self.leaders and name.startswith("model.norm_swiftkv.")):
            return None
        layer = LAYER.match(name)
        if layer is None:
            return name, None
        return self.layer_target(name, int(layer[1]), *name[layer.end() :].rsplit(".", 1))

    def layer_target(self, name: str, layer: int, module: str, kind: str) -> tuple[str, Shard] | None:
        """`target` of tensor model.layers.<layer>.<module>.<kind>."""
        if module in ("self_attn.k_proj_swiftkv", "self_attn.v_proj_swiftkv"):
            if layer not in self.leaders:
                return name, None  # no such parameter
            # K of every group, then V of every group, in the order that `LateKV` splits them.
            shard = self.leaders.index(layer) + len(self.leaders) * (module == "self_attn.v_proj_swiftkv")
            return f"{LATE_KV}.{kind}", shard
        if layer >= self.cut and module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            return None  # published checkpoints carry them; inference never reads them
        if layer >= self.cut and layer not in self.leaders and module == "self_attn.k_norm":
            return None  # it reads the K of its group's first layer
        merged, shard = MERGED.get(module, (module, None))
        return f"model.layers.{layer}.{merged}.{kind}", shard

    def sources(self, parameter: str) -> list[str]:
        """The tensors that fill `parameter`: the inverse of `target`."""
        module, _, kind = parameter.rpartition(".")
        if module == LATE_KV:
            pairs = [(j, name) for name in "kv" for j in self.leaders]
            return [f"model.layers.{j}.self_attn.{name}_proj_swiftkv.{kind}" for j, name in pairs]
        parts = [old for old, (new, _) in MERGED.items() if module.endswith(new)]
        stem = module.rsplit(".", 2)[0]
        return [f"{stem}.{part}.{kind}" for part in parts] or [parameter]


def load_weights(model: nn.Module, config, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Fill `model` from (name, tensor) pairs and return the names of the parameters filled.

    Raises UserError naming tensors that are missing, belong nowhere, or are not quantised as the configuration says.
    """
    where, parameters = WeightMap(config), dict(model.named_parameters())
    seen, loaded = set(), set()
    for name, tensor in weights:
        target = where.target(name)
        if target is None:
            continue
        parameter, shard = target
        if parameter not in parameters:
            raise UserError(f"checkpoint tensor {name} has no place in {type(model).__name__}")
        check_kind(name, tensor, parameters[parameter])
        fill(parameters[parameter], tensor, shard)
        seen.add(name)
        loaded.add(parameter)
    needed = [parameter for parameter in parameters if not OPTIONAL.search(parameter)]
    missing = [name for parameter in needed for name in where.sources(parameter) if name not in seen]
    if missing:
        raise UserError(f"checkpoint lacks {len(missing)} tensors: {', '.join(sorted(missing)[:8])}")
    return loaded


def check_kind(name: str, tensor: torch.Tensor, parameter: nn.Parameter) -> None:
    """Raise UserError where copying would round a tensor's values to integers or to FP8, which are codes there.

    So it happens where the quantisation's `ignore` list names a projection that vLLM holds in one matrix with others.
    """
    if name.endswith(("_scale", "_scale_inv")) or not tensor.is_floating_point() or tensor.element_size() == 1:
        return
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        kinds = f"is {tensor.dtype}, but the quantisation of its layer needs {parameter.dtype}"
        raise UserError(f"checkpoint tensor {name} {kinds}; late K and V are quantised together or not at all")


def fill(parameter: nn.Parameter, tensor: torch.Tensor, shard: Shard) -> None:
    """Copy a checkpoint tensor into its place, cut for this tensor-parallel rank by vLLM's loader."""
    loader = getattr(parameter, "weight_loader", default_weight_loader)
    loader(parameter, tensor) if shard is None else loader(parameter, tensor, shard)
