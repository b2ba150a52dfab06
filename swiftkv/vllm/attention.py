"""Attention of the late layers: owns or shares a KV cache, and sees only the tokens whose logits are needed.

vLLM lets an attention layer name its backend (`Attention.get_attn_backend`). That of a late layer differs from the
platform's in the builder of its metadata alone.
"""

from functools import cache

from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    CommonAttentionMetadata,
    subclass_attention_backend,
)

from swiftkv.errors import UserError
from swiftkv.vllm.needed import Step, needed_of

# Model runners group layers by the name of their backend: the late layers are one group, with one metadata build per
# step, and share none with the early layers.
PREFIX = "EarlyExit"


def tokens_per_request(vllm_config) -> int:
    """The most tokens of a decoding request in one step: the last one sampled, and drafts."""
    speculative = vllm_config.speculative_config
    return 1 + (speculative.num_speculative_tokens if speculative else 0)


def early_exit_builder(builder: type) -> type:
    """A subclass of a backend's metadata builder whose queries are the tokens that need logits.

    A step where all do gets the backend's own metadata. Others carry the tokens (`Needed`) to the decoder.
    """

    class EarlyExitBuilder(builder):
        # It would put another cache's whole block table into metadata that may leave requests out.
        supports_update_block_table = False

        def __init__(self, kv_cache_spec, layer_names, vllm_config, device, **others):
            super().__init__(kv_cache_spec, layer_names, vllm_config, device, **others)
            layers = vllm_config.compilation_config.static_forward_context
            self.step: Step = layers[layer_names[0]].step
            self.tokens_per_request = tokens_per_request(vllm_config)

        @classmethod
        def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
            # A graph of a whole step with a prompt in it would fix which tokens run the late layers.
            support = super().get_cudagraph_support(vllm_config, kv_cache_spec)
            return min(support, AttentionCGSupport.UNIFORM_BATCH, key=lambda level: level.value)

        def build(self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build=False):
            found = needed_of(common_attn_metadata, self.tokens_per_request, self.step)
            if found is None:
                return super().build(common_prefix_len, common_attn_metadata, fast_build)
            needed, batch = found
            metadata = super().build(common_prefix_len, batch, fast_build)
            metadata.needed = needed
            return metadata

        def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata):
            if common_attn_metadata.max_query_len > self.tokens_per_request:
                raise UserError("SwiftKV models do not support CUDA graphs of whole steps with prompts (FULL)")
            return super().build_for_cudagraph_capture(common_attn_metadata)

    return EarlyExitBuilder


# Cached: a class per layer would be a metadata build per layer, where runners group layers by it.
@cache
def early_exit_backend(backend: type[AttentionBackend]) -> type[AttentionBackend]:
    """`backend` with an `early_exit_builder`; the same class on every call."""
    return subclass_attention_backend(PREFIX, backend, early_exit_builder(backend.get_builder_cls()))


class LateAttention(Attention):
    """vLLM's attention with, if `early_exit`, metadata of the needed tokens only, which `step` tells about."""

    def __init__(self, *args, early_exit: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.early_exit = early_exit
        self.step = Step()  # the model puts its own in its place

    def get_attn_backend(self) -> type[AttentionBackend]:
        backend = super().get_attn_backend()
        return early_exit_backend(backend) if self.early_exit else backend
