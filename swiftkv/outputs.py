"""What a command may replace: what it wrote itself before, and nothing else.

A command knows its own work by the provenance record in the same directory, which names the stage. Checks are made at a
stage's door, before anything is computed.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.files import ROOT

STARTED = ".swiftkv-started-"


def written_by(directory: Path) -> set[str]:
    """The stages whose provenance records, or marks (see `mark`), lie in `directory` itself."""
    stages = set()
    for path in [*files.finished(directory, "*.provenance.json"), *directory.glob(f"{STARTED}*.json")]:
        try:
            record = files.read_json(path)
        except UserError:
            continue
        if isinstance(record, dict):
            stages.add(record.get("stage"))
    return stages - {None}


def mark(paths: Iterable[Path], stage: str) -> list[Path]:
    """Say in the directories of `paths` that `stage` has begun to write there: what it leaves if it is killed is its
    own. Returns what `unmark` removes: files, and directories that were made for them."""
    made = []
    for directory in sorted({path.parent for path in paths}):
        missing = [place for place in (directory, *directory.parents) if not place.exists()]
        note = directory / f"{STARTED}{stage}.json"
        files.write_json(note, {"stage": stage})
        made += [note, *missing]
    return made


def unmark(made: Iterable[Path]) -> None:
    """Undo `mark`, but for directories that hold something by now."""
    for place in made:
        if place.is_dir():
            with suppress(OSError):
                place.rmdir()
        else:
            place.unlink(missing_ok=True)


def check_place(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise UserError if `path` is, or holds, an input, the working directory, the project or the home directory."""
    named = {"the working directory": Path.cwd(), "the project": ROOT, "the home directory": Path.home()}
    named |= {f"the input {given}": Path(given) for given in inputs}
    target = path.resolve()
    for name, place in named.items():
        if place.resolve().is_relative_to(target):
            relation = "is" if place.resolve() == target else "holds"
            raise UserError(f"--out {path}: {relation} {name}, which it would replace; name another directory")


def check_writable(path: Path) -> None:
    """Raise UserError if nothing can be made at `path`: something on the way is a file, or read-only."""
    place = next(parent for parent in (path.absolute().parent, *path.absolute().parents) if os.path.lexists(parent))
    if not place.is_dir():
        raise UserError(f"--out {path}: {place} is not a directory")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"--out {path}: nothing can be written into {place} ({error.strerror})") from None


def check_dir(path: str | Path, stages: Iterable[str], inputs: Iterable[str | Path] = ()) -> None:
    """Raise UserError unless `path` may become a directory that one of `stages` writes: it is absent, empty, or such
    work of an earlier run, and neither is nor holds an input or a directory that nobody wants replaced."""
    path, stages = Path(path), set(stages)
    check_place(path, inputs)
    check_writable(path.resolve())
    if path.is_dir():
        if any(path.iterdir()) and not stages & written_by(path):
            raise UserError(
                f"--out {path}: exists, and no provenance record in it names the stage {' or '.join(sorted(stages))}; "
                "name another directory, or remove this one"
            )
    elif path.exists() or path.is_symlink():
        raise UserError(f"--out {path}: exists and is not a directory")


def check_files(paths: Iterable[str | Path], stage: str) -> None:
    """Raise UserError if one of `paths` is a directory, or a file beside which no record of `stage` lies."""
    known: dict[Path, set[str]] = {}
    for path in map(Path, paths):
        if path.parent not in known:
            check_writable(path)
            known[path.parent] = written_by(path.parent)
        if path.is_dir():
            raise UserError(f"--out {path}: is a directory; name a file")
        if path.exists() and stage not in known[path.parent]:
            raise UserError(
                f"--out {path}: exists, and no provenance record beside it names the stage {stage}; name another "
                "place, or remove it"
            )


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keep a directory of unfinished work to this process until the block ends. Raises UserError if another one has
    it: both would write the same checkpoints."""
    work.mkdir(parents=True, exist_ok=True)
    with files.locked(work) as mine:
        if mine is False:
            raise UserError(f"--work {work}: another run is at work there; wait for its end, or name another place")
        yield


@contextmanager
def directory(path: str | Path, stages: Iterable[str], inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """`files.atomic_dir` for the output of one of `stages`, after `check_dir`."""
    check_dir(path, stages, inputs)
    with files.atomic_dir(path, replace=True) as temporary:
        yield temporary
