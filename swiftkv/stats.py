"""Confidence intervals and tests for paired measurements: thin wrappers round scipy and statsmodels.

Everything here is paired. Arms of one repeat run next to each other, and every arm answers the same items, so
what the machine or an item does to one arm it does to the others; comparing within the pair cancels it.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

from swiftkv.errors import UserError

LEVEL = 0.95
FEWEST = 3  # rounds that have an interval
RESAMPLES = 9999


def _pair(a: Sequence[float], b: Sequence[float], what: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise UserError(
            f"{what}: paired samples must be two equally long, non-empty lists, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError(f"{what}: a sample is NaN or infinite")
    return a, b


def _bootstrap(data: tuple, statistic, seed: int, resamples: int, method: str, paired=False) -> tuple[float, float]:
    """Bootstrap interval at LEVEL. (nan, nan) for a single observation; a point where every resample agrees."""
    if len(data[0]) < 2:
        return float("nan"), float("nan")
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            data, statistic, n_resamples=resamples, confidence_level=LEVEL, method=method, paired=paired,
            vectorized=True, rng=np.random.default_rng(seed),
        )  # fmt: skip
    if np.ptp(result.bootstrap_distribution) == 0:
        point = float(result.bootstrap_distribution[0])
        return point, point
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def ratio_ci(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Geometric mean of the ratios within rounds with Student's t interval on their logarithms: (ratio, low, high).

    `groups` names the process that measured each round. Of three or more, the mean and the interval are those of the
    processes' means: rounds of one process share what the process was dealt (places in memory, a neighbour on the
    machine), so only processes are independent, and what differs between them is in the interval.

    Within rounds, because a round holds both arms side by side: a slow minute slows both and cancels. Logarithms,
    because a ratio and its inverse are then one number and the errors nearly symmetric; the interval covers the mean in
    95% of runs from few rounds on, where the range of three ratios covers their median in 75%. Fewer than FEWEST rounds
    give (ratio, nan, nan): no interval. Raises UserError for unequal lengths or a value that is not positive.
    """
    top, bottom = _pair(numerators, denominators, "ratio_ci")
    if (least := min(top.min(), bottom.min())) <= 0:
        raise UserError(f"ratio_ci: every value must be positive, the smallest is {least}")
    logs = np.log(top / bottom)
    if groups is not None and len(processes := np.unique(groups)) >= FEWEST:
        logs = np.array([logs[np.equal(groups, one)].mean() for one in processes])
    middle = logs.mean()
    if logs.size < FEWEST:
        return float(np.exp(middle)), float("nan"), float("nan")
    reach = stats.t.ppf((1 + LEVEL) / 2, logs.size - 1) * stats.sem(logs)
    return tuple(float(np.exp(middle + offset)) for offset in (0.0, -reach, reach))


def half_width(interval: tuple[float, float, float]) -> float:
    """Half the width of an interval (ratio, low, high), relative to the ratio; infinite where there is none."""
    ratio, low, high = interval
    return float("inf") if np.isnan(low) else (high - low) / (2 * ratio)


def median_ratio_ci(numerators, denominators, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Median of the ratios within rounds with a percentile bootstrap interval over the rounds: (ratio, low, high).

    What results hold that do not name their interval (`RATIO_INTERVALS`); nothing new is summarised with it. Of three
    to five rounds it is the range of the ratios, which holds the true median with probability 1 - 2^(1-n).
    Raises UserError for unequal lengths or a denominator that is not positive.
    """
    top, bottom = _pair(numerators, denominators, "median_ratio_ci")
    if (bottom <= 0).any():
        raise UserError(f"median_ratio_ci: every denominator must be positive, the smallest is {bottom.min()}")
    ratios = top / bottom
    low, high = _bootstrap((ratios,), np.median, seed, resamples, "percentile")
    return float(np.median(ratios)), low, high


T_OF_LOGS = "t"  # what the column `interval` of a summary says
RATIO_INTERVALS = {
    T_OF_LOGS: lambda top, bottom, seed=0, groups=None: ratio_ci(top, bottom, groups),
    None: lambda top, bottom, seed=0, groups=None: median_ratio_ci(top, bottom, seed),
}


def _bca(statistic, data: tuple, seed: int, resamples: int) -> tuple[float, float]:
    """BCa where the data allow it, else percentile (BCa has no answer when every jackknife value is equal)."""
    low, high = _bootstrap(data, statistic, seed, resamples, "BCa", paired=True)
    if len(data[0]) > 1 and not np.isfinite([low, high]).all():
        return _bootstrap(data, statistic, seed, resamples, "percentile", paired=True)
    return low, high


def paired_difference_ci(a, b, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Mean of a - b over paired items with a BCa bootstrap interval over the items: (difference, low, high).

    BCa (Efron 1987) because item scores are bounded and differences few and skewed. One item gives (d, nan, nan).
    Raises UserError for unequal lengths.
    """
    a, b = _pair(a, b, "paired_difference_ci")
    differences = a - b
    low, high = _bca(np.mean, (differences,), seed, resamples)
    return float(differences.mean()), low, high


def mcnemar(a, b) -> dict:
    """Exact McNemar test on paired right/wrong answers (0 or 1): {a_only, b_only, p_value}.

    a_only counts the items that only `a` gets right. Raises UserError for values other than 0 and 1.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    a, b = _pair(a, b, "mcnemar")
    if not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise UserError("mcnemar: every value must be 0 (wrong) or 1 (right)")
    table = [[int(((a == i) & (b == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    result = test(table, exact=True)
    return {"a_only": table[0][1], "b_only": table[1][0], "p_value": float(min(1.0, result.pvalue))}


def sign_flip(a, b, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of the mean of a - b over paired items, by flipping the differences' signs at random.

    For partial credit; of right and wrong answers alone, McNemar's test is the same thing worked out exactly.
    Raises UserError for unequal lengths.
    """
    differences = np.subtract(*_pair(a, b, "sign_flip"))
    if not differences.any():
        return 1.0
    result = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=resamples, rng=np.random.default_rng(seed)
    )
    return float(result.pvalue)


def minimum_detectable_difference(differences, power: float = 0.8, alpha: float = 1 - LEVEL) -> float:
    """Smallest true mean difference that a two-sided paired test of this size finds with probability `power`.

    `differences` are the paired differences that were measured; their spread and number decide. In their unit.
    Raises UserError for fewer than two.
    """
    from statsmodels.stats.power import TTestPower

    differences, _ = _pair(differences, differences, "minimum_detectable_difference")
    if differences.size < 2:
        raise UserError("minimum_detectable_difference: needs at least two paired differences")
    effect = TTestPower().solve_power(effect_size=None, nobs=differences.size, alpha=alpha, power=power)
    return float(np.squeeze(effect) * differences.std(ddof=1))


def minimum_detectable_loss(items: int, power: float = 0.8, alpha: float = 1 - LEVEL) -> float:
    """Smallest share of `items` lost, none won, that the exact McNemar test finds with probability `power`.

    It needs k losses, the least with 2^(1-k) <= alpha, and P(Binomial(items, p) >= k) is the Beta(k, items - k + 1)
    distribution at p. Needs no measured spread, so it also holds where no item differs. NaN for fewer than k items.
    """
    losses = int(np.ceil(1 - np.log2(alpha)))
    return float(stats.beta.ppf(power, losses, items - losses + 1))


def unseen(items: int) -> float:
    """Upper limit, at the level of the intervals, of the share of items that differ where none of `items` does.

    Clopper and Pearson's, about 3.7 / items: a bootstrap of equal scores is a point, whatever their number.
    """
    return float(1 - ((1 - LEVEL) / 2) ** (1 / items))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of p-values for their number; NaN stays and does not count."""
    from statsmodels.stats.multitest import multipletests

    corrected = np.array(p_values, dtype=float)
    known = np.isfinite(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected
