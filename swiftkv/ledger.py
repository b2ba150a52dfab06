"""The ledger: every claim with what each published run measured and its verdict, side by side.

results/reference/README.md        written by `swiftkv publish`
"""

from pathlib import Path

import pandas as pd

from swiftkv.claims.report import measured, number
from swiftkv.results import Results

HEAD = """# Committed evidence

A directory per machine, a run in each: result files with their provenance, tables and figures, no models.
`swiftkv verify-results DIR` checks one, `swiftkv compare DIR DIR` tells what differs between two.

Ratios and shares may be compared across machines, times and rates may not. Verdicts are those of `claims.md` in each
run; *not gated* is a number beside which the verify gates have not run.

"""


def pipe_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, first column flush left."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def runs(reference: Path) -> dict[str, Results]:
    """The runs below `reference` that have verdicts, by machine/run."""
    found = sorted(path.parent for path in reference.glob("*/*/claims.csv"))
    return {path.relative_to(reference).as_posix(): Results(path.name, path) for path in found}


def cell(row) -> str:
    """`1.88 [1.87, 1.88], not gated`, or the verdict alone."""
    return row.verdict if pd.isna(row.measured) else f"{measured(row)}, {row.verdict}"


def page(reference: Path) -> str:
    """The whole README.md of `reference`."""
    known = runs(reference)
    claims = {name: run.claims.set_index("id", drop=False) for name, run in known.items()}
    order = list(dict.fromkeys(claim for frame in claims.values() for claim in frame.index))
    rows = []
    for claim in order:
        said = next(frame.loc[claim] for frame in claims.values() if claim in frame.index)
        cells = [cell(frame.loc[claim]) if claim in frame.index else "" for frame in claims.values()]
        rows.append([f"`{claim}`", f"{number(said.published)} {said.unit}".strip(), *cells])
    hardware = [f"- `{name}`: {run.origin('throughput').hardware}" for name, run in known.items()]
    links = [f"[`{name}`]({name}/claims.md)" for name in known]
    return HEAD + "\n".join(hardware) + "\n\n" + pipe_table(["claim", "published", *links], rows) + "\n"
