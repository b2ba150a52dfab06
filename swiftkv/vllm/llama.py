"""Llama with SwiftKV on vLLM. A family is a late attention, a model and a weight map; the rest is decoder.py."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from vllm.compilation.decorators import ignore_torch_compile
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaModel
from vllm.model_executor.models.utils import extract_layer_index

from swiftkv.vllm.attention import LateAttention
from swiftkv.vllm.decoder import SwiftKVModel
from swiftkv.vllm.weights import load_weights


class LlamaLateAttention(LlamaAttention):
    """Attention of a late layer: a query projection and an output projection; K and V come from the cache."""

    def __init__(
        self,
        config,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        max_position_embeddings: int = 8192,
        quant_config=None,
        bias: bool = False,
        bias_o_proj: bool = False,
        cache_config=None,
        prefix: str = "",
        **unused,
    ) -> None:
        # Not LlamaAttention's: it would allocate the q, k and v projections that a late layer never uses.
        nn.Module.__init__(self)
        ranks = get_tensor_model_parallel_world_size()
        self.total_num_kv_heads, self.kv_bias = num_kv_heads, bias
        self.num_heads, self.num_kv_heads = num_heads // ranks, max(1, num_kv_heads // ranks)
        self.head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
        self.max_position_embeddings = max_position_embeddings
        size = num_heads * self.head_dim
        common = {"quant_config": quant_config, "return_bias": False}
        self.q_proj_swiftkv = ColumnParallelLinear(
            hidden_size, size, bias=bias, prefix=f"{prefix}.q_proj_swiftkv", **common
        )
        self.o_proj = RowParallelLinear(size, hidden_size, bias=bias_o_proj, prefix=f"{prefix}.o_proj", **common)
        self._init_rotary_emb(config, quant_config=quant_config)
        self.attn = LateAttention(
            self.num_heads,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
            **late_attention_options(config, prefix),
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, D] -> [T, D]; without K and V, vLLM's attention only reads its cache."""
        query, _ = self.rotary_emb(positions, self.q_proj_swiftkv(hidden_states), None)
        return self.o_proj(self.attn(query, None, None))


def late_attention_options(config, prefix: str) -> dict:
    """Whose KV cache the late layer at `prefix` (model.layers.<j>.self_attn) reads, and who wraps its metadata."""
    layer, group = extract_layer_index(prefix), config.key_value_group_size
    behind = (layer - config.num_key_value_layers) % group
    trailing = behind > 0 and layer >= config.num_hidden_layers - group
    early_exit = get_current_vllm_config().cache_config.kv_sharing_fast_prefill
    leader = prefix.replace(f".{layer}.", f".{layer - behind}.") + ".attn"
    return {
        "kv_sharing_target_layer_name": leader if behind else None,
        "early_exit": early_exit and not trailing,
    }


def decoder_layer(*, vllm_config: VllmConfig, prefix: str) -> LlamaDecoderLayer:
    """Layer `prefix` (model.layers.<j>): vLLM's own, with a late attention above the cut."""
    late = extract_layer_index(prefix) >= vllm_config.model_config.hf_config.num_key_value_layers
    make = partial(LlamaDecoderLayer, attn_layer_type=LlamaLateAttention) if late else LlamaDecoderLayer
    return make(vllm_config=vllm_config, prefix=prefix)


@ignore_torch_compile
class LlamaSwiftKVModel(SwiftKVModel, LlamaModel):
    """vLLM's Llama decoder, split at the cut."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=decoder_layer)
        self.split(vllm_config, prefix)


class LlamaSwiftKVForCausalLM(LlamaForCausalLM):
    """SwiftKV Llama. Loads checkpoints with or without the late layers' original q, k and v."""

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type=None) -> LlamaSwiftKVModel:
        return LlamaSwiftKVModel(vllm_config=vllm_config, prefix=prefix)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load (name, tensor) pairs by their published names. Raises UserError naming missing tensors."""
        return load_weights(self, self.config, weights)
