"""The line of an error stays one, whatever it quotes."""

from hypothesis import given
from hypothesis import strategies as st

from swiftkv.errors import UserError


@given(st.text())
def test_no_line_break_and_no_control_character_gets_out(text):
    said = str(UserError(f"x: {text} is wrong"))
    assert said.startswith("x: ") and said.isprintable()


def test_what_is_readable_stays():
    assert str(UserError("Größe 漢字 🙂:\n  'a\x1b[31m' \udcff")) == "Größe 漢字 🙂: 'a\\x1b[31m' \\udcff"
