"""Stages in processes of their own to which something happens, and what is left of their results."""

import csv
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from swiftkv import cli, files
from tests.helpers.stages import ENGINES, STAGES, config_of
from tests.helpers.synthetic_results import build

BROKEN = 99  # exit code of a process that ended in a traceback
FULL = ("No space left on device", "File too large")
VOLATILE = {"seconds"}  # of a step
# Columns of what is timed that hold times, or follow from them, or tell what the machine was doing.
TIMED = re.compile(r"_s$|_s_|per_s|speedup|ratio|ci_|share|load|stolen|mhz|drift")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MARK = "SWIFTKV_TEST_PLACE"  # in the environment of a stage and of all that it starts
REPLACING_FOLDERS = ("convert", "fetch-base", "distill", "distill-checkpoints")


@dataclass
class Ended:
    """How a process ended: its exit code, negative for a signal, and what it said."""

    code: int
    said: str


def start(stage: str, place: Path, largest: int | None = None) -> int:
    """Run a stage in a child process, where no file may grow beyond `largest` bytes; its process id."""
    log = os.open(log_of(place), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if pid := os.fork():
        os.close(log)
        return pid
    code = BROKEN
    os.environ[MARK] = str(place)
    try:
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        cli.end_in_one_line(lambda: STAGES[stage](place))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def log_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.log")


def end(pid: int, place: Path) -> Ended:
    """Wait for a child."""
    return Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), log_of(place).read_text(errors="replace"))


def run(stage: str, place: Path, **limits) -> Ended:
    return end(start(stage, place, **limits), place)


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    return files.read_jsonl(path)


def content(path: Path) -> object:
    """What a file holds, without what differs between two equal runs."""
    if path.parent.name == "throughput":
        return [{key: value for key, value in row.items() if not TIMED.search(key)} for row in rows_of(path)]
    if path.suffix != ".jsonl":
        return files.sha256(path)
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in rows_of(path)]


def started_by(place: Path) -> list[psutil.Process]:
    """Processes of a command that was started for `place`, its own and those that it started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def all_ended(place: Path, seconds: float = 10) -> bool:
    """Whether every process of a command ends within `seconds`."""
    until = time.monotonic() + seconds
    while left := started_by(place):
        if time.monotonic() > until:
            print(f"still there: {left}")
            return False
        time.sleep(0.1)
    return True


def results(place: Path) -> dict[str, object]:
    """Finished files of a stage by name; records of provenance, which hold times, by name alone."""
    found = files.finished(place / "out", "**/*")
    return {
        str(path.relative_to(place)): None if path.name.endswith(".provenance.json") else content(path)
        for path in found
    }


def unfinished(place: Path) -> list[Path]:
    return [path for path in (place / "out").rglob(".*") if path.name.startswith(".swiftkv-unfinished")]


class Trial:
    """A stage whose undisturbed results, and how long they take, are known."""

    def __init__(self, stage: str, folder: Path):
        self.stage, self.folder, self.number = stage, folder, 0
        undisturbed = self.place()
        begin = time.monotonic()
        ended = run(stage, undisturbed)
        assert ended.code == 0, ended.said
        self.seconds, self.wanted = time.monotonic() - begin, results(undisturbed)
        assert self.wanted

    def place(self, *, again: bool = False) -> Path:
        """A directory for a run; `again`: with the results of an earlier one in it."""
        self.number += 1
        place = self.folder / f"{self.stage}-{self.number}"
        (place / "out").mkdir(parents=True)
        (place / "thesis.tex").write_text("years of work")
        build(place / "results", config_of())
        if again:
            shutil.copytree(self.folder / f"{self.stage}-1" / "out", place / "out", dirs_exist_ok=True)
        return place

    def check_kept(self, place: Path, *, again: bool) -> None:
        """What is there is whole: each file is as a whole run writes it, and nothing of an earlier run is gone but
        what the new one was just replacing."""
        found = results(place)
        assert found.items() <= self.wanted.items(), (self.stage, found.keys() ^ self.wanted.keys())
        if again and self.stage not in REPLACING_FOLDERS:  # these replace whole folders
            assert found.keys() == self.wanted.keys()
        assert (place / "thesis.tex").read_text() == "years of work"

    def check_rerun(self, place: Path) -> None:
        """The same command again ends with the same results and leaves nothing half-written."""
        ended = run(self.stage, place)
        assert ended.code == 0, ended.said
        assert results(place) == self.wanted and not unfinished(place)
        assert (place / "thesis.tex").read_text() == "years of work"

    def killed(self, number: signal.Signals, seed: int) -> None:
        """Send a signal at a random moment, to a first run or to one that replaces an earlier one's results."""
        generator = random.Random(f"{self.stage} {number} {seed}")
        again = generator.random() < 0.5
        place = self.place(again=again)
        pid = start(self.stage, place)
        time.sleep(generator.uniform(0, self.seconds))
        os.kill(pid, number)
        ended = end(pid, place)
        assert self.stage not in ENGINES or all_ended(place), "a process outlives the command that started it"
        assert ended.code in (0, -number, 130), ended.said
        self.check_kept(place, again=again)
        self.check_rerun(place)

    def full(self, share: float, mounted: bool) -> None:
        """A disk that holds `share` of what the stage writes; if it cannot be mounted here, a limit of each file."""
        place = self.place()
        sizes = [path.stat().st_size for path in (self.folder / f"{self.stage}-1" / "out").rglob("*") if path.is_file()]
        if not mounted:
            ended = run(self.stage, place, largest=int(share * max(sizes)))
        else:
            with Disk(place / "out", int(share * sum(sizes))) as grow:
                ended = run(self.stage, place)
                self.check_kept(place, again=False)
                assert ended.code in (0, 2), ended.said
                assert ended.code == 0 or any(reason in ended.said.splitlines()[-1] for reason in FULL), ended.said
                grow()
                self.check_rerun(place)
            return
        assert ended.code == 2 and any(reason in ended.said.splitlines()[-1] for reason in FULL), ended.said
        self.check_kept(place, again=False)
        self.check_rerun(place)

    def two_at_once(self) -> None:
        place = self.place()
        both = [start(self.stage, place), start(self.stage, place)]
        ended = [end(pid, place) for pid in both]
        assert {one.code for one in ended} <= {0, 2} and any(one.code == 0 for one in ended), ended
        self.check_kept(place, again=False)
        self.check_rerun(place)

    def clock_set_back(self) -> None:
        """Everything that is there seems to be of tomorrow."""
        place = self.place(again=True)
        for path in place.rglob("*"):
            os.utime(path, (time.time() + 86400,) * 2)
        self.check_rerun(place)


class Disk:
    """A small tmpfs at a directory; entered, it gives a function that makes it large."""

    def __init__(self, place: Path, size: int):
        self.place, self.size = place, size

    def __enter__(self) -> Callable[[], None]:
        mount(self.place, f"size={max(4096, self.size)}")
        return lambda: mount(self.place, "remount,size=1g")

    def __exit__(self, *error) -> None:
        subprocess.run(["umount", "--lazy", self.place], check=True)


def mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether file systems can be mounted here."""
    place = folder / "mounted"
    place.mkdir()
    try:
        mount(place, "size=1m")
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", place], check=True)
    return True
