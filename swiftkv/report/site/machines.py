"""Runs side by side, by what students skip and share: ratios to the base of the same run."""

import pandas as pd

from swiftkv.config import BASE_ARM
from swiftkv.report.plots.style import CONTROL_LABELS, PALETTE
from swiftkv.report.site.marks import Figure, Look, intervals
from swiftkv.report.site.runs import SHAPES, Run


def compared(runs: list[Run]) -> dict[str, Figure]:
    """By what students skip and share: runs side by side, at the points that more than one of them has."""
    parts = []
    for run in runs:
        if (speed := run.frame("throughput")) is not None:
            speed = speed.assign(group=speed.point + "|throughput").rename(columns={"speedup": "value"})
            parts.append(ratios(run, speed, speed.group, "value", "ci_low", "ci_high"))
        if (one := run.frame("latency")) is not None:
            parts.append(ratios(run, one, "time to first token", "ttft_ratio", "ttft_ci_low", "ttft_ci_high"))
            parts.append(ratios(run, one, "time per output token", "tpot_ratio", "ci_low", "ci_high"))
    if not parts:
        return {}
    rows = pd.concat(parts)
    # A look for each: where the colours are used up they begin again with other shapes.
    shapes, colours = list(SHAPES.values()), PALETTE[:-1]  # the last is yellow, which is hard to see on white
    looks = {
        run.name: (colours[number % len(colours)], shapes[(number + 2 * (number // len(colours))) % len(shapes)])
        for number, run in enumerate(runs)
    }
    figures = {}
    most = rows.groupby("student", sort=False).series.nunique().sort_values(ascending=False, kind="stable").index
    for number, label in enumerate(most):
        same = rows[rows.student == label]
        several = same.groupby("group").series.transform("nunique") > 1
        text = "Ratios to the base of the same run, with 95% intervals. Throughput above 1 and times below 1 are gains."
        look = Look("relative to the base")
        figure = intervals(f"compare-{number}", str(label), text, same[several], look, looks)
        figures |= {str(label): figure} if figure else {}
    return figures


def ratios(run: Run, frame: pd.DataFrame, group: str | pd.Series, value: str, low: str, high: str) -> pd.DataFrame:
    frame = frame[~frame.arm.isin([BASE_ARM, *CONTROL_LABELS])]
    return pd.DataFrame(
        {"group": group if isinstance(group, str) else group.loc[frame.index], "series": run.name,
         "student": frame.arm.map(run.label), "value": frame[value], "low": frame[low], "high": frame[high]}
    )  # fmt: skip
