"""Mistral (no sliding window) with SwiftKV: `model_type` mistral_swiftkv, architecture MistralSwiftKVForCausalLM."""

from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralDecoderLayer,
    MistralForCausalLM,
    MistralModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import MistralSwiftKVConfig


class MistralSwiftKVAttention(decoder.SwiftKVAttention, MistralAttention):
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class MistralSwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, MistralDecoderLayer):
    attention_class = MistralSwiftKVAttention


class MistralSwiftKVModel(decoder.SwiftKVModel, MistralModel):
    config: MistralSwiftKVConfig
    config_class = MistralSwiftKVConfig
    layer_class = MistralSwiftKVDecoderLayer
    _no_split_modules = ["MistralDecoderLayer", "MistralSwiftKVDecoderLayer"]  # noqa: RUF012


class MistralSwiftKVForCausalLM(decoder.SwiftKVForCausalLM, MistralForCausalLM):
    """As Llama but for the base class."""

    config: MistralSwiftKVConfig
    config_class = MistralSwiftKVConfig
    model_class = MistralSwiftKVModel
    _no_split_modules = ["MistralDecoderLayer", "MistralSwiftKVDecoderLayer"]  # noqa: RUF012
