"""Llama with SwiftKV on vLLM; Mistral without sliding windows is the same model."""

from vllm.compilation.decorators import ignore_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaModel

from swiftkv.vllm.decoder import EarlyExitModel
from swiftkv.vllm.late import EarlyExitForCausalLM, LateSelfAttention, is_late, late_layer


def decoder_layer(*, vllm_config: VllmConfig, prefix: str) -> LlamaDecoderLayer:
    """Layer `prefix` (model.layers.<j>): vLLM's own, with a late attention above the cut."""
    if is_late(vllm_config.model_config.hf_config, prefix):
        return late_layer(LateSelfAttention, vllm_config, prefix)
    return LlamaDecoderLayer(vllm_config=vllm_config, prefix=prefix)


@ignore_torch_compile
class LlamaEarlyExitModel(EarlyExitModel, LlamaModel):
    """vLLM's Llama decoder, split at the cut."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=decoder_layer)
        self.split(vllm_config, prefix)


class LlamaSwiftKVForCausalLM(EarlyExitForCausalLM):
    model_class, base_class = LlamaEarlyExitModel, LlamaModel
