"""The tensors that a distillation trained, apart from the base that they belong to: what is handed on of a student
whose base others have, and what a distillation goes on from.

One safetensors file under the published names. Its metadata say which base, cut and group it is of, and how it was
trained; over a student of that base (`convert`), it is the distilled one.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from swiftkv.errors import UserError
from swiftkv.files import atomic_path
from swiftkv.modeling.checkpoint import Tensors, load_tensors

OF = ("base_sha256", "num_key_value_layers", "key_value_group_size")


def content_sha256(directory: Path) -> str:
    """A hash of a model directory's tensors, however they are spread over files and whatever else these say."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_tensors(directory).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def about(base_sha256: str, cut: int, group: int) -> dict[str, str]:
    """What trained tensors have to be of, as metadata say it."""
    return dict(zip(OF, (base_sha256, str(cut), str(group)), strict=True))


def write(path: Path, tensors: Tensors, of: dict[str, str], training: dict) -> None:
    """Write trained tensors with what they are `of` (see `about`) and the record of their `training`, atomically."""
    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"format": "pt", **of, "training": json.dumps(training)},
        )
        temporary.chmod(0o644)  # safetensors lets only their owner read its files


def read(path: Path, of: dict[str, str], shapes: dict[str, list[int]]) -> tuple[Tensors, dict]:
    """The trained tensors of a file, as they are stored, and the record of their training.

    Raises UserError unless they are those of `shapes` (names and shapes) and were trained on what they are to go `of`.
    """
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None
    for key, wanted in of.items():
        if said.get(key) != wanted:
            raise UserError(f"{path}: trained with {key} {said.get(key)}, but this student has {wanted}")
    stored = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(name for name in stored.keys() | shapes.keys() if stored.get(name) != shapes.get(name)):
        name = wrong[0]
        raise UserError(f"{path}: tensor {name} is {stored.get(name)}, expected {shapes.get(name)}")
    return tensors, json.loads(said.get("training", "{}"))
