"""Llama with SwiftKV: `model_type` llama_swiftkv, architecture LlamaSwiftKVForCausalLM."""

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import SwiftKVConfigMixin


@strict
class LlamaSwiftKVConfig(SwiftKVConfigMixin, LlamaConfig):
    """Llama with SwiftKV (paper, sections 3.2 and 3.3).

    `num_key_value_layers` is the cut l: layers 0..l-1 are ordinary (default: all of them, no SwiftKV);
    `key_value_group_size` is n, the late layers that share one KV cache. `swiftkv` is kept for published
    checkpoints. Raises StrictDataclassError if l is out of range, n does not divide L - l, or a window slides.
    """

    model_type = "llama_swiftkv"

    swiftkv: bool = True
    num_key_value_layers: int | None = None
    key_value_group_size: int = 1


class LlamaSwiftKVAttention(decoder.SwiftKVAttention, LlamaAttention):
    # Static, or they would be called as methods, with the module as their first argument.
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class LlamaSwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, LlamaDecoderLayer):
    attention_class = LlamaSwiftKVAttention


class LlamaSwiftKVModel(decoder.SwiftKVModel, LlamaModel):
    config: LlamaSwiftKVConfig
    config_class = LlamaSwiftKVConfig
    layer_class = LlamaSwiftKVDecoderLayer
    # Where a model is spread over devices, a layer stays whole; a student has both kinds.
    _no_split_modules = ["LlamaDecoderLayer", "LlamaSwiftKVDecoderLayer"]  # noqa: RUF012


class LlamaSwiftKVForCausalLM(decoder.SwiftKVForCausalLM, LlamaForCausalLM):
    """Loads published checkpoints and our students; a late layer's ordinary q, k, v in a file are ignored."""

    config: LlamaSwiftKVConfig
    config_class = LlamaSwiftKVConfig
    model_class = LlamaSwiftKVModel
    vllm_model = "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM"
    _no_split_modules = ["LlamaDecoderLayer", "LlamaSwiftKVDecoderLayer"]  # noqa: RUF012


FAMILY = LlamaSwiftKVForCausalLM
