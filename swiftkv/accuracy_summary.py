"""Every arm against the base: differences with paired bootstrap intervals, retention, generation length.

Arms answer the same items, so they are compared item by item; the harness's own unpaired standard errors
would be too wide.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.stats import paired_difference_ci

MEAN = "mean"
RESAMPLES = 10_000


def read_arm(arm: str, folder: Path):
    """The samples of one arm as a frame indexed by item id. Raises UserError if they are not usable."""
    frame = pd.DataFrame(files.read_jsonl(folder / "samples.jsonl"))
    if frame.empty:
        raise UserError(f"{folder / 'samples.jsonl'}: no samples; score arm {arm!r} first")
    if frame["id"].duplicated().any():
        raise UserError(f"{folder / 'samples.jsonl'}: item {frame['id'][frame['id'].duplicated()].iloc[0]} twice")
    return frame.set_index("id")


def check_same(base, other, arm: str) -> None:
    """Raise UserError unless two arms answered the very same items."""
    expected, found = (frame.groupby("task", sort=False).size().to_dict() for frame in (base, other))
    if expected != found:
        raise UserError(f"accuracy: arm {arm!r} has items {found} per task, the base {expected}; score it again")
    if unknown := sorted(set(other.index) ^ set(base.index)):
        raise UserError(f"accuracy: arm {arm!r} and the base differ in {len(unknown)} items, first {unknown[0]}")
    changed = other["target"].reindex(base.index) != base["target"]
    if changed.any():
        raise UserError(f"accuracy: arm {arm!r} and the base differ in the answer of {changed.idxmax()}")


def check_settings(arm_dirs: dict[str, Path]) -> None:
    """Raise UserError unless all arms were generated under the same settings."""
    found = {arm: files.read_json(folder / "lm_eval.json")["settings"] for arm, folder in arm_dirs.items()}
    for arm, settings in found.items():
        differ = {k: (settings.get(k), v) for k, v in found[BASE_ARM].items() if settings.get(k) != v}
        if differ:
            raise UserError(f"accuracy: arm {arm!r} was scored under other settings than the base: {differ}")


def ratio(value: float, base: float) -> float:
    """value / base, NaN where the base is 0."""
    return value / base if base else float("nan")


def mean_difference_ci(differences: list, seed: int) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean over tasks of [items] differences, stratified by task."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(task, (RESAMPLES, len(task))).mean(axis=1) for task in differences]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)


def task_rows(arm: str, base, other, seed: int) -> list[dict]:
    """Rows of summary.csv for one arm: each task, then the mean over tasks (tasks weigh the same)."""
    other = other.loc[base.index]
    rows, differences = [], []
    for task, reference in base.groupby("task", sort=False):
        mine = other.loc[reference.index]
        differences.append((mine["score"] - reference["score"]).to_numpy())
        _, *interval = paired_difference_ci(mine["score"], reference["score"], seed, RESAMPLES)
        rows.append(row_of(arm, task, mine, reference, interval))
    rows.append(mean_row(arm, rows, other, base, mean_difference_ci(differences, seed)))
    return rows


def row_of(arm: str, task: str, mine, reference, interval: Sequence[float]) -> dict:
    """One task of one arm against the base; `length_ratio` is generated tokens over the base's."""
    score, base_score = mine["score"].mean(), reference["score"].mean()
    return {
        "arm": arm,
        "task": task,
        "items": len(mine),
        "score": score,
        "base_score": base_score,
        "difference": score - base_score,
        "ci_low": interval[0],
        "ci_high": interval[1],
        "retention": ratio(score, base_score),
        "length_ratio": ratio(mine["generated_tokens"].sum(), reference["generated_tokens"].sum()),
        "exact_match": mine["exact_match"].mean(),
    }


def mean_row(arm: str, rows: list[dict], mine, reference, interval: Sequence[float]) -> dict:
    """The mean over tasks of one arm."""
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("score", "base_score", "exact_match")}
    whole = row_of(arm, MEAN, mine, reference, interval)
    retention, difference = ratio(mean["score"], mean["base_score"]), mean["score"] - mean["base_score"]
    return {**whole, **mean, "retention": retention, "difference": difference}


def summarise(config: RunConfig, arm_dirs: dict[str, Path], out: Path) -> None:
    """Write accuracy/summary.csv from the arms' samples: differences to the base, 95% paired bootstrap CIs.

    Raises UserError if the base is not among the arms, or arms differ in items or settings.
    """
    if BASE_ARM not in arm_dirs:
        raise UserError(f"accuracy: the arms {sorted(arm_dirs)} lack {BASE_ARM!r}, which the others are compared with")
    samples = {arm: folder / "samples.jsonl" for arm, folder in arm_dirs.items()}
    with Provenance("accuracy-summary", config, inputs=samples.values(), resamples=RESAMPLES) as provenance:
        check_settings(arm_dirs)
        frames = {arm: read_arm(arm, folder) for arm, folder in arm_dirs.items()}
        for arm, frame in frames.items():
            check_same(frames[BASE_ARM], frame, arm)
        rows = [row for arm, frame in frames.items() for row in task_rows(arm, frames[BASE_ARM], frame, config.seed)]
        provenance.save(out)
        files.write_text(out, pd.DataFrame(rows).round(6).to_csv(index=False))
