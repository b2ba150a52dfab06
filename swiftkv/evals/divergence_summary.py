"""What the documents of `swiftkv divergence` say of every arm, by set and in the mean over sets.

Documents are what was drawn, so they weigh the same within a set, intervals are over them, and an arm is compared with
the base on the same ones. Sets weigh the same in the mean.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.evals.paired import MEAN, RESAMPLES, equally_weighted, mean_difference_ci
from swiftkv.provenance import Provenance
from swiftkv.registry import FILES
from swiftkv.results import require
from swiftkv.stats import minimum_detectable_difference, paired_difference_ci

# Columns of the mean over documents, of its interval, and of documents.jsonl: the second, if any, is subtracted.
QUANTITIES = {
    ("kl", "kl_ci_low", "kl_ci_high"): ("kl", None),
    ("agreement", "agreement_ci_low", "agreement_ci_high"): ("agreement", None),
    ("nll_difference", "nll_ci_low", "nll_ci_high"): ("nll", "base_nll"),
}


def values_of(rows: pd.DataFrame, column: str, subtracted: str | None) -> np.ndarray:
    """One value per document."""
    return (rows[column] - (rows[subtracted] if subtracted else 0.0)).to_numpy(dtype=float)


def counts(arm: str, name: str, mode: str, rows: pd.DataFrame) -> dict:
    """What was measured on; `cut` counts the documents that were longer than was read."""
    cut = int((rows.text_tokens > rows.read_tokens).sum())
    measured = {"documents": len(rows), "cut": cut, "tokens": int(rows.tokens.sum())}
    return {"arm": arm, "set": name, "mode": mode, **measured}


def set_row(arm: str, name: str, mode: str, rows: pd.DataFrame, seed: int) -> dict:
    """One set: means over its documents with their 95% intervals, and the difference of the negative log-likelihood
    that as many documents find with a power of 80%."""
    row = counts(arm, name, mode, rows)
    row |= {"perplexity": np.exp(rows.nll.mean()), "base_perplexity": np.exp(rows.base_nll.mean())}
    for columns, of in QUANTITIES.items():
        values = values_of(rows, *of)
        row |= dict(zip(columns, paired_difference_ci(values, np.zeros_like(values), seed, RESAMPLES), strict=True))
    return row | {"detectable_nll_difference": detectable(arm, values_of(rows, "nll", "base_nll"))}


def mean_row(arm: str, mode: str, rows: pd.DataFrame, of_sets: list[dict], seed: int) -> dict:
    """The plain mean over sets, of perplexities the geometric one, with intervals stratified by set."""
    row = counts(arm, MEAN, mode, rows)
    row |= {name: np.exp(np.mean([np.log(one[name]) for one in of_sets])) for name in ("perplexity", "base_perplexity")}
    by_set = [group for _, group in rows.groupby("set", sort=False)]
    for (value, low, high), of in QUANTITIES.items():
        values = [values_of(group, *of) for group in by_set]
        ends = mean_difference_ci(values, seed)
        row |= {value: np.mean([one[value] for one in of_sets]), low: ends[0], high: ends[1]}
    differences = equally_weighted([values_of(group, "nll", "base_nll") for group in by_set])
    return row | {"detectable_nll_difference": detectable(arm, differences)}


def detectable(arm: str, differences: np.ndarray) -> float | None:
    """`minimum_detectable_difference`; the base has no use for it."""
    return None if arm == BASE_ARM else minimum_detectable_difference(differences)


def summary(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per arm, mode and set of the rows of documents.jsonl, and one for the mean over sets."""
    found = []
    for (arm, mode), its in rows.groupby(["arm", "mode"], sort=False):
        of_sets = [set_row(arm, name, mode, group, seed) for name, group in its.groupby("set", sort=False)]
        found += [*of_sets, mean_row(arm, mode, its, of_sets, seed)]
    return pd.DataFrame(found)


def summarise(config: RunConfig, documents: Path, out: Path) -> None:
    """Write the summary of `documents`, a documents.jsonl. Raises UserError if it is missing or lacks a column."""
    with Provenance("divergence", config, inputs=[documents], resamples=RESAMPLES, out=[out]) as provenance:
        rows = require(
            pd.DataFrame(files.read_jsonl(documents)), FILES["divergence_documents"].columns, Path(documents)
        )
        provenance.save(out)
        files.write_text(out, summary(rows, config.seed).to_csv(index=False, float_format="%.6g"))
