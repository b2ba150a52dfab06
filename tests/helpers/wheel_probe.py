"""Import the whole plugin against the Python code of another vLLM and build every family's model without weights.

Run by packaging/test_matrix.sh with an unpacked CUDA wheel on PYTHONPATH whose version says "+cpu", so that vLLM takes
its CPU platform. What a CUDA wheel has in compiled form is absent: the operators that building a model looks up are
declared here, and none is called. Prints one line per family; fails on the first that cannot be built.
"""

import importlib
import os
import pkgutil
import tempfile

import torch

from tests.helpers.models import TINY_SHAPE

OPERATORS = ("silu_and_mul", "rms_norm", "fused_add_rms_norm", "rotary_embedding")


def declare_operators() -> torch.library.Library:
    """Declare the missing operators; the declarations live as long as the library that is returned."""
    library = torch.library.Library("_C", "FRAGMENT")
    for name in OPERATORS:
        if not hasattr(torch.ops._C, name):
            library.define(f"{name}(Tensor x) -> ()")
    return library


def engine_config(model, directory: str):
    """vLLM's completed configuration for a student of the family, cut 4 of 8, AcrossKV 2."""
    from vllm import EngineArgs

    cut = {"num_key_value_layers": 4, "key_value_group_size": 2}
    model.config_class(**TINY_SHAPE, **cut, architectures=[model.__name__]).save_pretrained(directory)
    settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "kv_cache_memory_bytes": 1 << 24}
    return EngineArgs(model=directory, skip_tokenizer_init=True, **settings).create_engine_config()


def build(model) -> str:
    """Build the family's vLLM model on the meta device; what was built."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel, model_parallel_is_initialized
    from vllm.model_executor.model_loader.utils import initialize_model

    from swiftkv.vllm.guards import GUARD, exits_early
    from swiftkv.vllm.worker import without_guard

    with tempfile.TemporaryDirectory() as directory:
        config = engine_config(model, directory)
        assert exits_early(config) and GUARD in config.model_config.logits_processors
        assert not without_guard(config).model_config.logits_processors
        with set_current_vllm_config(config):
            if not model_parallel_is_initialized():
                init_distributed_environment(1, 0, f"file://{directory}/ranks", 0, "gloo")
                initialize_model_parallel(1, 1)
            with torch.device("meta"):
                built = initialize_model(config)
    return f"{type(built).__name__} with {sum(p.numel() for p in built.parameters()):,} parameters"


def main() -> None:
    import vllm

    import swiftkv.vllm
    from swiftkv.modeling import FAMILIES
    from swiftkv.vllm.plugin import register

    for module in pkgutil.iter_modules(swiftkv.vllm.__path__):
        importlib.import_module(f"swiftkv.vllm.{module.name}")
    register()
    kept = declare_operators()
    for name, model in FAMILIES.items():
        print(f"vllm {vllm.__version__}: {name}: {build(model)}")
    del kept


if __name__ == "__main__":
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    main()
