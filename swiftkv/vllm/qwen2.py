"""Qwen2 and Qwen2.5 with SwiftKV on vLLM."""

from vllm.compilation.decorators import ignore_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2 import Qwen2DecoderLayer, Qwen2Model

from swiftkv.vllm.decoder import SwiftKVModel
from swiftkv.vllm.late import LateSelfAttention, SwiftKVForCausalLM, qwen_layers


class Qwen2LateAttention(LateSelfAttention):
    qkv_bias = True


@ignore_torch_compile
class Qwen2SwiftKVModel(SwiftKVModel, Qwen2Model):
    """vLLM's Qwen2 decoder, split at the cut."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        layers = qwen_layers(Qwen2DecoderLayer, Qwen2LateAttention)
        super().__init__(vllm_config=vllm_config, prefix=prefix, decoder_layer_type=layers)
        self.split(vllm_config, prefix)


class Qwen2SwiftKVForCausalLM(SwiftKVForCausalLM):
    model_class = Qwen2SwiftKVModel
