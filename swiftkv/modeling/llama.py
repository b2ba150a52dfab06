"""Llama with SwiftKV: `model_type` llama_swiftkv, architecture LlamaSwiftKVForCausalLM."""

from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import LlamaSwiftKVConfig


class LlamaSwiftKVAttention(decoder.SwiftKVAttention, LlamaAttention):
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class LlamaSwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, LlamaDecoderLayer):
    attention_class = LlamaSwiftKVAttention


class LlamaSwiftKVModel(decoder.SwiftKVModel, LlamaModel):
    config: LlamaSwiftKVConfig
    config_class = LlamaSwiftKVConfig
    layer_class = LlamaSwiftKVDecoderLayer
    _no_split_modules = ["LlamaDecoderLayer", "LlamaSwiftKVDecoderLayer"]  # noqa: RUF012


class LlamaSwiftKVForCausalLM(decoder.SwiftKVForCausalLM, LlamaForCausalLM):
    """Loads published checkpoints and our students; a late layer's ordinary q, k, v in a file are ignored."""

    config: LlamaSwiftKVConfig
    config_class = LlamaSwiftKVConfig
    model_class = LlamaSwiftKVModel
    _no_split_modules = ["LlamaDecoderLayer", "LlamaSwiftKVDecoderLayer"]  # noqa: RUF012
