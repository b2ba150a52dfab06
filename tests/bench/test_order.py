"""Laws of the order of arms within rounds."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swiftkv.bench.order import order

SIZES, SEEDS = st.integers(1, 9), st.integers(0, 2**32)


def orders(size: int, rounds: int, seed: int) -> list[list[str]]:
    return [order([f"arm{n}" for n in range(size)], number, seed) for number in range(rounds)]


@given(SIZES, st.integers(1, 3), SEEDS)
def test_each_arm_takes_each_position_equally_often(size, blocks, seed):
    """In rounds that are a multiple of the arms."""
    made = orders(size, size * blocks, seed)
    assert all(sorted(row) == sorted(made[0]) for row in made)
    assert set(Counter((arm, place) for row in made for place, arm in enumerate(row)).values()) == {blocks}


@given(SIZES, st.integers(1, 30), SEEDS)
def test_any_number_of_rounds_is_balanced_but_for_one(size, rounds, seed):
    counts = Counter((arm, place) for row in orders(size, rounds, seed) for place, arm in enumerate(row))
    every = [counts[f"arm{n}", place] for n in range(size) for place in range(size)]
    assert max(every) - min(every) <= 1


@given(st.integers(2, 9), SEEDS)
def test_each_arm_follows_each_other_equally_often(size, seed):
    """In one square of an even number of arms, in two of an odd one."""
    made = orders(size, size * (1 + size % 2), seed)
    assert set(Counter(pair for row in made for pair in pairwise(row)).values()) == {1 + size % 2}
    assert len({pair for row in made for pair in pairwise(row)}) == size * (size - 1)


@given(SIZES, st.integers(0, 30), SEEDS)
def test_a_round_keeps_its_order(size, number, seed):
    """Whatever else is measured: a run that goes on after a kill has the order that it would have had."""
    assert orders(size, number + 1, seed)[number] == orders(size, number + 5, seed)[number]


def test_seeds_differ():
    assert len({tuple(map(tuple, orders(6, 6, seed))) for seed in range(20)}) == 20
