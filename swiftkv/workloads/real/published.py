"""The published files of the real tasks: from a mirror if one is named, else from GitHub at a pinned commit."""

import csv
import gzip
import hashlib
import http.client
import json
import tarfile
from pathlib import Path

from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.workloads import traces

SOURCES = ROOT / "workflow" / "resources" / "evals" / "sources.csv"


def sources() -> dict[str, dict[str, str]]:
    """Rows of workflow/resources/evals/sources.csv by file; `archive` is what holds the file in a mirror."""
    with open(SOURCES, encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def from_mirror(source: dict[str, str], mirror: Path) -> bytes:
    """The bytes of a file of the mirror. Raises UserError if they are not there."""
    path = mirror / "evals" / (source["archive"] or source["file"])
    try:
        if not source["archive"]:
            return path.read_bytes()
        with tarfile.open(path) as archive:
            return archive.extractfile(source["file"]).read()
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {traces.MIRROR_VARIABLE} must hold it") from None


def from_network(source: dict[str, str]) -> bytes:
    """The bytes behind the pinned URL. Raises UserError that says what to do without a network."""
    try:
        return traces.download(source["url"])
    except (OSError, http.client.HTTPException) as error:
        held = f"evals/{source['archive'] or source['file']}"
        raise UserError(
            f"accuracy.real: {source['url']} cannot be downloaded ({error}); without a network set "
            f"{traces.MIRROR_VARIABLE} to a directory that holds {held}"
        ) from None


def read(name: str) -> bytes:
    """The bytes of a published file. Raises UserError if it cannot be had or is not the pinned version."""
    source, mirror = sources()[name], traces.mirror_of(None)
    data = from_mirror(source, mirror) if mirror else from_network(source)
    found = hashlib.sha256(data).hexdigest()
    if found != source["sha256"]:
        raise UserError(f"accuracy.real: {name} has the sha256 {found}; the pinned version has {source['sha256']}")
    return data


def rows(name: str) -> list[dict]:
    """The rows of a published JSON Lines file (gzip if its name ends in .gz)."""
    data = read(name)
    lines = (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()
    return [json.loads(line) for line in lines]
