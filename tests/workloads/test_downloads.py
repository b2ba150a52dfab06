"""Pinned files: a mirror before the URL, held to their sha256 anywhere, one wording for what is absent."""

import hashlib
import io
import tarfile

import pytest

from swiftkv.errors import UserError
from swiftkv.workloads import downloads
from swiftkv.workloads.downloads import Pinned

DATA = b"as published"
NEEDED = r"task 'x' needs a\.tar in evals/ of a mirror \(SWIFTKV_MIRROR\)"


def pinned(url: str = "https://x/a", member: str = "", data: bytes = DATA) -> Pinned:
    return Pinned("evals/a.tar", "task 'x'", hashlib.sha256(data).hexdigest(), url, member)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror without files, and a network that has the file."""
    monkeypatch.setattr(downloads, "download", lambda url: DATA)
    (tmp_path / "evals").mkdir()
    return tmp_path


def test_the_mirror_comes_first_and_the_url_without_one(mirror):
    (mirror / "evals" / "a.tar").write_bytes(b"of the mirror")
    assert pinned(data=b"of the mirror").read(mirror) == b"of the mirror"
    assert pinned().read(None) == DATA


def test_a_member_of_an_archive(mirror):
    with tarfile.open(mirror / "evals" / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("b")
        entry.size = len(DATA)
        archive.addfile(entry, io.BytesIO(DATA))
    assert pinned(member="b").read(mirror) == DATA
    with pytest.raises(UserError, match=rf"evals/a\.tar: cannot be read \(.*'c'.*\); {NEEDED}"):
        pinned(member="c").read(mirror)


@pytest.mark.parametrize("data", [DATA + b"\0", b""])
def test_other_bytes_are_refused_wherever_they_are_from(mirror, monkeypatch, data):
    (mirror / "evals" / "a.tar").write_bytes(data)
    monkeypatch.setattr(downloads, "download", lambda url: data)
    for where in (mirror, None):
        with pytest.raises(
            UserError, match=r": not the published file; its sha256 is \w{64}, the pinned .* has \w{64}$"
        ):
            pinned().read(where)


def test_what_cannot_be_had_is_told_in_one_wording(mirror, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    for file, where, told in (
        (pinned(), mirror, r"evals/a\.tar: cannot be read \(.*No such file.*\)"),
        (pinned(), None, r"https://x/a: cannot be read \(offline\)"),
        (pinned(url=""), None, r"no mirror: cannot be read \(no URL\)"),
    ):
        with pytest.raises(UserError, match=rf"{told}; {NEEDED}$"):
            file.read(where)
