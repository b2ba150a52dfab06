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
Shard = str | int | None


class WeightMap:
    """Where a checkpoint tensor goes in the model of `config` (num_key_value_layers, key_value_group_size)."""

    def __init__(self, config):
        self.cut = config.num_key_value_layers
        self.leaders = list(config.layers_of().leaders)
        self.tied = config.tie_word_embeddings

    def target(self, name: str) -> tuple[str, Shard] | None:
        """(parameter, shard) of tensor `name`; None if the model does not use it."""
        # Old checkpoints carry buffers of RoPE; a tied head is the embedding.
        if "rotary_emb." in name or (self.tied and name.startswith("lm_head.")):
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

    Raises UserError naming tensors that are missing or belong nowhere.
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
        fill(parameters[parameter], tensor, shard)
        seen.add(name)
        loaded.add(parameter)
    # vLLM leaves what no tensor fills as it was allocated, so this has to notice. Scales of quantised weights are left
    # out: which of them exist is the scheme's business.
    plain = [parameter for parameter in parameters if parameter.endswith((".weight", ".bias"))]
    missing = [name for parameter in plain for name in where.sources(parameter) if name not in seen]
    if missing:
        raise UserError(f"checkpoint lacks {len(missing)} tensors: {', '.join(sorted(missing)[:8])}")
    return loaded


def fill(parameter: nn.Parameter, tensor: torch.Tensor, shard: Shard) -> None:
    """Copy a checkpoint tensor into its place, cut for this tensor-parallel rank by vLLM's loader."""
    loader = getattr(parameter, "weight_loader", default_weight_loader)
    loader(parameter, tensor) if shard is None else loader(parameter, tensor, shard)
