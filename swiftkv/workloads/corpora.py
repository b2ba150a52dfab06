"""Corpora of plain text in the mirror: Python Enhancement Proposals, Rust RFCs, GSM8K's training set."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from swiftkv.workloads import downloads

TEXT_SUFFIXES = (".rst", ".md", ".txt")


def known() -> dict[str, dict]:
    """The corpora by name: file below the mirror's corpora/, sha256, origin and licence."""
    return downloads.sources("corpora", "name")


def corpus(name: str, mirror: Path | None, user: str) -> Iterator[str]:
    """The texts of a corpus. Raises UserError, which names the `user`, if the mirror does not hold it as published."""
    row = known()[name]
    data = downloads.Pinned(f"corpora/{row['file']}", f"{user}: {name}", row["sha256"]).read(mirror)
    if row["file"].endswith(".jsonl"):
        for item in map(json.loads, data.splitlines()):
            yield f"{item['question']}\n{item['answer']}\n"
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(TEXT_SUFFIXES):
                yield archive.extractfile(member).read().decode("utf-8", errors="replace")
