"""Dense Qwen3 with SwiftKV on vLLM."""

from vllm.compilation.decorators import ignore_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2 import Qwen2Model
from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer

from swiftkv.vllm.decoder import SwiftKVModel
from swiftkv.vllm.late import LateSelfAttention, SwiftKVForCausalLM, qwen_layers


class Qwen3LateAttention(LateSelfAttention):
    qk_norm = True


@ignore_torch_compile
class Qwen3SwiftKVModel(SwiftKVModel, Qwen2Model):
    """vLLM's Qwen3 decoder, split at the cut."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        layers = qwen_layers(Qwen3DecoderLayer, Qwen3LateAttention)
        super().__init__(vllm_config=vllm_config, prefix=prefix, decoder_layer_type=layers)
        self.split(vllm_config, prefix)


class Qwen3SwiftKVForCausalLM(SwiftKVForCausalLM):
    model_class = Qwen3SwiftKVModel
