"""Published tensor names -> vLLM parameters, most of which hold several tensors side by side."""

import re
from collections.abc import Iterable

import torch
from torch import nn
from vllm.model_executor.model_loader.weight_utils import default_weight_loader

from swiftkv.errors import UserError
from swiftkv.layers import Layers

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
# What the merged K and V are called for a quantisation's configuration: vLLM puts each of `late_kv_shards` in the place
# of the last part to find their names in checkpoints.
LATE_KV_PACKED = "late_kv_proj"
# Scales of a quantised KV cache, under the names that checkpoints have for them. They have defaults, as zero points do;
# every other parameter holds what its memory held.
CACHE_SCALE = re.compile(r"self_attn\.(?:(?:attn|[qkv]_proj(?:_swiftkv)?)\.)?([qkv])_scale")
PROJECTION_SCALE = re.compile(r"self_attn\.([qkv])_proj(?:_swiftkv)?\.output_scale")
ORDER = ".g_idx"  # of GPTQ: the group of each input
OPTIONAL = re.compile(r"\.self_attn\.attn\.\w+$")
Shard = str | int | None


def late_kv_shards(layers: Layers) -> list[str]:
    """The projections of the merged K and V, in its order, as they are called below `model.layers`: K of every group,
    then V of every group."""
    return [f"{layer}.self_attn.{name}_proj_swiftkv" for name in "kv" for layer in layers.leaders]


def name_late_kv(quant_config, layers: Layers) -> None:
    """Tell a quantisation's configuration, if there is one, which projections of a checkpoint the merged one holds."""
    if quant_config is not None:
        known = dict(quant_config.packed_modules_mapping)
        quant_config.packed_modules_mapping = known | {LATE_KV_PACKED: late_kv_shards(layers)}


class WeightMap:
    """Where a checkpoint tensor goes in the model of `config` (num_key_value_layers, key_value_group_size)."""

    def __init__(self, config):
        self.cut, self.layers = config.num_key_value_layers, config.layers_of()
        self.leaders = list(self.layers.leaders)
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

    def cache_scales(self, name: str) -> list[str] | None:
        """The parameters that a scale of the KV cache fills; None for another tensor.

        A group has one cache, written with its leader's scales, so all its layers read it with them.
        """
        layer = LAYER.match(name)
        rest = name[layer.end() :] if layer else ""
        found = CACHE_SCALE.fullmatch(rest) or PROJECTION_SCALE.fullmatch(rest)
        if found is None:
            return None
        j, kind = int(layer[1]), found[1]
        readers = [j]
        if j >= self.cut and "_proj." in rest:
            readers = []  # of a projection that is never read
        elif j >= self.cut and kind != "q":
            readers = [late for late in self.layers.late if self.layers.leader(late) == j]
        return [f"model.layers.{reader}.self_attn.attn.{kind}_scale" for reader in readers]

    def sources(self, parameter: str) -> list[str]:
        """The tensors that fill `parameter`: the inverse of `target`."""
        module, _, kind = parameter.rpartition(".")
        if module == LATE_KV:
            return [f"model.layers.{shard}.{kind}" for shard in late_kv_shards(self.layers)]
        parts = [old for old, (new, _) in MERGED.items() if module.endswith(new)]
        stem = module.rsplit(".", 2)[0]
        return [f"{stem}.{part}.{kind}" for part in parts] or [parameter]


def load_weights(model: nn.Module, config, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Fill `model` from (name, tensor) pairs and return the names of the parameters filled.

    Raises UserError naming tensors that are missing, belong nowhere, or are not quantised as the configuration says.
    """
    where, parameters = WeightMap(config), dict(model.named_parameters())
    seen, loaded, orders = set(), set(), {}
    for name, tensor in weights:
        scales = where.cache_scales(name)
        target = where.target(name) if scales is None else None
        for parameter, shard in [target] if target else [(scale, None) for scale in scales or ()]:
            if name.endswith(ORDER):
                check_order(name, tensor, orders.setdefault(parameter, tensor), parameter in parameters)
                if parameter not in parameters:
                    continue
            if parameter not in parameters:
                raise UserError(f"checkpoint tensor {name} has no place in {type(model).__name__}")
            check_kind(name, tensor, parameters[parameter])
            fill(name, parameters[parameter], tensor, shard)
            seen.add(name)
            loaded.add(parameter)
    needed = [parameter for parameter in parameters if not OPTIONAL.search(parameter)]
    missing = [name for parameter in needed for name in where.sources(parameter) if name not in seen]
    if missing:
        raise UserError(f"checkpoint lacks {len(missing)} tensors: {', '.join(sorted(missing)[:8])}")
    return loaded


def check_kind(name: str, tensor: torch.Tensor, parameter: nn.Parameter) -> None:
    """Raise UserError where copying would round a tensor's values to integers or to FP8, which are codes there."""
    if name.endswith(("_scale", "_scale_inv")) or not tensor.is_floating_point() or tensor.element_size() == 1:
        return
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        kinds = f"is {tensor.dtype}, but the quantisation of its layer needs {parameter.dtype}"
        raise UserError(f"checkpoint tensor {name} {kinds}; its quantization_config has to list it under `ignore`")


def check_order(name: str, order: torch.Tensor, first: torch.Tensor, kept: bool) -> None:
    """Raise UserError for an order of inputs (GPTQ's act-order) that the model cannot hold: other than that of the
    `first` tensor of the same parameter, or not the inputs' own where the order is not `kept` (vLLM from 0.32 on)."""
    if not torch.equal(order, first):
        raise UserError(f"checkpoint tensor {name} is another order than that of the tensors it is one matrix with")
    if not kept and not torch.equal(order, order.sort().values):
        raise UserError(f"checkpoint tensor {name} is an activation order, which this vLLM does not support")


def fill(name: str, parameter: nn.Parameter, tensor: torch.Tensor, shard: Shard) -> None:
    """Copy checkpoint tensor `name` into its place, cut for this tensor-parallel rank by vLLM's loader.

    Raises UserError if it does not fit there.
    """
    loader = getattr(parameter, "weight_loader", default_weight_loader)
    try:
        loader(parameter, tensor) if shard is None else loader(parameter, tensor, shard)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"checkpoint tensor {name} ({tensor.dtype}, {list(tensor.shape)}) does not fit its parameter "
            f"({parameter.dtype}, {list(parameter.shape)}): {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
