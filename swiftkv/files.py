"""Reading and writing result files so that an interrupted run never leaves half of one."""

import fcntl
import glob
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swiftkv.errors import UserError

ROOT = Path(__file__).resolve().parents[1]  # the project
REFERENCE = ROOT / "results" / "reference"  # published runs, MACHINE/SCALE


def in_project(path: str | Path, fits: Callable[[Path], bool]) -> Path | None:
    """A path named in a configuration: as given, else relative to the project, where it `fits`; else None."""
    return next((place for place in (Path(path), ROOT / path) if fits(place)), None)


@contextmanager
def atomic_path(path: str | Path):
    """Yield a temporary sibling of `path`; it replaces `path` only if the block ends without an error.

    What a killed writer of the same `path` left behind is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=unfinished(path), suffix=path.suffix)
    os.close(handle)
    os.chmod(name, 0o644)
    try:
        with locked(Path(name)):
            yield Path(name)
            os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object per line, atomically (compressed if the name ends in .gz or .xz)."""
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    match Path(path).suffix:
        case ".gz":
            data = gzip.compress(data, mtime=0)
        case ".xz":
            data = lzma.compress(data)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_jsonl(path: str | Path) -> list[dict]:
    """Parse a JSON Lines file (compressed if the name ends in .gz or .xz). Raises UserError naming the file, and the
    bad line."""
    path = Path(path)
    opener: Callable = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    rows = []
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:  # with or without a byte order mark
            for number, line in enumerate(lines, 1):
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError):
                    raise UserError(f"{path}:{number}: not valid JSON") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    return rows


def finished(directory: Path, pattern: str) -> list[Path]:
    """Files below `directory` that match `pattern`, in order, without hidden ones: those are half-written."""
    matches = sorted(path for path in directory.glob(pattern) if path.is_file())
    return [path for path in matches if not any(part.startswith(".") for part in path.relative_to(directory).parts)]


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any, length: int = 16) -> str:
    """The first `length` of 64 hex digits of a hash of anything that JSON can say; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:length]


def unfinished(path: Path) -> str:
    """What the names of half-written and outgoing siblings of `path` begin with."""
    return f".swiftkv-unfinished-{path.name}~"


def sweep(path: Path) -> None:
    """Remove what killed writers of `path` left behind; what a writer that is alive has locked stays."""
    for left_behind in path.parent.glob(f"{glob.escape(unfinished(path))}*"):
        with locked(left_behind) as mine:
            if mine and left_behind.is_dir():
                shutil.rmtree(left_behind, ignore_errors=True)
            elif mine:
                left_behind.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | Path, replace: bool = False):
    """Yield a temporary sibling directory that becomes `path` only if the block ends without an error.

    What a killed writer of the same `path` left behind is removed. Raises UserError if `path` holds anything, unless
    `replace` says that the caller may (see `outputs`).
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=unfinished(path)))
    os.chmod(temporary, 0o755)
    try:
        with locked(temporary):
            yield temporary
            put(temporary, path, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path):
    """Yield whether this process holds the lock of a file or directory, until the block ends; the operating system
    releases that of a process that was killed. None: it cannot be told, since `path` is gone or lies on a network file
    system that locks nothing that is open for reading."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    held: bool | None = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held = False
    except OSError:
        held = None
    try:
        yield held
    finally:
        os.close(handle)


def put(temporary: Path, path: Path, replace: bool) -> None:
    """Rename `temporary` to `path`; what was there is deleted last, and comes back if the renaming fails."""
    if not path.exists():
        os.replace(temporary, path)
        return
    if not replace and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not empty; nothing was replaced")
    outgoing = Path(tempfile.mkdtemp(dir=path.parent, prefix=unfinished(path))) / path.name
    with locked(outgoing.parent):
        os.replace(path, outgoing)
        try:
            os.replace(temporary, path)
        except OSError:
            os.replace(outgoing, path)
            raise
        finally:
            shutil.rmtree(outgoing.parent, ignore_errors=True)
