"""An arm against the base on the same items, task by task and in the mean over tasks.

Arms answer the same items, so they are compared item by item; the harness's own unpaired standard errors would be too
wide.
"""

import numpy as np
import pandas as pd

from swiftkv.stats import paired_difference_ci

MEAN = "mean"
RESAMPLES = 10_000


def compared(differing: int, score: float, base_score: float, low: float, high: float) -> dict:
    """The columns of a comparison; the limits are those of the difference's 95% interval, `differing` counts the items
    that have another score than the base's."""
    scores = {"differing": differing, "score": score, "base_score": base_score}
    return scores | {"difference": score - base_score, "ci_low": low, "ci_high": high}


def compare_items(scores: pd.Series, base_scores: pd.Series, seed: int) -> dict:
    """One task: two columns of scores of the same items, in one order."""
    _, low, high = paired_difference_ci(scores, base_scores, seed, RESAMPLES)
    differing = int((scores != base_scores).sum())
    return compared(differing, scores.mean(), base_scores.mean(), low, high)


def mean_of(rows: list[dict], column: str) -> float:
    """The plain mean of a column over tasks: tasks weigh the same, however many items they have."""
    return sum(row[column] for row in rows) / len(rows)


def compare_means(rows: list[dict], differences: list[np.ndarray], seed: int) -> dict:
    """All tasks: their `rows`, and the differences of the items of each."""
    low, high = mean_difference_ci(differences, seed)
    differing = sum(row["differing"] for row in rows)
    return compared(differing, mean_of(rows, "score"), mean_of(rows, "base_score"), low, high)


def mean_difference_ci(differences: list[np.ndarray], seed: int) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean over tasks of [items] differences, stratified by task."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(task, (RESAMPLES, len(task))).mean(axis=1) for task in differences]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)


def equally_weighted(differences: list[np.ndarray]) -> np.ndarray:
    """All items' differences, scaled so that their mean is the mean over tasks of [items] differences."""
    share = sum(map(len, differences)) / len(differences)
    return np.concatenate([task * share / len(task) for task in differences])
