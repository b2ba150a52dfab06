"""A whole model in Transformers, on a GPU that has room for it, else on the CPU."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import swiftkv.modeling  # noqa: F401 - registers the SwiftKV classes


def device_for(weights: int, times: float) -> str:
    """`cuda` if a GPU is there and `times` the bytes of `weights` are free on it, else `cpu`."""
    return "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > times * weights else "cpu"


def load_whole(directory: Path, dtype: str | torch.dtype = "auto", times: float = 1.5) -> PreTrainedModel:
    """The model of a directory for inference; `times` its weights is what it takes with what it computes."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return model.to(device_for(weights, times))
