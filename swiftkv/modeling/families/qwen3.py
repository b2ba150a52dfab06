"""Dense Qwen3 with SwiftKV: `model_type` qwen3_swiftkv, architecture Qwen3SwiftKVForCausalLM."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3DecoderLayer,
    Qwen3ForCausalLM,
    Qwen3Model,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from swiftkv.modeling import decoder
from swiftkv.modeling.configuration import SwiftKVConfigMixin


@strict
class Qwen3SwiftKVConfig(SwiftKVConfigMixin, Qwen3Config):
    """Dense Qwen3 with SwiftKV."""

    model_type = "qwen3_swiftkv"


class Qwen3SwiftKVAttention(decoder.SwiftKVAttention, Qwen3Attention):
    rotate = staticmethod(apply_rotary_pos_emb)
    eager = staticmethod(eager_attention_forward)


class Qwen3SwiftKVDecoderLayer(decoder.SwiftKVDecoderLayer, Qwen3DecoderLayer):
    attention_class = Qwen3SwiftKVAttention


class Qwen3SwiftKVModel(decoder.SwiftKVModel, Qwen3Model):
    config: Qwen3SwiftKVConfig
    layer_class = Qwen3SwiftKVDecoderLayer


class Qwen3SwiftKVForCausalLM(decoder.SwiftKVForCausalLM, Qwen3ForCausalLM):
    """Queries and keys keep their per-head norms; a late layer's k_norm lives with its group's first layer."""

    config: Qwen3SwiftKVConfig
    model_class = Qwen3SwiftKVModel
    vllm_model = "swiftkv.vllm.qwen:Qwen3SwiftKVForCausalLM"


FAMILY = Qwen3SwiftKVForCausalLM
