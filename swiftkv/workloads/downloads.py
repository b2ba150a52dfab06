"""Published files that are pinned by their sha256: from a mirror of the public data if there is one, else from a URL.

A mirror is a directory with a folder for each kind of data: traces/, evals/ and corpora/, whose files and hashes are in
workflow/resources/<folder>/sources.csv.
"""

import csv
import hashlib
import http.client
import os
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from swiftkv.errors import UserError
from swiftkv.files import ROOT

RESOURCES = ROOT / "workflow" / "resources"
MIRROR_VARIABLE = "SWIFTKV_MIRROR"
TIMEOUT_S = 10


@dataclass(frozen=True)
class Pinned:
    """A published file. `place` is where a mirror holds it, FOLDER/NAME; `user`, in words, what needs it.

    If `member` is given, the mirror's file is a tar archive with this member, and the URL leads to the member itself.
    """

    place: str
    user: str
    sha256: str
    url: str = ""
    member: str = ""

    def read(self, mirror: Path | None) -> bytes:
        """The bytes. Raises UserError if they cannot be had or are not the published ones."""
        data, where = self.fetch(mirror)
        self.verify(data, where)
        return data

    def fetch(self, mirror: Path | None) -> tuple[bytes, str]:
        """The bytes, not verified yet, and where they are from. Raises UserError if they cannot be had."""
        where = str(mirror / self.place) if mirror else self.url or "no mirror"
        try:
            if mirror is None:
                return download(self.url), where
            if not self.member:
                return Path(where).read_bytes(), where
            with tarfile.open(where) as archive:
                return archive.extractfile(self.member).read(), where
        except (OSError, EOFError, KeyError, tarfile.TarError) as error:
            raise unreadable(where, self.place, self.user, error) from None

    def verify(self, data: bytes, where: str) -> None:
        """Raise UserError unless `data` are the published bytes."""
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.sha256:
            raise UserError(
                f"{where}: not the published file; its sha256 is {digest}, the pinned version has {self.sha256}"
            )


def unreadable(where: str | Path, place: str, user: str, reason: object) -> UserError:
    """The error of data that a mirror should hold."""
    folder, _, name = place.partition("/")
    return UserError(
        f"{where}: cannot be read ({reason}); {user} needs {name} in {folder}/ of a mirror ({MIRROR_VARIABLE})"
    )


def sources(folder: str, key: str) -> dict[str, dict[str, str]]:
    """What is published of one kind of data: the rows of its sources.csv by the column `key`."""
    with open(RESOURCES / folder / "sources.csv", encoding="utf-8", newline="") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def download(url: str) -> bytes:
    """The bytes behind `url`. Raises OSError if they cannot be had."""
    if not url:
        raise FileNotFoundError("no URL")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from None


def mirror_of(mirror: str | Path | None) -> Path | None:
    """The mirror that was asked for, by argument or SWIFTKV_MIRROR. Raises UserError if it is not there."""
    chosen = mirror or os.environ.get(MIRROR_VARIABLE)
    if chosen and not Path(chosen).is_dir():
        raise UserError(f"{chosen}: no such mirror directory (--mirror or {MIRROR_VARIABLE})")
    return Path(chosen) if chosen else None
