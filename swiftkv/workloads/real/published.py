"""The published files of the real tasks: from a mirror if one is named, else from GitHub at a pinned commit."""

import gzip
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from swiftkv.workloads import downloads
from swiftkv.workloads.downloads import Pinned

USER = "accuracy.real"


def sources() -> dict[str, dict[str, str]]:
    """Rows of workflow/resources/evals/sources.csv by file; `archive` is what holds the file in a mirror."""
    return downloads.sources("evals", "file")


def read(name: str, mirror: str | Path | None = None, user: str = USER) -> bytes:
    """The bytes of a published file. Raises UserError, which names the `user`, if it cannot be had or is not the pinned
    version."""
    return pinned(name, user).read(downloads.mirror_of(mirror))


def all_pinned(names: Iterable[str], user: str = USER) -> list[Pinned]:
    """Published files; a name that ends in a slash stands for all files of that folder."""
    known = sources()
    found = [[name] if not name.endswith("/") else [file for file in known if file.startswith(name)] for name in names]
    return [pinned(name, user) for name in chain.from_iterable(found)]


def pinned(name: str, user: str = USER) -> Pinned:
    """A published file, which a mirror may hold in an archive."""
    row = sources()[name]
    place, member = (row["archive"], name) if row["archive"] else (name, "")
    return Pinned(f"evals/{place}", user, row["sha256"], row["url"], member)


def rows(name: str, user: str = USER) -> list[dict]:
    """The rows of a published JSON Lines file (gzip if its name ends in .gz)."""
    data = read(name, user=user)
    lines = (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()
    return [json.loads(line) for line in lines]
