"""Random weights that all engines of a process share: five arms of a comparison take the memory of one.

Speed does not depend on the values of weights, and arms take turns.
"""

from functools import cache
from typing import ClassVar
from weakref import WeakValueDictionary

from torch import nn
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader


class SharedDummyLoader(DummyModelLoader):
    """vLLM's random weights; a parameter of a name, shape and dtype that a living engine has is that engine's."""

    # Weak, so that the memory goes with the last engine that uses it.
    known: ClassVar[WeakValueDictionary] = WeakValueDictionary()

    def load_weights(self, model: nn.Module, model_config) -> None:
        """Fill `model`, whose own memory for what is shared becomes free."""
        # Filled first and replaced after: vLLM's own loader decides what the values are.
        super().load_weights(model, model_config)
        for name, parameter in model.named_parameters():
            key = (name, tuple(parameter.shape), parameter.dtype, parameter.device)
            first = self.known.setdefault(key, parameter)
            parameter.data = first.data


@cache
def register(load_format: str) -> None:
    """Make the loader known to vLLM, by its public `register_model_loader`, as `load_format`."""
    register_model_loader(load_format)(SharedDummyLoader)
