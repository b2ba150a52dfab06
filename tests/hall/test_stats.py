"""Intervals and tests: laws with hypothesis, and agreement with figures worked out by hand."""

import math

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
@given(st.lists(st.tuples(RATES, RATES), min_size=3, max_size=7), RATES)
def test_ratio_ci_laws(pairs, speed):
    """Swapping the sides inverts it, and a speed that both share is not seen."""
    top, bottom = np.array(pairs).T
    ratio, low, high = stats.ratio_ci(top, bottom)
    assert low <= ratio <= high and ratio == pytest.approx(np.exp(np.log(top / bottom).mean()))
    assert stats.ratio_ci(bottom, top) == pytest.approx((1 / ratio, 1 / high, 1 / low))
    assert stats.ratio_ci(top * speed, bottom * speed) == pytest.approx((ratio, low, high))


def test_ratio_ci_by_hand():
    """Ratios 1, 2 and 4: logarithms 0, 1 and 2 in base 2, with t = 4.303 at two degrees of freedom."""
    reach = 2 ** (4.302653 / math.sqrt(3))
    assert stats.ratio_ci([1, 2, 4], [1, 1, 1]) == pytest.approx((2, 2 / reach, 2 * reach), rel=1e-6)


@pytest.mark.parametrize("rounds", [6, 9, 15])
def test_ratio_ci_covers(rounds):
    """In 93 to 97% of runs whose rounds differ by a few percent, with normal and with heavier tails, the interval holds
    the ratio of the machine: 4,000 runs each."""
    generator = np.random.default_rng(2026)
    for draw in (generator.standard_normal, lambda size: generator.standard_t(5, size)):
        errors, shared = 0.03 * draw((4000, 2, rounds)), 0.1 * draw((4000, rounds))
        rates = np.exp(errors + shared[:, None] + np.log([[1.5], [1.0]]))
        intervals = [stats.ratio_ci(*run) for run in rates]
        assert 0.93 <= np.mean([low <= 1.5 <= high for _, low, high in intervals]) <= 0.97


@pytest.mark.parametrize("rounds", [6, 9, 15])
def test_ratio_ci_covers_what_differs_between_processes(rounds):
    """Rounds of three processes, each with a share of its own in the ratio: over rounds alone the interval would hold
    the ratio in 60 to 86%, less often the more rounds there are."""
    generator = np.random.default_rng(2026)
    groups = np.arange(rounds) % 3
    own = 0.03 * generator.standard_normal((4000, 3))[:, groups]
    ratios = 1.5 * np.exp(own + 0.02 * generator.standard_normal((4000, rounds)))
    for by, least, most in ((groups, 0.93, 0.97), (None, 0.5, 0.9)):
        intervals = [stats.ratio_ci(run, np.ones(rounds), by) for run in ratios]
        assert least <= np.mean([low <= 1.5 <= high for _, low, high in intervals]) <= most


def test_ratio_ci_of_processes_by_hand():
    """Means of the logarithms of three processes are 0, 1 and 2 in base 2, whatever their rounds; two are no group."""
    ratios, groups = [2**-0.5, 2**0.5, 2, 4, 4, 4], [0, 0, 1, 2, 2, 2]
    reach = 2 ** (4.302653 / math.sqrt(3))
    assert stats.ratio_ci(ratios, [1] * 6, groups) == pytest.approx((2, 2 / reach, 2 * reach), rel=1e-6)
    assert stats.ratio_ci([1, 2, 4], [1, 1, 1], [0, 0, 1]) == stats.ratio_ci([1, 2, 4], [1, 1, 1])


def test_the_range_of_three_does_not_cover():
    """Why results without a named interval are no longer made: the range of three ratios holds their median in 75%."""
    generator = np.random.default_rng(2026)
    ratios = np.exp(0.03 * generator.standard_normal((1000, 3)))
    assert np.mean([(run.min() <= 1) & (run.max() >= 1) for run in ratios]) == pytest.approx(0.75, abs=0.04)
    top = np.array([1.5, 1.6, 1.8])
    assert stats.median_ratio_ci(top, [1] * 3) == pytest.approx((1.6, 1.5, 1.8))


@given(st.lists(RATES, min_size=3, max_size=5))
@settings(max_examples=20, deadline=None)
def test_ratio_of_an_arm_to_itself(rates):
    assert stats.ratio_ci(rates, rates) == (1, 1, 1)


def test_ratio_ci_ignores_drift_that_both_arms_share():
    base = np.array([100, 50, 80.0])
    assert stats.ratio_ci(1.8 * base, base)[1:] == pytest.approx((1.8, 1.8))


@pytest.mark.parametrize("rounds", [1, 2])
def test_fewer_than_three_rounds_have_no_interval(rounds):
    ratio, low, high = found = stats.ratio_ci([3] * rounds, [2] * rounds)
    assert ratio == pytest.approx(1.5) and math.isnan(low) and math.isnan(high)
    assert stats.half_width(found) == math.inf


def test_half_width_is_relative():
    assert stats.half_width((2.0, 1.9, 2.1)) == pytest.approx(0.05)


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
        (lambda: stats.ratio_ci([0, 1], [1, 1]), "must be positive"),
        (lambda: stats.median_ratio_ci([1, 1], [1, 0]), "must be positive"),
        (lambda: stats.paired_difference_ci([1, math.nan], [1, 1]), "NaN"),
        (lambda: stats.mcnemar([1, 2], [0, 1]), "0 \\(wrong\\) or 1"),
        (lambda: stats.minimum_detectable_difference([0.1]), "at least two"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
