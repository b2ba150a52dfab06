"""Resumable training state as safetensors + JSON: no pickle, written atomically, refused if it belongs elsewhere."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from swiftkv import files
from swiftkv.errors import UserError


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """The optimiser's state as a flat mapping; scalars become 0-d tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{index}/{name}": torch.as_tensor(value).clone().contiguous()
        for index, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` took; hyper-parameters stay those of `optimizer`."""
    state: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            _, index, field = name.split("/")
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(directory: Path, key: str, tensors: dict[str, torch.Tensor], progress: dict) -> None:
    """Replace the checkpoint in `directory`; tensors and progress land together or not at all."""
    with files.atomic_path(directory / "state.safetensors") as temporary:
        metadata = {"key": key, "progress": json.dumps(progress)}
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, str(temporary), metadata)


def load(directory: Path, key: str) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The checkpoint's tensors and progress, or None if there is none for this key. Raises UserError if damaged."""
    path = directory / "state.safetensors"
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
        if header["key"] != key:
            return None
        return load_file(str(path)), json.loads(header["progress"])
    except Exception as error:
        raise UserError(f"{path}: damaged checkpoint ({error}); delete it to start over") from None
