"""SwiftKV models for Transformers. Importing this package registers them with the Auto classes.

A family is one module here that names its class for causal language models FAMILY; nothing else lists the families.
"""

import pkgutil
from importlib import import_module

from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.modeling.llama import LlamaSwiftKVConfig, LlamaSwiftKVForCausalLM, LlamaSwiftKVModel

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
_MODELS = [module.FAMILY for module in _MODULES if hasattr(module, "FAMILY")]

# base model_type -> its SwiftKV class; students have model_type <base>_swiftkv
FAMILIES = {model.config_class.model_type.removesuffix("_swiftkv"): model for model in _MODELS}
for _model in _MODELS:
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)

__all__ = ["FAMILIES", "LlamaSwiftKVConfig", "LlamaSwiftKVForCausalLM", "LlamaSwiftKVModel"]
