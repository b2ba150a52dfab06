"""The SwiftKV forward pass on vLLM, shared by all model families.

Early decoder (layers 1..l, all tokens) -> K and V of every late group written to the KV cache, all tokens ->
late decoder (layers l+1..L), only the tokens whose logits are needed. The halves compile separately; what lies
between runs eagerly, because it depends on the step. On a step where every token needs logits (decode-only) there is no
gather and no scatter.
"""

from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CUDAGraphMode, VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention.attention import unified_kv_cache_update
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear

from swiftkv.errors import UserError
from swiftkv.vllm.guards import BREAKABLE, breakable_graphs, exits_early
from swiftkv.vllm.needed import Needed, Step
from swiftkv.vllm.weights import LATE_KV_PACKED, name_late_kv


class LateKV(nn.Module):
    """K and V of all late groups from x_l: one norm, one matrix product and one RoPE for all of them.

    `attentions` are the late attentions of the group leaders; their key norms (Qwen3) apply to their groups. `prefix`
    is the decoder's. Raises UserError where a quantisation has several schemes for them.
    """

    def __init__(self, config, attentions: list[nn.Module], norm: nn.Module, quant_config, prefix: str):
        super().__init__()
        # Shape, bias and rotation of K and V are the same for all groups, so the first one's stand for all.
        first, self.groups = attentions[0], len(attentions)
        self.heads, self.head_dim = first.num_kv_heads, first.head_dim
        self.norm, self.rotary_emb = norm, first.rotary_emb
        self.k_norms = nn.ModuleList(a.k_norm for a in attentions if a.k_norm is not None)
        # All groups read the same z, hence one product: K of every group, then V of every group (see `WeightMap`).
        name_late_kv(quant_config, config.layers_of())
        try:
            self.kv_proj = MergedColumnParallelLinear(
                config.hidden_size,
                [first.total_num_kv_heads * self.head_dim] * (2 * self.groups),
                bias=first.kv_bias,
                quant_config=quant_config,
                return_bias=False,
                prefix=f"{prefix}.layers.{LATE_KV_PACKED}",
            )
        except ValueError as error:
            if quant_config is None:
                raise
            raise UserError(
                "quantization_config: k_proj_swiftkv and v_proj_swiftkv of all late layers are one matrix here: "
                f"allowed is one scheme for all, or all under `ignore` ({' '.join(str(error).split())})"
            ) from error

    def normalise(self, k: torch.Tensor) -> torch.Tensor:
        """Each group's K [T, groups, heads, head size] through the key norm of its leader."""
        groups = zip(self.k_norms, k.unbind(1), strict=True)
        return torch.stack([norm(group.contiguous()) for norm, group in groups], 1)

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_l = hidden_states + residual, [T, D] -> x_l, and K and V [T, groups, key-value heads, head size]."""
        # vLLM's norm adds the residual too, and returns the sum: x_l itself goes on to the late layers.
        z, x = self.norm(hidden_states, residual)
        k, v = self.kv_proj(z).chunk(2, dim=-1)
        shape = (-1, self.groups, self.heads, self.head_dim)
        if self.k_norms:
            k = self.normalise(k.view(shape)).flatten(1)
        # The heads of all groups side by side, as if they were one wide query.
        k, _ = self.rotary_emb(positions, k, None)
        return x, k.view(shape), v.view(shape)


@support_torch_compile
class EarlyDecoder(nn.Module):
    """Embedding, layers 1..l and the late groups' K and V, for every token."""

    def __init__(self, *, embed_tokens: nn.Module, layers: nn.ModuleList, late_kv: LateKV):
        super().__init__()
        self.embed_tokens, self.layers, self.late_kv = embed_tokens, layers, late_kv

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        residual = None
        for layer in self.layers:
            hidden_states, residual = layer(positions, hidden_states, residual)
        return self.late_kv(positions, hidden_states, residual)


@support_torch_compile
class LateDecoder(nn.Module):
    """Layers l+1..L and the final norm, for the tokens it is given."""

    def __init__(self, *, layers: nn.ModuleList, norm: nn.Module):
        super().__init__()
        self.layers, self.norm = layers, norm

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = None  # x_l comes as the whole sum
        for layer in self.layers:
            hidden_states, residual = layer(positions, hidden_states, residual)
        return self.norm(hidden_states, residual)[0]


class EarlyExitModel:
    """The decoder stack; goes before the family's vLLM model class in the bases.

    The family's `__init__` must have built `embed_tokens`, `layers` and `norm`, with late layers from
    `swiftkv.vllm.late.late_layer`. The class that mixes this in needs `@ignore_torch_compile`.
    `step` is what the metadata builders of its late layers know of a step; None if every token runs every layer.
    `token_counts`, None unless a test or gate sets a Counter, adds up the tokens that ran each half.
    """

    step: Step | None = None
    token_counts: Counter | None = None

    def split(self, vllm_config: VllmConfig, prefix: str) -> None:
        """Build the two halves over the family's layers, and the buffers that CUDA graphs need."""
        config, cut = self.config, self.config.num_key_value_layers
        self.norm_swiftkv = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        leaders = config.layers_of().leaders
        self.late_layer_names = [self.layers[j].self_attn.attn.layer_name for j in leaders]
        attentions = [self.layers[j].self_attn for j in leaders]
        late_kv = LateKV(config, attentions, self.norm_swiftkv, self.quant_config, prefix)
        if exits_early(vllm_config):
            if breakable_graphs():
                raise UserError(f"SwiftKV models do not support {BREAKABLE} with early exit")
            self.step = Step()
            for layer in self.layers[cut:]:
                layer.self_attn.attn.step = self.step
        from vllm.compilation.backends import set_model_tag

        # The tags keep the two graphs apart in vLLM's compilation cache. The family's modules are now registered twice;
        # `named_parameters` lists each by its first name, the one that loading uses.
        with set_model_tag("early_decoder"):
            self.early_decoder = EarlyDecoder(embed_tokens=self.embed_tokens, layers=self.layers[:cut], late_kv=late_kv)
        with set_model_tag("late_decoder"):
            self.late_decoder = LateDecoder(layers=self.layers[cut:], norm=self.norm)
        self.compilation_config = vllm_config.compilation_config
        self.allocate_buffers(vllm_config)

    def allocate_buffers(self, vllm_config: VllmConfig) -> None:
        """Inputs of the late decoder at fixed addresses, if CUDA graphs will replay it."""
        self.buffers = None
        if vllm_config.compilation_config.cudagraph_mode == CUDAGraphMode.NONE:
            return
        # A graph replays with the addresses that it was captured with, and indexing makes new tensors in every step.
        tokens, device = vllm_config.scheduler_config.max_num_batched_tokens, self.norm_swiftkv.weight.device
        size, dtype = self.config.hidden_size, vllm_config.model_config.dtype
        positions = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.buffers = positions, torch.zeros(tokens, size, dtype=dtype, device=device)

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None) -> torch.Tensor:
        """Token ids and positions [T] -> final hidden states [T, D]; NaN where no logits are needed."""
        x, keys, values = self.early_decoder(input_ids, positions, inputs_embeds)
        # Before the late layers run: they attend to what is written here, this step's tokens included.
        self.write_kv(keys, values)
        needed = self.needed_tokens()
        if self.token_counts is not None:
            self.token_counts.update(early=positions.size(0), late=needed.number if needed else positions.size(0))
        if needed is None:
            return self.late_decoder(*self.at_fixed_address(positions, x))
        return self.run_needed(positions, x, needed)

    def write_kv(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write K and V [T, groups, heads, size] of all tokens to the caches of the group leaders."""
        for name, key, value in zip(self.late_layer_names, keys.unbind(1), values.unbind(1), strict=True):
            unified_kv_cache_update(key, value, name)

    def needed_tokens(self) -> Needed | None:
        """The tokens whose logits are needed; None = all."""
        metadata = get_forward_context().attn_metadata
        if not isinstance(metadata, dict):
            return None  # a dummy run
        return getattr(metadata[self.late_layer_names[0]], "needed", None)

    def run_needed(self, positions: torch.Tensor, x: torch.Tensor, needed: Needed) -> torch.Tensor:
        """Run the late decoder on the rows of x that are `needed`, if there are any."""
        # NaN, so that a use of hidden states that do not exist can never look right.
        output = x.new_full(x.shape, float("nan"))
        if needed.last is not None:
            output.index_fill_(0, needed.last, 0)  # sampled from and thrown away; some samplers cannot do with NaN
        if needed.number:
            with self.reduced_batch(needed.number) as size:
                # Rows beyond `number` are padding for CUDA graphs, and their values mean nothing.
                indices = nn.functional.pad(needed.indices, (0, size - needed.number))
                rows = self.late_decoder(*self.at_fixed_address(positions[indices], x[indices]))
            output.index_copy_(0, needed.indices, rows[: needed.number])
        return output

    @contextmanager
    def reduced_batch(self, tokens: int):
        """Tell vLLM's piecewise CUDA graphs how many tokens the late decoder runs; yields that number, for which a
        graph was captured if this step uses graphs."""
        context = get_forward_context()
        outer = context.batch_descriptor
        if context.cudagraph_runtime_mode == CUDAGraphMode.PIECEWISE:
            # Every size was captured: dummy runs have all their tokens run the late layers. No step that uses a graph
            # is larger than the largest.
            sizes = sorted(self.compilation_config.cudagraph_capture_sizes)
            tokens = sizes[bisect_left(sizes, tokens)]
        if outer is not None:
            context.batch_descriptor = replace(outer, num_tokens=tokens)
        try:
            yield tokens
        finally:
            context.batch_descriptor = outer

    def at_fixed_address(self, positions: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The late decoder's inputs, copied to the static buffers if CUDA graphs are on."""
        if self.buffers is None:
            return positions, x
        tokens = positions.size(0)
        return tuple(buffer[:tokens].copy_(tensor) for buffer, tensor in zip(self.buffers, (positions, x), strict=True))
