"""Plain text to train a base model on: corpora of the mirror, and the Python sources of this machine.

The texts are tokenised once into one stream, each ended by EOS, and cut into rows; every epoch has them in an order of
its own. Row i depends on the stream, the row length, the seed and i alone, so training can be entered anywhere.
"""

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from swiftkv import files
from swiftkv.config.training import PlainText
from swiftkv.errors import UserError
from swiftkv.workloads.corpora import corpus
from swiftkv.workloads.packing import shuffled

PYTHON = "python"  # the interpreter's library and the installed packages
LARGEST = 200_000  # bytes of a file: longer ones are mostly generated tables
TOGETHER = 256  # texts that are tokenised together


def python_sources(limit: int) -> Iterator[str]:
    """Python files of this machine, in an order that depends on their names alone, up to `limit` bytes."""
    names: dict[Path, str] = {}
    for root in map(Path, (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))):
        for path in root.rglob("*.py"):
            names.setdefault(path, path.relative_to(root).as_posix())
    # By hash and not by name: else the limit would leave the first few packages of the alphabet.
    for path in sorted(names, key=lambda path: hashlib.sha256(names[path].encode()).digest()):
        size = path.stat().st_size
        if size <= LARGEST:
            limit -= size
            if limit < 0:
                return
            yield path.read_text(encoding="utf-8", errors="replace")


def texts(settings: PlainText, mirror: Path | None) -> Iterator[str]:
    """Every text of `train_base.text`, source by source."""
    for name in settings.sources:
        yield from python_sources(settings.python_bytes) if name == PYTHON else corpus(name, mirror, "train_base.text")


def write_tokens(made: Iterable[str], tokenizer, path: Path) -> None:
    """Write the texts' tokens as one array (NumPy, uint32). Raises UserError if there are none."""
    chunks, left = [], iter(made)
    while together := list(islice(left, TOGETHER)):
        encoded = tokenizer(together, add_special_tokens=False, verbose=False)["input_ids"]
        chunks += [np.array([*ids, tokenizer.eos_token_id], dtype=np.uint32) for ids in encoded]
    if not chunks:
        raise UserError("train_base.text: the sources hold no text")
    with files.atomic_path(path) as temporary:
        np.save(temporary, np.concatenate(chunks), allow_pickle=False)


order = lru_cache(maxsize=8)(shuffled)  # of an epoch's rows


@dataclass(frozen=True)
class TokenStream:
    """The token stream of a run, mapped from a file."""

    tokens: np.ndarray
    seed: int

    @classmethod
    def open(cls, path: Path, seed: int) -> "TokenStream":
        """The stream that `write_tokens` wrote."""
        return cls(np.load(path, mmap_mode="r", allow_pickle=False), seed)

    def rows(self, length: int, count: int, first: int) -> torch.Tensor:
        """Rows `first` to `first + count` [count, length] int64. Raises UserError if the stream is shorter than one."""
        per_epoch = len(self.tokens) // length
        if not per_epoch:
            raise UserError(f"train_base.text: {len(self.tokens)} tokens are no row of {length}")
        places = (divmod(number, per_epoch) for number in range(first, first + count))
        numbers = [order(per_epoch, self.seed, epoch)[place] for epoch, place in places]
        rows = [self.tokens[number * length : (number + 1) * length].astype(np.int64) for number in numbers]
        return torch.from_numpy(np.stack(rows))
