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
    """Llama with SwiftKV; fields as `SwiftKVConfigMixin` has them, like those of every family."""

    model_type = "llama_swiftkv"


class LlamaSwiftKVAttention(decoder.SwiftKVAttention, LlamaAttention):
    # Static, or they would be called as methods, with the module as their first argument.
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class LlamaSwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, LlamaDecoderLayer):
    attention_class = LlamaSwiftKVAttention


class LlamaSwiftKVModel(decoder.SwiftKVModel, LlamaModel):
    config: LlamaSwiftKVConfig
    layer_class = LlamaSwiftKVDecoderLayer


class LlamaSwiftKVForCausalLM(decoder.SwiftKVForCausalLM, LlamaForCausalLM):
    """Loads published checkpoints and our students; a late layer's ordinary q, k, v in a file are ignored."""

    config: LlamaSwiftKVConfig
    model_class = LlamaSwiftKVModel
    vllm_model = "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM"


FAMILY = LlamaSwiftKVForCausalLM
