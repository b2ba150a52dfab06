"""The model families that become students: one module each, which names its class for causal language models FAMILY.

Nothing else lists the families.
"""

import pkgutil
from importlib import import_module

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

# base model_type -> its SwiftKV class; students have model_type <base>_swiftkv
FAMILIES = {module.FAMILY.config_class.model_type.removesuffix("_swiftkv"): module.FAMILY for module in _MODULES}
