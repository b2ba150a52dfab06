"""SwiftKV models for Transformers. Importing this package registers them with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.modeling.families import FAMILIES
from swiftkv.modeling.families.llama import LlamaSwiftKVConfig, LlamaSwiftKVForCausalLM, LlamaSwiftKVModel

for _model in FAMILIES.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)

__all__ = ["FAMILIES", "LlamaSwiftKVConfig", "LlamaSwiftKVForCausalLM", "LlamaSwiftKVModel"]
