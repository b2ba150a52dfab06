"""Every arm against the base: differences with paired bootstrap intervals, tests, retention, generation length.

`retained` is a non-inferiority verdict: that no loss was found shows nothing by itself.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.evals.paired import MEAN, RESAMPLES, compare_items, compare_means, equally_weighted, mean_of
from swiftkv.provenance import Provenance
from swiftkv.stats import holm, mcnemar, minimum_detectable_difference, minimum_detectable_loss, sign_flip, unseen

MIN_LENGTH_RATIO = 0.9  # answers shorter than this share of the base's fail, whatever their score
SEED = "sample_seed"
TESTS = ("p_value", "p_holm", "detectable_difference", "retained")  # columns that the base itself has no use for


def read_arm(arm: str, folder: Path):
    """The samples of one arm as a frame indexed by item id, the mean over seeds where answers were drawn; column
    `by_seed` holds the score per seed. Raises UserError if they are not usable."""
    path = folder / "samples.jsonl"
    frame = pd.DataFrame(files.read_jsonl(path))
    if frame.empty:
        raise UserError(f"{path}: no samples; score arm {arm!r} first")
    keys = ["id", SEED] if SEED in frame else ["id"]
    if (twice := frame.duplicated(keys)).any():
        raise UserError(f"{path}: item {frame['id'][twice].iloc[0]} twice")
    return over_seeds(frame, path) if SEED in frame else frame.set_index("id")


def over_seeds(frame, path: Path):
    """One row per item: an item's answers are draws of one thing, so the item stays the unit of every interval."""
    items = frame.groupby("id", sort=False)
    seeds = sorted(frame[SEED].unique().tolist())
    if (incomplete := items[SEED].nunique() < len(seeds)).any():
        raise UserError(f"{path}: item {incomplete.idxmax()} lacks some of the seeds {seeds}")
    ordered = frame.sort_values(SEED, kind="stable").groupby("id", sort=False)
    means = items[["score", "exact_match", "generated_tokens"]].mean()
    return items[["task", "target"]].first().join(means).assign(by_seed=ordered["score"].agg(list))


def check_same(base, other, arm: str) -> None:
    """Raise UserError unless two arms answered the very same items."""
    expected, answered = (frame.groupby("task", sort=False).size().to_dict() for frame in (base, other))
    if expected != answered:
        raise UserError(f"accuracy: arm {arm!r} has items {answered} per task, the base {expected}; score it again")
    if unknown := sorted(set(other.index) ^ set(base.index)):
        raise UserError(f"accuracy: arm {arm!r} and the base differ in {len(unknown)} items, first {unknown[0]}")
    changed = other["target"].reindex(base.index) != base["target"]
    if changed.any():
        raise UserError(f"accuracy: arm {arm!r} and the base differ in the answer of {changed.idxmax()}")


def check_settings(arm_dirs: dict[str, Path]) -> None:
    """Raise UserError unless all arms were generated under the same settings."""
    by_arm = {arm: files.read_json(folder / "lm_eval.json")["settings"] for arm, folder in arm_dirs.items()}
    for arm, settings in by_arm.items():
        differ = {k: (settings.get(k), v) for k, v in by_arm[BASE_ARM].items() if settings.get(k) != v}
        if differ:
            raise UserError(f"accuracy: arm {arm!r} was scored under other settings than the base: {differ}")


def ratio(value: float, base: float) -> float:
    """value / base, NaN where the base is 0."""
    return value / base if base else float("nan")


def above_floor(base, floor: float) -> list[str]:
    """The tasks that can show a loss: those on which the base scores at least `floor`. All of them if none does, and
    whoever judges them sees how weak the base is."""
    means = base.groupby("task", sort=False)["score"].mean()
    return list(means.index[means >= floor]) or list(means.index)


def task_rows(arm: str, base, other, seed: int, margin: float, floor: float = 0.0) -> list[dict]:
    """Rows of summary.csv for one arm: each task, then the mean over the tasks above `floor` (tasks weigh the same)."""
    other = other.loc[base.index]
    rows, differences, counted = [], [], above_floor(base, floor)
    for task, reference in base.groupby("task", sort=False):
        mine = other.loc[reference.index]
        differences.append((mine["score"] - reference["score"]).to_numpy())
        compared = compare_items(mine["score"], reference["score"], seed)
        tests = {"p_value": p_value(mine["score"], reference["score"], seed), "p_holm": None}
        tests |= judge(differences[-1], len(mine), (compared["ci_low"], compared["ci_high"]), margin)
        rows.append(row_of(arm, task, mine, reference, compared, mine["exact_match"].mean()) | tests)
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    in_mean = [index for index, row in enumerate(rows) if row["task"] in counted]
    weighed, differences = [rows[index] for index in in_mean], [differences[index] for index in in_mean]
    compared = compare_means(weighed, differences, seed)
    fewest = len(differences) * min(map(len, differences))  # an equal number of items per task, no more than there are
    tests = dict.fromkeys(TESTS) | judge(
        equally_weighted(differences), fewest, (compared["ci_low"], compared["ci_high"]), margin
    )
    mine, reference = (frame[frame["task"].isin(counted)] for frame in (other, base))
    rows.append(row_of(arm, MEAN, mine, reference, compared, mean_of(weighed, "exact_match")) | tests)
    return [row | dict.fromkeys(TESTS) for row in rows] if arm == BASE_ARM else rows


def p_value(mine, reference, seed: int) -> float:
    """McNemar's exact p-value of right and wrong answers; that of flipped signs where there is partial credit."""
    right_or_wrong = np.isin([mine, reference], (0, 1)).all()
    return mcnemar(mine, reference)["p_value"] if right_or_wrong else sign_flip(mine, reference, seed, RESAMPLES)


def judge(differences, items: int, interval: tuple[float, float], margin: float) -> dict:
    """What `items` can show: the difference (in score points) that they find with a power of 80%, and whether the score
    is less than `margin` below the base's (yes, lost, not shown).

    Where scores hardly differ, their spread says little about a model that does lose: the difference is at least the
    one that needs no spread. Where none differs, the bootstrap has no width, and the interval is the binomial one.
    """
    by_spread = minimum_detectable_difference(differences) if len(differences) > 1 else float("nan")
    detectable = float(np.maximum(by_spread, minimum_detectable_loss(items)))
    low, high = interval if np.any(differences) else (-unseen(items), unseen(items))
    retained = "yes" if low > -margin else "lost" if high < -margin else "not shown"
    return {"detectable_difference": detectable, "retained": retained}


def row_of(arm: str, task: str, mine, reference, compared: dict, exact_match: float) -> dict:
    """One task of one arm against the base, or their mean; `length_ratio` is generated tokens over the base's."""
    length_ratio = ratio(mine["generated_tokens"].sum(), reference["generated_tokens"].sum())
    return {
        "arm": arm,
        "task": task,
        "items": len(mine),
        **compared,
        "retention": ratio(compared["score"], compared["base_score"]),
        "length_ratio": length_ratio,
        "exact_match": exact_match,
        "length_ok": bool(length_ratio >= MIN_LENGTH_RATIO),
        **seed_spread(mine),
    }


def seed_spread(mine) -> dict:
    """How many seeds drew the answers, and the standard deviation over them of the arm's score; nothing if greedy."""
    if "by_seed" not in mine:
        return {}
    tasks = mine.groupby("task", sort=False)["by_seed"]
    per_seed = np.mean([np.mean(scores.tolist(), axis=0) for _, scores in tasks], axis=0)
    return {"seeds": len(per_seed), "seed_sd": per_seed.std(ddof=1) if len(per_seed) > 1 else float("nan")}


def summarise(config: RunConfig, arm_dirs: dict[str, Path], out: Path) -> None:
    """Write accuracy/summary.csv from the arms' samples: differences to the base, 95% paired bootstrap CIs, p-values
    (McNemar's, or of flipped signs) with Holm's correction over an arm's tasks, detectable difference, verdicts on
    non-inferiority and length.

    Raises UserError if the base is not among the arms, or arms differ in items or settings.
    """
    if BASE_ARM not in arm_dirs:
        raise UserError(f"accuracy: the arms {sorted(arm_dirs)} lack {BASE_ARM!r}, which the others are compared with")
    samples = {arm: folder / "samples.jsonl" for arm, folder in arm_dirs.items()}
    with Provenance("accuracy-summary", config, inputs=samples.values(), resamples=RESAMPLES, out=[out]) as provenance:
        check_settings(arm_dirs)
        frames = {arm: read_arm(arm, folder) for arm, folder in arm_dirs.items()}
        for arm, frame in frames.items():
            check_same(frames[BASE_ARM], frame, arm)
        base, asked = frames[BASE_ARM], config.accuracy
        rows = [
            row
            for arm, frame in frames.items()
            for row in task_rows(arm, base, frame, config.seed, asked.margin, asked.floor)
        ]
        provenance.save(out)
        files.write_text(out, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
