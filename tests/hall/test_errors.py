"""The line of an error stays one, whatever it quotes, and Ctrl-C has one, whatever becomes of it."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv import cli
from swiftkv.errors import UserError


@given(st.text())
def test_no_line_break_and_no_control_character_gets_out(text):
    said = str(UserError(f"x: {text} is wrong"))
    assert said.startswith("x: ") and said.isprintable()


def test_what_is_readable_stays():
    assert str(UserError("Größe 漢字 🙂:\n  'a\x1b[31m' \udcff")) == "Größe 漢字 🙂: 'a\\x1b[31m' \\udcff"


def swallow_an_interrupt() -> None:
    """As compiled code does in which Ctrl-C falls: safetensors while it makes a tensor, for one."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'") from None


@pytest.fixture
def interruptible():
    """A process that runs in the background may have been started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_made_another_error_of_is_one(interruptible, capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        cli.end_in_one_line(swallow_an_interrupt)
    assert end.value.code == 130 and capsys.readouterr().err.startswith("swiftkv: error: interrupted;")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_without_an_interrupt_stays_a_fault_of_the_project():
    with pytest.raises(ZeroDivisionError):
        cli.end_in_one_line(lambda: 1 / 0)
