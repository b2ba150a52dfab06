"""The verdicts of a page: every claim, and below it what each run found, with its evidence and its files."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from swiftkv.report.claims import read_claims, report
from swiftkv.report.claims.report import measured, number
from swiftkv.report.site.runs import VERDICTS, Run

AREAS = {  # what a claim's metric reads -> what it is about
    "trace_ratio": "workloads",
    "trace_prompt": "workloads",
    "throughput": "throughput",
    "latency": "latency",
    "sustained_load": "latency",
    "most_favourable": "throughput",
    "predicted_gain": "throughput",
    "prefill_compute": "compute",
    "gates_passed": "correctness",
    "retention": "accuracy",
    "accuracy": "accuracy",
    "gap_recovered": "distillation",
    "parameters": "distillation",
    "kv_reduction": "memory",
    "late_similarity": "model",
    "none": "not measured here",
}


def area(metric: dict) -> str:
    """What a claim is about, by what its metric reads: a frame of the results, or the metric's own kind."""
    return AREAS.get(metric.get("frame", metric["kind"]), "other")


@dataclass(frozen=True)
class Finding:
    """What one run found on one claim."""

    run: Run
    measured: str
    verdict: str
    evidence: Markup
    hardware: str


@dataclass(frozen=True)
class Claim:
    """A published claim with the findings of all runs that judged it."""

    id: str
    statement: str
    source: str
    published: str
    area: str
    findings: tuple[Finding, ...]


def linked(text: str, run: Run, page: Path) -> Markup:
    """Evidence in which every result file that is there is a link, as seen from the directory `page`."""
    ours = re.escape(f"results/{run.results.scale}/")
    parts = re.split(rf"({ours}[\w./*-]*\w)", text)
    shown = []
    for part in parts:
        file = run.results.directory / part.removeprefix(f"results/{run.results.scale}/")
        if part.startswith(f"results/{run.results.scale}/") and file.is_file():
            target = Path(os.path.relpath(file, page)).as_posix()
            shown.append(Markup('<a href="{}"><code>{}</code></a>').format(target, part))
        else:
            shown.append(escape(part))
    return Markup("").join(shown)


def of_run(run: Run) -> pd.DataFrame:
    """The verdicts of a run; what only its served load can judge is taken from there. Empty if it has none."""
    frames = [run.frame(name) for name in VERDICTS]
    found = [frame for frame in frames if frame is not None]
    if not found:
        return pd.DataFrame()
    if frames[0] is None:  # a run of served load alone says of all else that it is not measured
        return found[0][found[0].measured.notna()]
    return found[0]


def tally(run: Run) -> str:
    """`9 reproduced, 3 partly`; empty for a run without verdicts."""
    frame = of_run(run)
    return "" if frame.empty else report.tally(frame)


def claims(runs: list[Run], page: Path) -> list[Claim]:
    """Every claim that a run judged, in the order of the claims file; those that it no longer holds come last."""
    frames = {run: of_run(run) for run in runs}
    areas = {claim["id"]: area(claim["metric"]) for claim in read_claims()}
    rows = [row for frame in frames.values() for row in frame.itertuples()]
    first = {row.id: row for row in reversed(rows)}
    made = []
    for name in [*(name for name in areas if name in first), *(name for name in first if name not in areas)]:
        findings = [
            Finding(run, measured(row), row.verdict, linked(row.evidence, run, page), text(row.hardware))
            for run, frame in frames.items()
            for row in frame.itertuples()
            if row.id == name
        ]
        row = first[name]
        made.append(Claim(name, row.statement, row.source, with_unit(row), areas.get(name, "other"), tuple(findings)))
    return made


def with_unit(row) -> str:
    """What was published: `2 x`, `10:1`, `50.99% of base`; nothing of a curve without readable values."""
    if pd.isna(row.published):
        return ""
    unit = text(row.unit)
    return f"{number(row.published)}{'' if unit.startswith((':', '%')) else ' '}{unit}".strip()


def text(value) -> str:
    """A cell as text; empty for a missing one."""
    return "" if pd.isna(value) else str(value)
