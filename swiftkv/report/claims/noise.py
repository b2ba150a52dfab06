"""Whether a ratio was measured well enough to be judged: it needs an interval, and a quiet machine.

The A/A control says how quiet: the base measured twice in every round is a ratio that is known to be 1.
"""

import pandas as pd

from swiftkv.config import BASE_ARM
from swiftkv.config.measuring import BASE_AGAIN, L_EQUALS_L
from swiftkv.markup import with_interval

NOT_MEASURED, TOO_NOISY = "not measured", "too noisy"
Columns = tuple[str, str, str]  # of a ratio, and of its interval's ends


def control(frame: pd.DataFrame, name: str, row: pd.Series) -> pd.Series | None:
    """The row of a control beside `row`, of the same workload; None if there is no such control."""
    beside = frame[frame.arm == name]
    if "point" in frame:
        beside = beside[beside.point == row.point]
    return beside.iloc[0] if len(beside) else None


def controls(frame: pd.DataFrame, row: pd.Series, columns: Columns) -> str:
    """What the controls show beside `row`, in words; nothing of results from before there were any, which do not name
    their interval."""
    if "interval" not in frame:
        return ""
    shown = []
    for name, what in ((BASE_AGAIN, "A/A"), (L_EQUALS_L, "l = L")):
        found = control(frame, name, row)
        shown.append(f"no {what} control" if found is None else f"{what} {with_interval(*found[list(columns)], '.3f')}")
    return "; ".join(shown)


def doubt(frame: pd.DataFrame, row: pd.Series, columns: Columns, tolerance: float) -> tuple[str, str] | None:
    """The verdict that stands in place of the rule's, with its reason, or None.

    `not measured` where the ratio in `columns` has no interval, since the rules judge by its ends. `too noisy` where
    that of the A/A control does not lie within 1 plus or minus `tolerance`: then the machine either made a difference
    where there is none, or was too unsteady for the rounds that were measured to show that it did not.
    """
    _, low, high = columns
    if pd.isna(row[low]) or pd.isna(row[high]):
        return NOT_MEASURED, f"{rounds(row):.0f} rounds give no interval, which takes three"
    found = control(frame, BASE_AGAIN, row)
    if found is None or row.arm == BASE_ARM or (1 - tolerance <= found[low] and found[high] <= 1 + tolerance):
        return None
    ratio = with_interval(*found[list(columns)], ".3f")
    reason = f"the base against itself (A/A) is {ratio}, which does not lie within 1 plus or minus {tolerance:g}"
    return TOO_NOISY, "; ".join([reason, *(text for text in (stolen(found), load(found)) if text)])


def rounds(row: pd.Series) -> float:
    return row["repeats"] if "repeats" in row.index else row["rounds"]


def stolen(row: pd.Series) -> str:
    share = row.get("stolen_percent")
    return "stolen time was not recorded" if pd.isna(share) else f"{share:.1f}% of the CPUs' time was stolen"


def load(row: pd.Series) -> str:
    average = row.get("load_1m")
    return "" if pd.isna(average) else f"the load average rose to {average:.1f}"
