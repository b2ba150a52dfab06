"""Overlap of training data with evaluation sets, by runs of words in common.

As for GPT-3 (https://arxiv.org/abs/2005.14165, appendix C): words in lower case without punctuation; a training text
overlaps if it shares 13 words in a row with a text of an evaluation set, or, where that text has fewer, all of its
words, 8 at least. There, what lies round the common words was cut out, and runs that occur in more than ten training
texts were let pass; here the whole row goes, however common the words.
"""

import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from swiftkv.errors import UserError
from swiftkv.workloads import downloads
from swiftkv.workloads.real import published

LONGEST, SHORTEST = 13, 8  # words
WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
USER = "decontamination of training data"


def strings(value) -> Iterator[str]:
    """Every text in a JSON value, keys included: some sets have their answers there."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for child in value.values():
            yield from strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from strings(child)


def members(data: bytes) -> Iterator[str]:
    """The texts of all files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile():
                yield from texts_of(member.name, archive.extractfile(member).read())


def arrow(data: bytes) -> Iterator[str]:
    """The texts of an Arrow stream, as the datasets library keeps its sets."""
    import pyarrow

    with pyarrow.ipc.open_stream(data) as stream:
        yield from strings(stream.read_all().to_pylist())


def texts_of(name: str, data: bytes) -> Iterator[str]:
    """The texts of a file of an evaluation set, by what its name ends in; nothing of a kind that holds none."""
    path = PurePosixPath(name)
    match path.suffixes[-2:]:
        case [*_, ".tar", ".xz" | ".gz"]:
            yield from members(data)
        case [*_, ".gz"]:
            yield from texts_of(path.stem, gzip.decompress(data))
        case [*_, ".xz"]:
            yield from texts_of(path.stem, lzma.decompress(data))
        case [*_, ".jsonl"]:
            for line in data.splitlines():
                yield from strings(json.loads(line))
        case [*_, ".json"]:
            yield from strings(json.loads(data))
        case [*_, ".csv"]:
            yield from strings(list(csv.reader(io.StringIO(data.decode(), newline=""))))
        case [*_, ".sql"]:
            yield data.decode()
        case [*_, ".arrow"]:
            yield from arrow(data)


def evaluation_sets(mirror: Path | None) -> Iterator[tuple[str, Iterable[str]]]:
    """Name and texts of every evaluation set: the published files of the real tasks, and whatever else lies in the
    mirror's evals/, which are those of the paper's protocol. Raises UserError if a file cannot be had or read."""
    held = set()
    for name, row in published.sources().items():
        held |= {name, row["archive"]}
        yield PurePosixPath(name).name, texts_of(name, published.read(name, mirror, USER))
    for path in sorted((mirror / "evals").iterdir()) if mirror else ():
        if path.name not in held and path.is_file():
            yield path.name, texts_of(path.name, path.read_bytes())


class Overlap:
    """The runs of words of some evaluation sets, to be looked for in training texts."""

    def __init__(self, sets: Iterable[tuple[str, Iterable[str]]]):
        self.known: dict[str, int] = {}  # a number for every word
        self.names: list[str] = []
        found: dict[int, list[tuple[np.ndarray, int]]] = {}  # by length: hashes, and the set that they are of
        for name, texts in sets:
            self.names.append(name)
            for size, hashes in self.runs_of(name, texts).items():
                found.setdefault(size, []).append((hashes, len(self.names) - 1))
        self.runs = {size: self.sorted(parts) for size, parts in sorted(found.items())}

    def runs_of(self, name: str, texts: Iterable[str]) -> dict[int, np.ndarray]:
        """Hashes of the runs of a set by their length in words. Raises UserError for a file that cannot be read."""
        found: dict[int, list[np.ndarray]] = {}
        try:
            for words in map(self.words, texts):
                if (size := min(len(words), LONGEST)) >= SHORTEST:
                    found.setdefault(size, []).append(hashes(words, size))
        except (OSError, ValueError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
            raise UserError(f"{name}: cannot be read as an evaluation set ({error}); {USER} needs it") from None
        return {size: np.unique(np.concatenate(parts)) for size, parts in found.items()}

    @staticmethod
    def sorted(parts: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes in order, and the set that each is of."""
        every = np.concatenate([part for part, _ in parts])
        owners = np.concatenate([np.full(len(part), owner) for part, owner in parts])
        order = np.argsort(every, kind="stable")
        return every[order], owners[order]

    def words(self, text: str) -> np.ndarray:
        """A number per word of a text [W] uint64."""
        found = WORD.findall(text.lower())
        for word in found:
            if word not in self.known:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                self.known[word] = int.from_bytes(digest, "little")
        return np.array([self.known[word] for word in found], dtype=np.uint64)

    def of(self, text: str) -> str | None:
        """The name of a set that a text overlaps, if it does."""
        words = self.words(text)
        for size, (every, owners) in self.runs.items():
            if len(words) >= size:
                mine = hashes(words, size)
                places = np.minimum(np.searchsorted(every, mine), len(every) - 1)
                if (hits := every[places] == mine).any():
                    return self.names[owners[places[hits][0]]]
        return None


def hashes(words: np.ndarray, size: int) -> np.ndarray:
    """A hash [W - size + 1] uint64 of every run of `size` words."""
    total = np.zeros(len(words) - size + 1, dtype=np.uint64)
    for place in range(size):
        total = total * FACTOR + words[place : place + len(total)]
    return total


def checked(mirror: Path | None) -> Overlap:
    """The Overlap with every evaluation set that can be had. Raises UserError as `evaluation_sets` does."""
    return Overlap(evaluation_sets(downloads.mirror_of(mirror)))
