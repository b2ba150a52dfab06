"""tab-protocol: accuracy by model and variant on the paper's protocol, laid out as in the announcement, with every
published row below those of this run."""

from pathlib import Path

import pandas as pd

from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.evals.paper_tasks import WHOLE, paper_tasks
from swiftkv.evals.protocol_summary import MEAN, MEAN_METRIC, method_of, model_name
from swiftkv.provenance import Provenance
from swiftkv.report import exhibits, tables
from swiftkv.report.tables import Table, formatted, with_ci
from swiftkv.results import Results, load, published

TABLE = "tab-protocol"
KEYS = ["model", "method", "skip_percent", "acrosskv_ways"]
ORDER = ["model", "skip_percent", "acrosskv_ways", "method"]
BASELINES = ("baseline", "baseline FP8")


def label(method: str, skip: float, ways: float) -> str:
    """`50%`, `50%, AcrossKV 4-way`, `50%, no distillation`; `base` where nothing is skipped."""
    if not skip:
        return "base"
    words = method.replace("SwiftKV", "").replace("+AcrossKV", "").strip()
    across = f"AcrossKV {ways:.0f}-way" if ways > 1 else ""
    return ", ".join(filter(None, (f"{skip:g}%", across, words)))


def published_rows() -> pd.DataFrame:
    """One row per published model and variant, in percent: scores by task, and the mean's difference to its base."""
    metrics = {task.published: task.name for task in paper_tasks().values() if task.seven} | {MEAN_METRIC: MEAN}
    rows = published()
    rows = rows[rows.metric.isin(metrics)].assign(
        task=lambda rows: rows.metric.map(metrics),
        score=lambda rows: pd.to_numeric(rows.value),
        skip_percent=lambda rows: pd.to_numeric(rows.skip_percent),
        acrosskv_ways=lambda rows: pd.to_numeric(rows.acrosskv_ways).fillna(1),
    )
    wide = rows.pivot(index=KEYS, columns="task", values="score").reset_index()
    base = wide[wide.method.isin(BASELINES)].set_index("model")[MEAN]
    difference = wide[MEAN] - wide.model.map(base)
    wide["difference"] = difference.where(~wide.method.isin(BASELINES))
    return wide.assign(source="published").sort_values(ORDER, key=natural, ignore_index=True)


def natural(column: pd.Series) -> pd.Series:
    """Models by their size; methods, shares and groups as they are."""
    return column.str.extract(r"(\d+)B")[0].astype(float) if column.name == "model" else column


def own_rows(config: RunConfig, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per scored arm, in percent, from protocol/summary.csv."""
    rows = []
    for arm, its in frame.groupby("arm", sort=False):
        its = its.set_index("task")
        method, skip, ways = method_of(config, arm)
        row = {"model": model_name(config), "method": method, "skip_percent": skip, "acrosskv_ways": ways,
               "source": "this run", "whole": bool((its.coverage.drop(MEAN, errors="ignore") == WHOLE).all()),
               **(100 * its.score).to_dict()}  # fmt: skip
        if arm != BASE_ARM and MEAN in its.index:
            row |= {name: 100 * its[name][MEAN] for name in ("difference", "ci_low", "ci_high")}
        rows.append(row)
    return pd.DataFrame(rows)


def protocol(config: RunConfig, results: Results) -> Table:
    """The table. Raises UserError if the protocol was not run."""
    tasks = [name for name, task in paper_tasks().items() if task.seven]
    rows = pd.concat([own_rows(config, results.frame("protocol")), published_rows()], ignore_index=True)
    rows = rows.reindex(columns=["source", *KEYS, *tasks, MEAN, "difference", "ci_low", "ci_high", "whole"])
    text = rows[["source", "model"]].copy()
    text["variant"] = [label(row.method, row.skip_percent, row.acrosskv_ways) for row in rows.itertuples()]
    for task in (*tasks, MEAN):
        text[task] = formatted(rows[task], "{:.2f}")
    difference = with_ci(rows, "difference", "ci_low", "ci_high")
    text["difference [95% CI]"] = difference.where(rows.difference.notna(), "")
    if not rows.whole.dropna().all():
        text["source"] += rows.whole.map({False: " (parts of the sets)"}).fillna("")
    return Table(
        "Accuracy in percent on the paper's seven tasks; difference of the mean to its base in points", rows, text
    )


def run(config: RunConfig, out_dir: Path, root: str | Path = "results") -> None:
    """Write tab-protocol as CSV, Markdown and LaTeX. Raises UserError naming the result that is missing."""
    results = load(config.scale, root)
    inputs, written = [results.path("protocol")], tables.files_of([TABLE], out_dir)
    ids = {name: exhibits.TEXTS[name] for name in exhibits.PROTOCOL}
    with Provenance("protocol-report", config, inputs=inputs, out=written, ids=ids) as provenance:
        tables.write(protocol(config, results), results.origin("protocol"), TABLE, out_dir)
        provenance.save(out_dir / TABLE)
