"""What a student gains beside what it loses, measured on one model: the rows of tab-gain-loss and fig-gain-loss."""

import numpy as np
import pandas as pd

from swiftkv.config import BASE_ARM, UNDISTILLED
from swiftkv.results import Results

POINTS = {"prompt_only": "prompt-only", "ratio_10to1": "ratio-10to1"}  # column -> point of the throughput stage
MEAN, ANSWERS = "mean", "answers"
LATENCY = ("ttft_ratio", "ttft_ci_low", "ttft_ci_high", "tpot_ratio", "tpot_ci_low", "tpot_ci_high")


def gains(results: Results) -> pd.DataFrame:
    """Per arm: speed-ups with their intervals, latency ratios, KV tokens relative to the base."""
    speed, columns = results.throughput, {}
    for name, point in POINTS.items():
        rows = speed[speed.point == point].set_index("arm")
        columns |= {name: rows.speedup, f"{name}_ci_low": rows.ci_low, f"{name}_ci_high": rows.ci_high}
    latency = results.latency.set_index("arm").rename(columns={"ci_low": "tpot_ci_low", "ci_high": "tpot_ci_high"})
    columns |= {name: latency[name] for name in LATENCY}
    return pd.DataFrame(columns | {"kv_tokens_ratio": results.kv_capacity.set_index("arm").ratio_to_base})


def losses(results: Results) -> pd.DataFrame:
    """Per arm: change of the mean score (0 to 1) with its interval, and divergence from the base in the mean over the
    sets of published texts, at answers behind an early-exit prompt."""
    scores = results.accuracy.query("task == @MEAN").set_index("arm")
    texts = results.divergence
    texts = texts[(texts["set"] == MEAN) & (texts["mode"] == ANSWERS)].set_index("arm")
    return pd.DataFrame(
        {
            "score": scores.score,
            "score_change": scores.difference,
            "score_ci_low": scores.ci_low,
            "score_ci_high": scores.ci_high,
            "kl": texts.kl,
            "kl_ci_low": texts.kl_ci_low,
            "kl_ci_high": texts.kl_ci_high,
            "agreement": texts.agreement,
            "perplexity_ratio": np.exp(texts.nll_difference),
        }
    )


def gains_and_losses(results: Results) -> pd.DataFrame:
    """A row per arm that was scored, in the order of the scores: `gains` and `losses`. An undistilled control computes
    what its student does, so it has that student's gains."""
    lost = losses(results).loc[results.accuracy.arm.unique()]
    runs_as = lost.index.str.removesuffix(UNDISTILLED)
    gained = gains(results).reindex(runs_as).set_axis(lost.index)
    distilled = (lost.index != BASE_ARM) & ~lost.index.str.endswith(UNDISTILLED)
    return gained.join(lost).assign(distilled=distilled).reset_index(names="arm")
