"""The order of the arms within a round: each arm takes each position equally often, and follows each other arm.

A Williams design (Williams 1949): Latin squares in which every arm follows every other equally often, so that neither
a position nor a predecessor (a warm cache, a hot chip) is one arm's alone. One square does for an even number of arms,
two for an odd one. Rows are drawn in a seeded order, square after square, so that a number of rounds which is a
multiple of the arms is exactly balanced, and any other as nearly as can be.
"""

from collections.abc import Sequence
from random import Random


def squares(size: int) -> list[list[list[int]]]:
    """The Latin squares of a design for `size` arms, rows of places in range(size): one for an even size, else two."""
    zigzag = [(place + 1) // 2 if place % 2 else size - place // 2 for place in range(size)]  # 0, 1, -1, 2, -2, ...
    square = [[(start + step) % size for step in zigzag] for start in range(size)]
    return [square] if size % 2 == 0 else [square, [row[::-1] for row in square]]


def order(arms: Sequence[str], number: int, seed: int) -> list[str]:
    """`arms` in the order of round `number`, counted from 0; the same for the same arms and seed."""
    names = Random(f"{seed}/arms").sample(arms, len(arms))
    design, block = squares(len(arms)), number // len(arms)
    rows = list(design[block % len(design)])
    Random(f"{seed}/{block}").shuffle(rows)
    return [names[place] for place in rows[number % len(arms)]]
