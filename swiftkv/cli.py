"""The `swiftkv` command: one sub-command per pipeline stage, each of which also runs by hand.

Errors a user can mend are printed as one line on standard error and end with exit code 2; where there is nothing to
check or to judge, it is 1.
"""

import importlib.metadata
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from swiftkv import devices

devices.keep_memory()  # before anything heavy is imported, because the command begins again

from swiftkv.commands import cli, measure, models, planning, results  # noqa: E402, F401 (each registers its commands)
from swiftkv.errors import Interrupted, UserError, of_an_extra  # noqa: E402

FULL = re.compile("No space left on device|Disk quota exceeded|File too large")
DEBUG = "SWIFTKV_DEBUG"  # for the processes that a command starts, too


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"swiftkv {importlib.metadata.version('swiftkv-repro')}")
        raise typer.Exit


@cli.callback(help=__doc__)
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


def said(error: BaseException) -> tuple[str, int] | None:
    """One line for an error that has one, and the exit code; None for a fault of this project."""
    if isinstance(error, UserError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return str(Interrupted()), Interrupted.code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter: torch's
        reason = " ".join(str(error).split()) or "the machine has no more"
        return f"out of memory: {reason}; `swiftkv memory-plan` says what a configuration needs", 2
    if isinstance(error, ModuleNotFoundError) and (line := of_an_extra(error)):
        return line, 2
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", 2
    if full := FULL.search(str(error)):  # libraries that write by themselves have errors of their own
        return f"{full[0]}; nothing was replaced, and the same command goes on once there is room", 2
    return None


@contextmanager
def noting_interrupts() -> Iterator[threading.Event]:
    """What is set once Ctrl-C was pressed. Compiled code can swallow the KeyboardInterrupt and raise another error
    (safetensors: "could not determine the shape of object type ...")."""
    pressed, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def note(number, frame):
        pressed.set()
        before(number, frame)

    ours = callable(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


def end_in_one_line(command: Callable[[], None]) -> None:
    """Run a command; an error that a user can mend becomes one line on standard error and its exit code."""
    pressed = threading.Event()
    try:
        with noting_interrupts() as pressed:
            command()
    except BaseException as error:
        line = said(error)
        if line is None and pressed.is_set() and isinstance(error, Exception):
            line = said(KeyboardInterrupt())
        if line is None or os.environ.get(DEBUG):
            raise
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"swiftkv: error: {line[0]}", file=sys.stderr)
        sys.exit(line[1])


def app() -> None:
    """Entry point."""
    end_in_one_line(cli)


if __name__ == "__main__":
    app()
