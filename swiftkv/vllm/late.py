"""The late layers of every family, and what their families share around them.

All families here are Llama's decoder layer but for the attention: Qwen2 has biases on q, k and v, Qwen3 norms queries
and keys per head. So one late layer serves them all: vLLM's Llama layer around a `LateSelfAttention`.
"""

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.utils import extract_layer_index

from swiftkv.vllm.attention import LateAttention
from swiftkv.vllm.guards import exits_early
from swiftkv.vllm.weights import load_weights


class LateSelfAttention(LlamaAttention):
    """Attention of a late layer: a query projection and an output projection; K and V come from the cache.

    `qkv_bias` and `qk_norm` are the family's; the key norm exists in group leaders only, whose K it applies to.
    """

    qkv_bias: bool | None = None  # None: biases, that of the output projection too, are as the decoder layer says
    qk_norm = False

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
        # Attributes below that nothing here reads are those that `_init_rotary_emb` and `LateKV` take from it.
        ranks = get_tensor_model_parallel_world_size()
        if self.qkv_bias is not None:
            bias, bias_o_proj = self.qkv_bias, False
        self.kv_bias = bias
        self.total_num_kv_heads, self.max_position_embeddings = num_kv_heads, max_position_embeddings
        self.num_heads, self.num_kv_heads = num_heads // ranks, max(1, num_kv_heads // ranks)
        self.head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
        size = num_heads * self.head_dim
        common = {"quant_config": quant_config, "return_bias": False}
        # Split over ranks by heads and summed again by o_proj, as in vLLM's own attention.
        self.q_proj_swiftkv = ColumnParallelLinear(
            hidden_size, size, bias=self.kv_bias, prefix=f"{prefix}.q_proj_swiftkv", **common
        )
        self.o_proj = RowParallelLinear(size, hidden_size, bias=bias_o_proj, prefix=f"{prefix}.o_proj", **common)
        self._init_rotary_emb(config, quant_config=quant_config)
        self.make_norms(config, prefix)
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

    def make_norms(self, config, prefix: str) -> None:
        """The per-head norms of queries and, in a group's first layer, keys, if the family has them."""
        # Followers have no key norm: K is normalised once, for the whole group, by `LateKV`.
        leads = extract_layer_index(prefix) in config.layers_of().leaders
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps) if self.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps) if self.qk_norm and leads else None

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, D] -> [T, D]; without K and V, vLLM's attention only reads its cache."""
        query = self.q_proj_swiftkv(hidden_states)
        if self.q_norm is not None:
            query = self.q_norm(query.view(-1, self.num_heads, self.head_dim)).view(query.shape)
        query, _ = self.rotary_emb(positions, query, None)
        return self.o_proj(self.attn(query, None, None))


def late_attention_options(config, prefix: str) -> dict:
    """Whose KV cache the late layer at `prefix` (model.layers.<j>.self_attn) reads, and whether all tokens run it."""
    layer, layers = extract_layer_index(prefix), config.layers_of()
    behind = layers.behind(layer)
    # vLLM knows attention layers by name. The leader must exist by then: it comes first in the model.
    leader = prefix.replace(f".{layer}.", f".{layers.leader(layer)}.") + ".attn"
    return {
        "kv_sharing_target_layer_name": leader if behind else None,
        "early_exit": exits_early(get_current_vllm_config()),
    }


def is_late(config, prefix: str) -> bool:
    """Whether the layer at `prefix` (model.layers.<j>) lies above the cut."""
    return extract_layer_index(prefix) >= config.num_key_value_layers


def late_layer(attention: type[LateSelfAttention], vllm_config: VllmConfig, prefix: str) -> LlamaDecoderLayer:
    """A late layer at `prefix` with the family's attention."""
    return LlamaDecoderLayer(vllm_config=vllm_config, prefix=prefix, attn_layer_type=attention)


class EarlyExitForCausalLM(LlamaForCausalLM):
    """The language model of every family around its `model_class`; around vLLM's own `base_class` at l = L, where there
    is nothing to split and vLLM compiles the whole.

    Loads checkpoints with or without the late layers' original q, k and v.
    """

    model_class: type[nn.Module]
    base_class: type[nn.Module]

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type=None) -> nn.Module:
        config = vllm_config.model_config.hf_config
        late = config.num_key_value_layers < config.num_hidden_layers
        return (self.model_class if late else self.base_class)(vllm_config=vllm_config, prefix=prefix)

    def get_model_state_cls(self) -> type:
        """What vLLM's second model runner keeps beside the model."""
        if getattr(self.model, "step", None) is None:
            from vllm.v1.worker.gpu.model_states.default import DefaultModelState

            return DefaultModelState
        from swiftkv.vllm.model_state import EarlyExitModelState

        return EarlyExitModelState

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load (name, tensor) pairs by their published names. Raises UserError naming missing tensors."""
        return load_weights(self, self.config, weights)
