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
    """Mistral without a sliding window, with SwiftKV."""

    model_type = "mistral_swiftkv"

    sliding_window: int | None = None


class MistralSwiftKVAttention(decoder.SwiftKVAttention, MistralAttention):
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class MistralSwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, MistralDecoderLayer):
    attention_class = MistralSwiftKVAttention


class MistralSwiftKVModel(decoder.SwiftKVModel, MistralModel):
    config: MistralSwiftKVConfig
    layer_class = MistralSwiftKVDecoderLayer


class MistralSwiftKVForCausalLM(decoder.SwiftKVForCausalLM, MistralForCausalLM):
    """As Llama but for the base class."""

    config: MistralSwiftKVConfig
    model_class = MistralSwiftKVModel
    vllm_model = "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM"


FAMILY = MistralSwiftKVForCausalLM
