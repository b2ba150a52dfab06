"""Attention of the late layers: owns or shares a KV cache, and sees only the tokens whose logits are needed.

vLLM gives its fast-prefill metadata only to the trailing run of layers that share a KV cache. A late layer that
owns one gets the same metadata through the public hook `Attention.get_attn_backend`.
"""

from dataclasses import fields
from functools import cache

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionBackend, CommonAttentionMetadata, subclass_attention_backend
from vllm.v1.attention.backends.utils import make_kv_sharing_fast_prefill_common_attn_metadata

# The prefix vLLM gives its own fast-prefill backends. Model runners group layers by backend name, so late layers
# wrapped here and trailing AcrossKV followers wrapped by the runner share one metadata build per step.
PREFIX = "FastPrefill"
# What is a request's, not a query's, and so stays as it is when queries are dropped, under all names that releases of
# vLLM have for it. Other fields take their defaults.
REQUEST_FIELDS = {"seq_lens", "num_reqs", "max_seq_len", "block_table_tensor", "slot_mapping",
                  "seq_lens_cpu_upper_bound", "_seq_lens_cpu", "_num_computed_tokens_cpu"}  # fmt: skip


def last_tokens(batch: CommonAttentionMetadata) -> CommonAttentionMetadata:
    """`batch` reduced to the tokens that need logits, unchanged if it only decodes.

    These are one token per request. vLLM's function allows for several and, in 0.26, reads their number back from the
    GPU, which waits for the CPU then in every step that prefills.
    """
    requests = batch.num_reqs
    # All decode: nothing to skip. Several indices per request, or none (CUDA graphs are being captured): as vLLM does.
    if batch.max_query_len == 1 or batch.num_logits_indices != requests:
        return make_kv_sharing_fast_prefill_common_attn_metadata(batch)
    starts = batch.query_start_loc
    # One query per request, its last token, which sees the whole sequence: so `seq_lens` stay those of the batch.
    return CommonAttentionMetadata(
        query_start_loc=torch.arange(requests + 1, dtype=starts.dtype, device=starts.device),
        query_start_loc_cpu=torch.arange(requests + 1, dtype=starts.dtype),
        num_actual_tokens=requests,
        max_query_len=1,
        causal=True,
        **{field.name: getattr(batch, field.name) for field in fields(batch) if field.name in REQUEST_FIELDS},
    )


def early_exit_builder(builder: type) -> type:
    """A subclass of a backend's metadata builder whose queries are the tokens that need logits.

    As `create_fast_prefill_custom_backend`, but a decode-only step gets the plain metadata, without a new class
    per step: that shows in TPOT.
    """

    class EarlyExitBuilder(builder):
        def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
            reduced = last_tokens(common_attn_metadata)
            metadata = super().build(common_prefix_len, reduced, fast_build)
            # The decoder finds here which rows to run (`EarlyExitModel.needed_tokens`), as vLLM's own models do.
            if reduced is not common_attn_metadata:
                metadata.logits_indices_padded = common_attn_metadata.logits_indices_padded
                metadata.num_logits_indices = common_attn_metadata.num_logits_indices
            return metadata

    return EarlyExitBuilder


# Cached: a class per layer would be a metadata build per layer, where runners group layers by it.
@cache
def early_exit_backend(backend: type[AttentionBackend]) -> type[AttentionBackend]:
    """`backend` with an `early_exit_builder`; the same class on every call."""
    return subclass_attention_backend(PREFIX, backend, early_exit_builder(backend.get_builder_cls()))


class LateAttention(Attention):
    """vLLM's attention with, if `early_exit`, metadata of the needed tokens only.

    Must be False for the trailing AcrossKV followers: the model runner wraps those itself.
    """

    def __init__(self, *args, early_exit: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.early_exit = early_exit

    def get_attn_backend(self) -> type[AttentionBackend]:
        backend = super().get_attn_backend()
        return early_exit_backend(backend) if self.early_exit else backend
