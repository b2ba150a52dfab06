"""Intervals and tests: laws with hypothesis, and agreement with figures worked out by hand."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import stats
from swiftkv.errors import UserError

RATES = st.floats(1.0, 1e4)
SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40)
RESAMPLES = 400


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RATES, RATES), min_size=2, max_size=7), RATES)
def test_ratio_ci_laws(pairs, speed):
    """The interval holds the estimate, stays inside the ratios, and does not see a speed that both share."""
    top, bottom = np.array(pairs).T
    ratio, low, high = stats.ratio_ci(top, bottom, seed=1, resamples=RESAMPLES)
    least, most = (top / bottom).min() * (1 - 1e-12), (top / bottom).max() * (1 + 1e-12)
    assert least <= low and high <= most
    assert low * (1 - 1e-12) <= ratio <= high * (1 + 1e-12)  # interpolated and plain medians round differently
    assert stats.ratio_ci(top * speed, bottom * speed, 1, RESAMPLES) == pytest.approx((ratio, low, high))


@given(st.lists(RATES, min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_ratio_of_an_arm_to_itself(rates):
    assert stats.ratio_ci(rates, rates, resamples=RESAMPLES) == (1, 1, 1)


@pytest.mark.parametrize("repeats", [3, 5])
def test_ratio_ci_is_the_range_at_few_repeats(repeats):
    ratios = [1.5 + i / 10 for i in range(repeats)]
    found = stats.ratio_ci(ratios, [1] * repeats)
    assert found == pytest.approx((np.median(ratios), min(ratios), max(ratios)))


@pytest.mark.parametrize(("repeats", "coverage"), [(3, 0.75), (5, 0.9375)])
def test_coverage_that_the_docstring_states(repeats, coverage):
    """The range misses the median only when all repeats fall on one side of it."""
    sides = list(product((-1, 1), repeat=repeats))
    assert sum(len(set(side)) == 2 for side in sides) / len(sides) == coverage


def test_ratio_ci_ignores_drift_that_both_arms_share():
    base = np.array([100, 50, 80.0])
    assert stats.ratio_ci(1.8 * base, base)[1:] == pytest.approx((1.8, 1.8))


def test_one_repeat_has_no_interval():
    ratio, low, high = stats.ratio_ci([3], [2])
    assert ratio == 1.5 and math.isnan(low) and math.isnan(high)


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_paired_difference_laws(pairs):
    a, b = np.array(pairs).T
    difference, low, high = stats.paired_difference_ci(a, b, seed=3, resamples=RESAMPLES)
    assert difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert (a - b).min() - 1e-12 <= low <= high <= (a - b).max() + 1e-12
    assert stats.paired_difference_ci(a, b, seed=3, resamples=RESAMPLES) == (difference, low, high)


def test_paired_difference_of_equal_arms():
    assert stats.paired_difference_ci([0, 1, 1], [0, 1, 1]) == (0, 0, 0)


def test_paired_difference_against_the_normal_interval():
    """With many items the interval is the textbook one."""
    differences = np.random.default_rng(0).normal(0.1, 1, 2000)
    _, low, high = stats.paired_difference_ci(differences, np.zeros(2000))
    half = 1.96 * differences.std(ddof=1) / np.sqrt(2000)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.005)


def test_pairing_narrows_the_interval():
    """Items that are hard for both arms do not widen it."""
    rng = np.random.default_rng(1)
    hard, noise = rng.normal(0, 5, 300), rng.normal(0, 0.1, 300)
    _, low, high = stats.paired_difference_ci(hard + noise, hard)
    assert high - low < 0.05


def test_mcnemar_exact():
    """8 items against 1: twice the binomial tail (1 + 9) / 2^9."""
    a = [1] * 8 + [0] + [1] * 5 + [0] * 4
    b = [0] * 8 + [1] + [1] * 5 + [0] * 4
    assert stats.mcnemar(a, b) == {"a_only": 8, "b_only": 1, "p_value": pytest.approx(20 / 512)}
    assert stats.mcnemar(a, a)["p_value"] == 1


def test_flipped_signs_agree_with_mcnemar_and_see_partial_credit():
    a, b = [1] * 8 + [0] + [1] * 20, [0] * 8 + [1] + [1] * 20
    assert stats.sign_flip(a, b, resamples=20_000) == pytest.approx(20 / 512, abs=0.006)
    assert stats.sign_flip([0.5] * 10, [1.0] * 10) == pytest.approx(2 / 1024)
    assert stats.sign_flip([0.3] * 4, [0.3] * 4) == 1


def test_minimum_detectable_difference():
    """(1.96 + 0.84) sd / sqrt(n) for many items; a smaller effect needs more of them."""
    differences = np.random.default_rng(0).normal(0, 0.3, 400)
    found = stats.minimum_detectable_difference(differences)
    assert found == pytest.approx(2.80 * differences.std(ddof=1) / 20, rel=0.01)
    assert stats.minimum_detectable_difference(differences[:100]) > found


@pytest.mark.parametrize("items", [20, 200])
def test_minimum_detectable_loss_is_found_with_that_power(items):
    """Six losses are the fewest that McNemar's test calls significant; they come up with a probability of 80%."""
    share = stats.minimum_detectable_loss(items)
    assert stats.mcnemar([1] * 6, [0] * 6)["p_value"] < 0.05 < stats.mcnemar([1] * 5, [0] * 5)["p_value"]
    fewer = sum(math.comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(6))
    assert 1 - fewer == pytest.approx(0.8)
    assert math.isnan(stats.minimum_detectable_loss(5))


@given(st.integers(1, 2000))
def test_unseen_share_would_have_shown(items):
    """At the limit, `items` without a difference have a probability of 2.5%."""
    assert (1 - stats.unseen(items)) ** items == pytest.approx(0.025)


def test_holm_multiplies_the_smallest_by_their_number_and_leaves_nan_out():
    nan = float("nan")
    assert stats.holm([0.01, nan, 0.02, 0.5]) == pytest.approx([0.03, nan, 0.04, 0.5], nan_ok=True)
    assert stats.holm([nan]) == pytest.approx([nan], nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.ratio_ci([1, 2], [1]), "equally long"),
        (lambda: stats.ratio_ci([], []), "non-empty"),
        (lambda: stats.ratio_ci([1, 1], [1, 0]), "must be positive"),
        (lambda: stats.paired_difference_ci([1, math.nan], [1, 1]), "NaN"),
        (lambda: stats.mcnemar([1, 2], [0, 1]), "0 \\(wrong\\) or 1"),
        (lambda: stats.minimum_detectable_difference([0.1]), "at least two"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RATES, RATES), min_size=2, max_size=7), RATES)
def test_geometric_ratio_laws(pairs, speed):
    """Swapping the sides inverts it, and a speed that both share is not seen."""
    top, bottom = np.array(pairs).T
    ratio, low, high = stats.geometric_ratio(top, bottom)
    assert low <= ratio <= high and ratio == pytest.approx(np.exp(np.log(top / bottom).mean()))
    assert stats.geometric_ratio(bottom, top) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    assert stats.geometric_ratio(top * speed, bottom * speed) == pytest.approx((ratio, low, high))


def test_geometric_ratio_by_hand():
    """Ratios 1, 2 and 4: logarithms 0, 1 and 2 in base 2, with t = 4.303 at two degrees of freedom."""
    ratio, low, high = stats.geometric_ratio([1, 2, 4], [1, 1, 1])
    reach = 2 ** (4.302653 / math.sqrt(3))
    assert (ratio, low, high) == pytest.approx((2, 2 / reach, 2 * reach), rel=1e-6)
    assert math.isnan(stats.geometric_ratio([3], [2])[1])
    with pytest.raises(UserError, match="every value must be positive"):
        stats.geometric_ratio([1, 0], [1, 1])
