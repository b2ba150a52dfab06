"""The ledger: every claim with what each published run measured and its verdict, side by side.

results/reference/README.md        written by `swiftkv publish`

Of a run of served load alone it shows what that measured and leaves the rest blank.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from swiftkv.audit import manifest
from swiftkv.markup import pipe_table
from swiftkv.registry import ALL_FRAMES
from swiftkv.report.claims.report import measured, number
from swiftkv.results import Results

HEAD = """# Committed evidence

A directory per machine, a run in each: result files with their provenance, tables and figures, no models.
`swiftkv verify-results DIR` checks one, `swiftkv compare DIR DIR` tells what differs between two.

Ratios and shares may be compared across machines, times and rates may not. Verdicts are those of `claims.md` in each
run; *not gated* is a number that no verify gates of the same machine, versions and sources stand behind, *too noisy*
one of a machine that differs from itself.

"""


MANIFESTS = """
## Manifests

The sha256 of each run's `MANIFEST.sha256`, which holds those of all its files. `swiftkv verify-results DIR` holds
files, manifest and this list against each other; only a signed tag can show that this list is the one that was
published.

"""


@dataclass(frozen=True)
class Judged:
    """A published run with verdicts: its name as machine/run, what made it, and the frame that holds them."""

    name: str
    results: Results
    frame: str

    @property
    def link(self) -> str:
        """The verdicts with their evidence, seen from the ledger."""
        return f"[`{self.name}`]({self.name}/{ALL_FRAMES[self.frame].path.removesuffix('.csv')}.md)"

    @property
    def hardware(self) -> str:
        """Of what was timed, else of what was scored or checked."""
        frames = ("throughput", "accuracy", "gates") if self.frame == "claims" else ("served",)
        frame = next((frame for frame in frames if self.results.has(frame)), frames[0])
        return self.results.origin(frame).hardware

    def cells(self) -> dict[str, str]:
        """By claim `1.88 [1.87, 1.88], not gated`, or the verdict alone."""
        rows = self.results.frame(self.frame)
        if self.frame != "claims":
            rows = rows[rows.measured.notna()]
        return {
            row.id: row.verdict if pd.isna(row.measured) else f"{measured(row)}, {row.verdict}"
            for row in rows.itertuples()
        }


def runs(reference: Path) -> list[Judged]:
    """The runs below `reference` that have verdicts; those of served load come last."""
    judged = []
    for frame in ("claims", "served_claims"):
        file = ALL_FRAMES[frame].path
        for path in sorted(reference.glob(f"*/*/{file}")):
            directory = Path(str(path).removesuffix(file))
            name = directory.relative_to(reference).as_posix()
            judged.append(Judged(name, Results(directory.name, directory), frame))
    return judged


def page(reference: Path) -> str:
    """The whole README.md of `reference`."""
    known = runs(reference)
    claims = pd.concat([run.results.frame(run.frame) for run in known]).drop_duplicates("id")
    cells = [run.cells() for run in known]
    rows = [
        [f"`{row.id}`", f"{number(row.published)} {row.unit}".strip(), *(of_run.get(row.id, "") for of_run in cells)]
        for row in claims.itertuples()
    ]
    hardware = [f"- `{run.name}`: {run.hardware}" for run in known]
    table = pipe_table(["claim", "published", *(run.link for run in known)], rows)
    text = HEAD + "\n".join(hardware) + "\n\n" + table + "\n"
    return text + MANIFESTS + listed if (listed := manifest.table(reference)) else text
