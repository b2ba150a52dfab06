"""A GGUF file opened and checked: its metadata, and how its tensors are stored (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Llama and Mistral are one architecture there ("llama").
"""

import importlib.metadata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from swiftkv import files
from swiftkv.errors import UserError

MAGIC = b"GGUF"
PLAIN = {"F64", "F32", "F16", "BF16"}
ROPE_FACTORS = "rope_freqs.weight"


def library():
    """The module `gguf`. Raises UserError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("a GGUF file needs the package gguf: `pip install gguf`, or the extra suite") from None
    return gguf


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says of itself. `types` has each tensor's storage by its name, such as "Q4_K", `shapes` its
    shape, rows first; `rope_factors` what it divides the rotary frequencies by, if anything."""

    path: Path
    sha256: str
    metadata: dict[str, Any] = field(repr=False)
    types: dict[str, str] = field(repr=False)
    shapes: dict[str, list[int]] = field(repr=False)
    rope_factors: np.ndarray | None = field(repr=False)

    @property
    def architecture(self) -> str:
        return self.metadata["general.architecture"]

    def of_model(self, key: str, default: Any = None) -> Any:
        """The value of a key that is named after the architecture, such as "llama.block_count"."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def name(self) -> str:
        """The model's name as the file has it, else the file's."""
        return self.metadata.get("general.name") or self.path.stem

    @property
    def quantisation(self) -> str:
        """How the weights are stored, such as "Q4_K_M": the file's type, else the commonest storage of a tensor."""
        known = {kind.value: kind.name for kind in library().LlamaFileType}
        if name := known.get(self.metadata.get("general.file_type")):
            return name.removeprefix("MOSTLY_").removeprefix("ALL_")
        stored = Counter(kind for kind in self.types.values() if kind not in PLAIN) or Counter(self.types.values())
        return stored.most_common(1)[0][0]

    @property
    def is_quantised(self) -> bool:
        return not set(self.types.values()) <= PLAIN

    def record(self) -> dict:
        """What provenance keeps of the file."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "gguf_version": self.metadata["GGUF.version"],
            "library": f"gguf {importlib.metadata.version('gguf')}",
            "architecture": self.architecture,
            "name": self.name,
            "quantisation": self.quantisation,
            "tensors": dict(Counter(self.types.values()).most_common()),
        }


def open_gguf(path: Path, architectures: tuple[str, ...]) -> GgufFile:
    """The file at `path`. Raises UserError if it is no GGUF file, truncated, one of several parts, or of an
    architecture that is not in `architectures`."""
    reader_of = library().GGUFReader
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path}: not a GGUF file (it does not begin with {MAGIC.decode()!r})")
    try:
        reader = reader_of(path)
        metadata = {name: entry.contents() for name, entry in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:
        # Whatever a reader stumbles over where bytes are missing: the library has no error of its own for it.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}: a truncated or damaged GGUF file ({reason}); bring it anew") from None
    if metadata.get("split.count", 1) > 1:
        raise UserError(
            f"{path}: one of {metadata['split.count']} parts of a GGUF file; merge them with `llama-gguf-split --merge`"
        )
    if (found := metadata.get("general.architecture")) not in architectures:
        raise UserError(
            f"{path}: a GGUF file of architecture {found!r}, which is not supported; allowed is "
            f"{' or '.join(architectures)}"
        )
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    shapes = {name: tensor.shape.tolist()[::-1] for name, tensor in tensors.items()}
    factors = tensors[ROPE_FACTORS].data.copy() if ROPE_FACTORS in tensors else None
    return GgufFile(path, files.sha256(path), metadata, types, shapes, factors)
