"""Text for readers: the same forms everywhere."""

import math

import pytest

from swiftkv.markup import pipe_table, with_interval


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1.594, 1.546, 1.62), "1.59 [1.55, 1.62]"),
        ((1.594, 1.546, 1.62, ".3f"), "1.594 [1.546, 1.620]"),
        ((-0.51, -1.2, 0.3, "+.1f"), "-0.5 [-1.2, +0.3]"),
        ((2, None, None), "2.00"),
        ((2, math.nan, math.nan), "2.00"),
    ],
)
def test_a_value_with_its_interval(arguments, text):
    assert with_interval(*arguments) == text


def test_a_table():
    rows = [["a|b", "1"], ["c", "2"]]
    assert pipe_table(["x", "y"], rows).splitlines() == ["| x | y |", "| --- | ---: |", "| a\\|b | 1 |", "| c | 2 |"]
    assert pipe_table(["x", "y"], rows, ["---"] * 2, tight=True).splitlines()[1] == "|---|---|"
