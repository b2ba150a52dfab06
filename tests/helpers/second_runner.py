"""Run pytest with vLLM's second model runner (V2) on a machine without a GPU; its arguments are pytest's.

V2's small kernels are written in Triton, and vLLM asks for Triton's CPU backend, which no package index has. Triton's
interpreter runs them in NumPy; a stand-in for the backend is registered before vLLM looks. In this process only, so
engines must be in it, too.
"""

import os
import sys
from types import SimpleNamespace

ENVIRONMENT = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


def stand_in_for_triton() -> None:
    """Register a CPU backend that is there and compiles nothing."""
    from triton.backends import backends

    driver = SimpleNamespace(is_active=lambda: True)
    backends.setdefault("cpu", SimpleNamespace(driver=driver, compiler=None))


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    stand_in_for_triton()
    import pytest

    sys.exit(pytest.main(sys.argv[1:]))
