"""What vLLM calls in every one of its processes: makes SwiftKV checkpoints known. Nothing else changes.

The entry point is declared in pyproject.toml (group `vllm.general_plugins`); see
https://docs.vllm.ai/en/latest/design/plugin_system/
"""

import os

ARCHITECTURES = {
    "LlamaSwiftKVForCausalLM": "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM",
    "MistralSwiftKVForCausalLM": "swiftkv.vllm.llama:LlamaSwiftKVForCausalLM",
    "Qwen2SwiftKVForCausalLM": "swiftkv.vllm.qwen:Qwen2SwiftKVForCausalLM",
    "Qwen3SwiftKVForCausalLM": "swiftkv.vllm.qwen:Qwen3SwiftKVForCausalLM",
}
DIE_WITH_PARENT = "SWIFTKV_DIE_WITH_PARENT"


def register() -> None:
    """Register configurations, model classes (imported only when used), engine settings. May be called again."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    import swiftkv.modeling  # noqa: F401 - registers the configuration with AutoConfig
    from swiftkv.vllm.guards import EngineSettings

    known = ModelRegistry.get_supported_archs()
    for architecture, model_class in ARCHITECTURES.items():
        MODELS_CONFIG_MAP.setdefault(architecture, EngineSettings)
        if architecture not in known:
            ModelRegistry.register_model(architecture, model_class)
    if os.environ.get(DIE_WITH_PARENT):
        die_with_parent()


def die_with_parent() -> None:
    """Have Linux kill this engine process when the process that started it ends, however it ends.

    vLLM's workers watch the engine core, but nothing watches for a front end that was killed (SIGKILL).
    """
    import ctypes
    import multiprocessing
    import signal
    import sys

    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(1)
