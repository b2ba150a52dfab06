"""Every command with one argument that is wrong: a line and a code, before anything is computed or replaced."""

import contextlib
import io
import sys

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import swiftkv.config
from swiftkv import cli as program
from swiftkv import commands
from swiftkv.config import ROOT

COMMANDS = typer.main.get_command(commands.cli).commands
HUGE, LONG = str(10**30), "x" * 5000
NUMBERS = ["nan", "inf", "-inf", "-1", "1e309", "abc", "", "0x1", "9" * 5000, HUGE]
THERE, BELOW, FOLDER, GONE = "there.bin", "there.bin/below", "folder", "gone/at/all"
INPUTS, OUTPUTS = [GONE, THERE, FOLDER, BELOW, LONG, "\udcff", "", "."], [BELOW, THERE, LONG, "folder/there.bin"]
WORDS = ["", "no such", "../x", "\udcff", "ü", "a\nb", LONG]
GOES_TO = {"out", "work", "schema"}  # arguments that name what is written
# Of the arguments that hold a path, those that need not be there: what is named, or asked for, is something else.
NAMES = {"trace", "gpu", "model", "arm", "variant", "dtype", "tasks", "name", "machine", "push"}


class Computes(Exception):
    """A command got as far as its GPU: whatever is wrong is said after that."""


def pool(option) -> list[str]:
    """Wrong values of an option."""
    kind = option.type_descriptor.annotation
    if kind is int:
        return [*NUMBERS, "1.5"]
    if kind is float:
        return NUMBERS
    if option.name in GOES_TO:
        return OUTPUTS
    if option.name == "mirror":
        return [GONE, THERE, BELOW, LONG]
    return WORDS if option.name in NAMES else INPUTS


CASES = [
    (name, option.name, value)
    for name, command in sorted(COMMANDS.items())
    for option in command.params
    if not getattr(option, "is_flag", False) and (name, option.name) != ("fetch-base", "work")  # only for source train
    for value in pool(option)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with a configuration, a file and a folder of somebody else's."""
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "folder").mkdir()
    for name in (THERE, "folder/there.bin"):
        (directory / name).write_bytes(b"\xff\x00 years of work")
    text = yaml.safe_dump({"extends": str(ROOT / "config" / "smoke.yaml"), "scale": "fuzz"})
    (directory / "mine.yaml").write_text(text)
    return directory


@pytest.fixture
def run(place, monkeypatch):
    """Run a command in `place`; its exit code, and what it says on both streams."""
    read = swiftkv.config.load_config
    good = read(place / "mine.yaml")

    def begin(*_):
        raise Computes

    monkeypatch.chdir(place)
    monkeypatch.delenv(program.DEBUG, raising=False)
    monkeypatch.delenv("SWIFTKV_MIRROR", raising=False)
    monkeypatch.setattr(swiftkv.config, "load_config", lambda path: good if str(path) == "mine.yaml" else read(path))
    for module in (commands, commands.models):
        monkeypatch.setattr(module, "take_gpu", begin)

    def go(arguments: list[str]) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["swiftkv", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                program.app()
            except SystemExit as end:
                return end.code, out.getvalue(), err.getvalue()
            except Computes:
                return -1, out.getvalue(), err.getvalue()

    return go


def given_as(option, value: str) -> list[str]:
    return [value] if option.param_type_name == "argument" else [option.opts[0], value]


def arguments(name: str, wrong: str, value: str) -> list[str]:
    """Those that the command needs, and its configuration, with `value` for the one that is wrong."""
    found = [name]
    for option in COMMANDS[name].params:
        if option.name == wrong:
            found += given_as(option, value)
        elif option.name == "config":
            found += given_as(option, "mine.yaml")
        elif option.required:
            right = {"variant": "skip50", "arm": "base", "name": "throughput", "machine": "mine"}
            found += given_as(option, right.get(option.name, f"new-{option.name}"))
    return found + (["--plan"] if name == "distill" and is_number(wrong, name) else [])


def is_number(wrong: str, name: str) -> bool:
    option = next(option for option in COMMANDS[name].params if option.name == wrong)
    return option.type_descriptor.annotation in (int, float)


def state(place) -> dict:
    """Everything in `place` that was there before any command."""
    return {path: path.read_bytes() for path in (place / THERE, place / "folder" / THERE, place / "mine.yaml")}


def check(run, place, name: str, wrong: str, value: str) -> None:
    before = state(place)
    code, out, err = run(arguments(name, wrong, value))
    said = f"swiftkv {name}, {wrong}={value[:40]!r}: {code} {out[-300:]} {err[-900:]}"
    assert state(place) == before, said
    assert "Traceback" not in err, said
    if code == -1 and not (is_number(wrong, name) or wrong == "config"):
        return
    assert code in (1, 2), said
    lines = [line for line in err.splitlines() if line.startswith(("swiftkv: error: ", "Error: "))]
    assert len(lines) == 1 and len(lines[0]) < 12000, said
    assert err.rstrip().splitlines()[-1].isprintable() or "\\udcff" in ascii(err), said


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CASES))
def test_one_wrong_argument_is_one_line(run, place, case):
    check(run, place, *case)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(sorted(COMMANDS)) | st.text(max_size=6) | st.sampled_from(["--", "-c", "--x"])))
def test_any_words_are_one_line(run, place, words):
    code, out, err = run(words)
    assert code in (0, 1, 2, -1) and "Traceback" not in err
    assert code or not words or "--help" in words or "Usage" in out + err or out
