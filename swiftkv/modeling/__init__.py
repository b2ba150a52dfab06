"""SwiftKV models for Transformers. Importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.modeling.configuration import (
    LlamaSwiftKVConfig,
    MistralSwiftKVConfig,
    Qwen2SwiftKVConfig,
    Qwen3SwiftKVConfig,
)
from swiftkv.modeling.llama import LlamaSwiftKVForCausalLM, LlamaSwiftKVModel
from swiftkv.modeling.mistral import MistralSwiftKVForCausalLM
from swiftkv.modeling.qwen2 import Qwen2SwiftKVForCausalLM
from swiftkv.modeling.qwen3 import Qwen3SwiftKVForCausalLM

# base model_type -> its SwiftKV class; students have model_type <base>_swiftkv
FAMILIES = {
    "llama": LlamaSwiftKVForCausalLM,
    "qwen2": Qwen2SwiftKVForCausalLM,
    "qwen3": Qwen3SwiftKVForCausalLM,
    "mistral": MistralSwiftKVForCausalLM,
}
for _model in FAMILIES.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)

__all__ = [
    "FAMILIES",
    "LlamaSwiftKVConfig",
    "LlamaSwiftKVForCausalLM",
    "LlamaSwiftKVModel",
    "MistralSwiftKVConfig",
    "MistralSwiftKVForCausalLM",
    "Qwen2SwiftKVConfig",
    "Qwen2SwiftKVForCausalLM",
    "Qwen3SwiftKVConfig",
    "Qwen3SwiftKVForCausalLM",
]
