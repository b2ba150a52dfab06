"""SwiftKV models for Transformers. Importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.modeling.configuration import LlamaSwiftKVConfig
from swiftkv.modeling.llama import LlamaSwiftKVForCausalLM, LlamaSwiftKVModel

AutoConfig.register(LlamaSwiftKVConfig.model_type, LlamaSwiftKVConfig, exist_ok=True)
AutoModelForCausalLM.register(LlamaSwiftKVConfig, LlamaSwiftKVForCausalLM, exist_ok=True)

__all__ = ["LlamaSwiftKVConfig", "LlamaSwiftKVForCausalLM", "LlamaSwiftKVModel"]
