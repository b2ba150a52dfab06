"""What vLLM calls in every one of its processes: makes SwiftKV checkpoints known. Nothing else changes.

The entry point is declared in pyproject.toml (group `vllm.general_plugins`); see
https://docs.vllm.ai/en/latest/design/plugin_system/
"""

import os
from collections.abc import Callable

DIE_WITH_PARENT = "SWIFTKV_DIE_WITH_PARENT"


def register() -> None:
    """Register configurations, model classes (imported only when used), engine settings. May be called again."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from swiftkv.modeling import FAMILIES  # importing it registers the configurations with AutoConfig
    from swiftkv.vllm.guards import SwiftKVEngineGuard

    known = ModelRegistry.get_supported_archs()
    for model in FAMILIES.values():
        # vLLM has no registration for this hook; its own models are entries of the same table.
        MODELS_CONFIG_MAP.setdefault(model.__name__, SwiftKVEngineGuard)
        if model.__name__ not in known:
            ModelRegistry.register_model(model.__name__, model.vllm_model)
    if os.environ.get(DIE_WITH_PARENT):
        die_with_parent()


def die_with_parent() -> None:
    """Have Linux kill this engine process when the process that started it ends, however it ends.

    vLLM's workers watch the engine core, but nothing watches for a front end that was killed (SIGKILL).
    """
    import multiprocessing
    import signal

    parent, ask = multiprocessing.parent_process(), signal_at_parents_death(signal.SIGKILL)
    if parent is None or ask is None:
        return
    ask()
    # The parent may have gone before the call above, and would then never be missed.
    if os.getppid() != parent.pid:
        os._exit(1)


def signal_at_parents_death(number: int) -> Callable[[], None] | None:
    """A call after which Linux sends the calling process a signal when its parent is gone; None on other systems."""
    import ctypes
    import sys

    if not sys.platform.startswith("linux"):
        return None
    libc, set_parent_death_signal = ctypes.CDLL(None), 1
    return lambda: libc.prctl(set_parent_death_signal, number)
