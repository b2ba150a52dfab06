"""Mistral (no sliding window) with SwiftKV: `model_type` mistral_swiftkv, architecture MistralSwiftKVForCausalLM."""

from huggingface_hub.dataclasses import strict
from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralDecoderLayer,
    MistralForCausalLM,
    MistralModel,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import SwiftKVConfigMixin


@strict
class MistralSwiftKVConfig(SwiftKVConfigMixin, MistralConfig):
    """Mistral without a sliding window, with SwiftKV; fields as `LlamaSwiftKVConfig`."""

    model_type = "mistral_swiftkv"

    sliding_window: int | None = None
    swiftkv: bool = True
    num_key_value_layers: int | None = None
    key_value_group_size: int = 1


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
    vllm_model = "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM"
    _no_split_modules = ["MistralDecoderLayer", "MistralSwiftKVDecoderLayer"]  # noqa: RUF012


FAMILY = MistralSwiftKVForCausalLM
