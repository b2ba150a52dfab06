"""Qwen2 and Qwen2.5 with SwiftKV: `model_type` qwen2_swiftkv, architecture Qwen2SwiftKVForCausalLM."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2ForCausalLM,
    Qwen2Model,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import SwiftKVConfigMixin


@strict
class Qwen2SwiftKVConfig(SwiftKVConfigMixin, Qwen2Config):
    """Qwen2 and Qwen2.5 with SwiftKV."""

    model_type = "qwen2_swiftkv"


class Qwen2SwiftKVAttention(decoder.SwiftKVAttention, Qwen2Attention):
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class Qwen2SwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, Qwen2DecoderLayer):
    attention_class = Qwen2SwiftKVAttention


class Qwen2SwiftKVModel(decoder.SwiftKVModel, Qwen2Model):
    config: Qwen2SwiftKVConfig
    layer_class = Qwen2SwiftKVDecoderLayer


class Qwen2SwiftKVForCausalLM(decoder.SwiftKVForCausalLM, Qwen2ForCausalLM):
    """q, k and v have biases; so have their SwiftKV counterparts."""

    config: Qwen2SwiftKVConfig
    model_class = Qwen2SwiftKVModel
    vllm_model = "swiftkv.vllm.qwen:Qwen2SwiftKVForCausalLM"


FAMILY = Qwen2SwiftKVForCausalLM
