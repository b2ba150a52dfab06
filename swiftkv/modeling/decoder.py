"""The SwiftKV decoder, shared by all families: mix these classes into a family's own Transformers classes.

Layers 0..l-1 are untouched. At the cut, z = norm_swiftkv(x_l); the first layer of each later group projects z
to the group's K and V, and all layers of the group attend to them (paper, section 3.2; AcrossKV, 3.3).
Every token runs every layer here: outputs at the positions whose logits are needed are the same as with early
exit in prefill, and the log-probabilities of prompt tokens are well defined.
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

RENAMED = ("q_proj", "k_proj", "v_proj")
# A late layer's ordinary projections, and the key norm of a layer that only reads its group's cache: published
# checkpoints carry them, inference never reads them.
DEAD_TENSORS = r"layers\.\d+\.self_attn\.([qkv]_proj\.(weight|bias)|k_norm\.weight)"


class SharedKV:
    """What the late layers of one forward pass share: z [B, T, D], and per cache index a (K, V) pair, each
    [B, key-value heads, tokens so far, head size], K with RoPE.

    With `rope`, (cos, sin) of all T positions, the caller calls `cut` and may then run the late layers on any subset
    of the positions, as in prefill with early exit; the layers themselves are given the cos and sin of the subset.
    """

    def __init__(self, norm: nn.Module, rope: tuple[torch.Tensor, torch.Tensor] | None = None):
        self.norm, self.rope = norm, rope
        self.z: torch.Tensor | None = None
        self.pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def cut(self, hidden_states: torch.Tensor) -> None:
        """Take x_l [B, T, D], the input of the first late layer."""
        # x_l, not the normalised input of a late layer: every group projects the same z, with a norm of its own.
        # The cast matters in distillation alone, where the norm is float32 and the stream may be bfloat16.
        self.z = self.norm(hidden_states).to(hidden_states.dtype)


class SwiftKVAttention:
    """Attention of a late layer; goes before the family's attention class in the bases.

    `rotate(q, k, cos, sin)` and `eager(...)` are the family's RoPE and eager attention functions. Where the family
    normalises queries and keys per head (Qwen3), its own q_norm and k_norm go on doing so.
    """

    rotate: staticmethod
    eager: staticmethod

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        layers = config.layers_of()
        # One cache per early layer, then one per group: Transformers makes as many as `num_kv_shared_layers` leaves.
        self.cache_index, self.leads_group = layers.cache(layer_idx), layer_idx in layers.leaders
        # The family's own projections under new names, so that sizes and biases are the family's, too.
        for name in RENAMED:
            projection = self._modules.pop(name)
            if name == "q_proj" or self.leads_group:
                self.add_module(f"{name}_swiftkv", projection)
        # K is normalised once, where it is written; the q_norm stays with every layer.
        if not self.leads_group:
            self._modules.pop("k_norm", None)

    def heads(self, projected: torch.Tensor, norm: str | None = None) -> torch.Tensor:
        """[B, T, heads * size] -> [B, heads, T, size], through the family's per-head `norm` if it has one."""
        split = projected.unflatten(-1, (-1, self.head_dim))
        return (self._modules[norm](split) if norm in self._modules else split).transpose(1, 2)

    def rope(self, states: torch.Tensor, position_embeddings) -> torch.Tensor:
        """Rotary embedding of queries or keys [B, heads, T, size]."""
        # The families' functions rotate a pair of q and k and add the dimension of heads: k is empty here.
        return self.rotate(states, states[:, :0], *position_embeddings)[0]

    def write_kv(self, shared_kv: SharedKV, position_embeddings, past_key_values) -> None:
        """Project z to this group's K and V and append them to the KV cache if there is one."""
        key = self.rope(self.heads(self.k_proj_swiftkv(shared_kv.z), "k_norm"), position_embeddings)
        value = self.heads(self.v_proj_swiftkv(shared_kv.z))
        # From here on K and V are those of all tokens so far, where there is a cache.
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.cache_index)
        shared_kv.pairs[self.cache_index] = key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        shared_kv: SharedKV | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [B, T, D], normalised -> attention output [B, T, D] and weights if eager."""
        # K and V take the rotation of all T positions, even where the queries are a subset of them.
        if self.leads_group:
            self.write_kv(shared_kv, shared_kv.rope or position_embeddings, past_key_values)
        query = self.rope(self.heads(self.q_proj_swiftkv(hidden_states), "q_norm"), position_embeddings)
        # As the families' own forward does; their eager function repeats K and V for grouped queries by itself.
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, self.eager)
        dropout = self.attention_dropout if self.training else 0.0
        key, value = shared_kv.pairs[self.cache_index]
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.flatten(2)), weights


class SwiftKVDecoderLayer:
    """A late layer; goes before the family's layer class, whose attention becomes `attention_class`."""

    attention_class: type[nn.Module]

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.first_late = layer_idx == config.num_key_value_layers
        # In place of the ordinary attention that the family's layer has built.
        self.self_attn = self.attention_class(config, layer_idx)

    def forward(self, hidden_states: torch.Tensor, *args, shared_kv: SharedKV, **kwargs) -> torch.Tensor:
        # The decoder passes x_l as it is, so the first late layer takes z of it; a caller with `rope` has done so.
        if self.first_late and shared_kv.rope is None:
            shared_kv.cut(hidden_states)
        return super().forward(hidden_states, *args, shared_kv=shared_kv, **kwargs)


class SwiftKVModel:
    """The decoder stack; goes before the family's model class. Late layers become `layer_class`."""

    layer_class: type[nn.Module]
    _keys_to_ignore_on_load_unexpected = [DEAD_TENSORS]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        # Present even at l = L, where nothing reads it: one list of tensors for every cut.
        self.norm_swiftkv = type(self.norm)(config.hidden_size, eps=config.rms_norm_eps)
        for layer in range(config.num_key_value_layers, config.num_hidden_layers):
            self.layers[layer] = self.layer_class(config, layer)
        # Where a model is spread over devices, a layer stays whole; a student has both kinds.
        self._no_split_modules = [*self._no_split_modules, self.layer_class.__name__]
        self.post_init()  # again: Transformers initialises and registers what was put in place since

    def forward(self, *args, **kwargs):
        """As the family's model; see Transformers."""
        # The family's loop hands what it does not know to every layer; ordinary attention ignores `shared_kv`.
        return super().forward(*args, shared_kv=SharedKV(self.norm_swiftkv), **kwargs)


class SwiftKVForCausalLM:
    """The language model; goes before the family's class, whose `model` becomes `model_class`.

    `vllm_model` is the class that serves its checkpoints on vLLM, as "module:class".
    """

    model_class: type[nn.Module]
    vllm_model: str
    _keys_to_ignore_on_load_unexpected = [DEAD_TENSORS]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        # In place of the family's model, built a moment before; `from_pretrained` builds both without memory.
        self.model = self.model_class(config)
        self.post_init()
