"""claims.csv and claims.md: the verdicts as a table, and the evidence of each below it."""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.markup import pipe_table

HEADER = ["claim", "published", "measured [95% CI]", "unit", "verdict"]
ORDER = ["reproduced", "partly", "not reproduced", "too noisy", "not comparable", "not gated", "not measured"]


def rounded(value: float | None) -> float | None:
    """Four significant digits; None for a missing number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return float(f"{value:.4g}")


def sentences(parts: Iterable[str]) -> str:
    """The non-empty parts as one line of sentences."""
    return ". ".join(" ".join(part.split()).rstrip(".") for part in parts if part) + "."


def number(value: float) -> str:
    """A number for reading: thousands separated, no trailing zeros, empty for a missing one."""
    return "" if pd.isna(value) else (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def measured(row) -> str:
    """`1.59 [1.55, 1.62]`, without the interval if there is none, `-` if there is no number."""
    if pd.isna(row.measured):
        return "-"
    ci = "" if pd.isna(row.ci_low) else f" [{number(row.ci_low)}, {number(row.ci_high)}]"
    return number(row.measured) + ci


def tally(frame: pd.DataFrame) -> str:
    """`9 reproduced, 3 partly`: how many claims have each verdict."""
    counts = frame.verdict.value_counts()
    return ", ".join(f"{counts[name]} {name}" for name in ORDER if name in counts)


def markdown(frame: pd.DataFrame, scale: str) -> str:
    """The whole claims.md: counts, table, evidence."""
    lines = [f"# Published claims, judged at scale `{scale}`", "", f"{len(frame)} claims: {tally(frame)}.", ""]
    rows = [
        [f"`{row.id}`", number(row.published), measured(row), row.unit, f"**{row.verdict}**"]
        for row in frame.itertuples()
    ]
    lines.append(pipe_table(HEADER, rows, ["---"] * len(HEADER), tight=True))
    for row in frame.itertuples():
        lines += ["", f"## {row.id}: {row.verdict}", "", f"{row.statement} ({row.source})", "", f"{row.evidence}"]
        lines += ["", f"Hardware: {row.hardware}."] if row.hardware else []
    return "\n".join(lines).replace("<", "&lt;") + "\n"


def write(frame: pd.DataFrame, scale: str, out_csv: str | Path, out_md: str | Path) -> None:
    """Write both files atomically."""
    files.write_text(out_csv, frame.to_csv(index=False, lineterminator="\n"))
    files.write_text(out_md, markdown(frame, scale))
