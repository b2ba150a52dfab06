"""Qwen2, Qwen2.5 and dense Qwen3 with SwiftKV on vLLM, whose decoders differ in their attention alone."""

from torch import nn
from vllm.compilation.decorators import ignore_torch_compile
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.model_executor.models.qwen2 import Qwen2DecoderLayer, Qwen2Model
from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer, Qwen3Model

from swiftkv.vllm.decoder import EarlyExitModel
from swiftkv.vllm.late import EarlyExitForCausalLM, LateSelfAttention, is_late, late_layer


class Qwen2LateAttention(LateSelfAttention):
    qkv_bias = True


class Qwen3LateAttention(LateSelfAttention):
    qk_norm = True


class QwenEarlyExitModel(EarlyExitModel, Qwen2Model):
    """vLLM's Qwen decoder, split at the cut: `early_layer` below it, late layers with `late_attention` above."""

    early_layer: type[nn.Module]
    late_attention: type[LateSelfAttention]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix, decoder_layer_type=self.decoder_layer)
        self.split(vllm_config, prefix)

    @classmethod
    def decoder_layer(cls, *, config, prefix: str, **others) -> nn.Module:
        """Layer `prefix` (model.layers.<j>)."""
        if is_late(config, prefix):
            return late_layer(cls.late_attention, get_current_vllm_config(), prefix)
        return cls.early_layer(config=config, prefix=prefix, **others)


@ignore_torch_compile
class Qwen2EarlyExitModel(QwenEarlyExitModel):
    early_layer, late_attention = Qwen2DecoderLayer, Qwen2LateAttention


@ignore_torch_compile
class Qwen3EarlyExitModel(QwenEarlyExitModel):
    early_layer, late_attention = Qwen3DecoderLayer, Qwen3LateAttention


class Qwen2SwiftKVForCausalLM(EarlyExitForCausalLM):
    model_class, base_class = Qwen2EarlyExitModel, Qwen2Model


class Qwen3SwiftKVForCausalLM(EarlyExitForCausalLM):
    model_class, base_class = Qwen3EarlyExitModel, Qwen3Model
