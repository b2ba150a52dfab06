"""How a stored result file is made anew from rows that lie beside it: by the code that made it, without measuring.

RECIPES are in the order of the pipeline. What a recipe takes from the file itself (PARTLY) is a measurement, and no
recomputation can vouch for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from swiftkv import costmodel, files
from swiftkv.bench import latency, throughput
from swiftkv.bench.plan import throughput_plan
from swiftkv.bench.served import summary as served
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.evals import accuracy_summary, divergence_summary
from swiftkv.registry import COUNTS, FILES, shown_in
from swiftkv.report import claims as judge
from swiftkv.report import exhibits, tables
from swiftkv.report import served as served_report
from swiftkv.report.claims import report
from swiftkv.results import Results, published, read_rows


@dataclass(frozen=True)
class AuditedRun:
    """A result directory, the configuration it is judged by (None if it kept none), and an empty one to write to."""

    results: Results
    config: RunConfig | None
    scratch: Path

    def rows(self, frame: str) -> list[dict]:
        """The rows of a JSON Lines file, every digit as stored."""
        return files.read_jsonl(self.results.path(frame))


@dataclass(frozen=True)
class Recipe:
    """How a file is made anew, what it is made from (patterns), and whether that takes the configuration."""

    make: Callable[[AuditedRun, Path], None]
    needs: tuple[str, ...]
    configured: bool = True


def measurements(run: AuditedRun, out: Path) -> None:
    """What follows from other cells of a row, and the median TTFT where the requests are kept."""
    ttft: dict[tuple, list[float]] = {}
    for request in run.rows("requests") if run.results.has("requests") else []:
        ttft.setdefault((request["point"], request["arm"], request["repeat"]), []).append(request["ttft_s"])
    rows = []
    for row in run.rows("measurements"):
        count = row["num_requests"] * row.get("batches", 1)
        prompt, output = (row[length] * count for length in ("input_len", "output_len"))
        rate = (prompt + output) / row["elapsed_s"]
        row |= {"prompt_tokens": prompt, "output_tokens": output, "total_tokens_per_s": rate}
        times = ttft.get((row["point"], row["arm"], row["repeat"]))
        rows.append(row | ({"ttft_p50_s": median(times)} if times else {}))
    files.write_jsonl(out, rows)


def interval_of(run: AuditedRun, frame: str) -> str | None:
    """Which interval the stored ratios of a frame have (`stats.RATIO_INTERVALS`): what it says, None if nothing."""
    stored = run.results.frame(frame)
    return stored.interval.iloc[0] if "interval" in stored else None


def summary(run: AuditedRun, out: Path) -> None:
    plan, rows, interval = throughput_plan(run.config), run.rows("measurements"), interval_of(run, "throughput")
    made = throughput.summarise(plan, rows, interval)
    if interval is None:
        made = [row | of_earlier_releases(rows, row, plan.min_seconds) for row in made]
    throughput.write_csv(out, made)


def of_earlier_releases(rows: list[dict], made: dict, min_seconds: float) -> dict:
    """Columns that summaries had when rounds were measured again: how many were, how many measurements were short, and
    a note where the base's rates differ by more than a tenth."""
    own = [row for row in rows if (row["point"], row["arm"]) == (made["point"], made["arm"])]
    return {
        "repeated": sum(row.get("attempt", 0) for row in own),
        "too_short": sum(row["elapsed_s"] < min_seconds for row in own),
        "notes": f"baseline moved {made['base_drift']:.0%} between repeats" if made["base_drift"] > 0.1 else "",
    }


def latency_summary(run: AuditedRun, out: Path) -> None:
    names, seed = throughput_plan(run.config).names, run.config.seed
    made = latency.summarise(run.rows("latency_rounds"), names, seed, interval_of(run, "latency"))
    throughput.write_csv(out, made)


def kv_capacity(run: AuditedRun, out: Path) -> None:
    """The ratios, from the capacities and from the formula."""
    frame, shape = run.results.kv_capacity, run.config.shape
    frame["ratio_to_base"] = frame.capacity_tokens / frame.capacity_tokens[frame.arm == BASE_ARM].iloc[0]
    arms = throughput_plan(run.config).arms
    formula = {arm.name: costmodel.kv_capacity_ratio(shape, arm.cut, arm.group) for arm in arms}
    files.write_text(out, frame.assign(formula_ratio=frame.arm.map(formula)).to_csv(index=False))


def compute(run: AuditedRun, out: Path) -> None:
    costmodel.write_compute(run.config, out)


def parameters(run: AuditedRun, out: Path) -> None:
    """Each arm of the configuration at most once, one base for all of them, and the shares."""
    frame = read_rows(run.results.directory / COUNTS)
    known = frame.arm.isin(run.config.accuracy_arms) & ~frame.arm.duplicated(keep=False)
    frame = frame.assign(arm=frame.arm.where(known, "(no such arm)"), base=int(frame.base.median()))
    files.write_text(out, frame.assign(share=frame.trained / frame.base).to_csv(index=False))


def accuracy(run: AuditedRun, out: Path) -> None:
    folders = {arm: run.results.directory / "accuracy" / arm for arm in run.config.accuracy_arms}
    accuracy_summary.summarise(run.config, folders, out)


def divergence(run: AuditedRun, out: Path) -> None:
    divergence_summary.summarise(run.config, run.results.path("divergence_documents"), out)


def served_summary(run: AuditedRun, out: Path) -> None:
    config = run.config
    interval = interval_of(run, "served")
    throughput.write_csv(out, served.summarise(run.rows("served_rounds"), config.served_arms, config.seed, interval))


def served_saturation(run: AuditedRun, out: Path) -> None:
    config, rows = run.config, run.rows("served_rounds")
    slo, interval = config.served.slo, interval_of(run, "saturation")
    throughput.write_csv(out, served.saturation(rows, config.served_arms, slo, config.seed, interval))


def served_tables(run: AuditedRun, out: Path) -> None:
    served_report.write_tables(run.results, out.parent)


def claims(run: AuditedRun, out: Path) -> None:
    context = judge.ClaimContext(run.config, run.results, published())
    frame = pd.DataFrame([judge.row(claim, context) for claim in judge.read_claims()], columns=judge.COLUMNS)
    files.write_text(out, frame.to_csv(index=False, lineterminator="\n"))


def claims_text(name: str) -> Recipe:
    """The verdicts of frame `name`, to read."""

    def make(run: AuditedRun, out: Path) -> None:
        frame = run.results.frame(name)
        words = frame.select_dtypes(exclude="number").columns
        files.write_text(out, report.markdown(frame.fillna(dict.fromkeys(words, "")), run.results.scale))

    return Recipe(make, (FILES[name].path,), configured=False)


def table(name: str) -> Recipe:
    """A table in any of its formats, which are written together."""

    def make(run: AuditedRun, out: Path) -> None:
        if not out.is_file():
            tables.write_one(run.results, name, out.parent)

    return Recipe(make, tuple(file.path for file in shown_in(name)), configured=False)


def tables_document(run: AuditedRun, out: Path) -> None:
    made = run.results.directory / "tables"  # of a part of the pipeline, some tables
    files.write_text(out, exhibits.document(name for name in exhibits.TABLES if (made / f"{name}.tex").is_file()))


MEASUREMENTS, LATENCY_ROUNDS, KV_CAPACITY, SERVED_ROUNDS = (
    FILES[name].path for name in ("measurements", "latency_rounds", "kv_capacity", "served_rounds")
)
CLAIMS = {name: FILES[name].path for name in ("claims", "served_claims")}
SERVED_SUMMARIES = (FILES["served"].path, FILES["saturation"].path)
RECIPES: dict[str, Recipe] = {
    MEASUREMENTS: Recipe(measurements, (MEASUREMENTS,), configured=False),
    FILES["throughput"].path: Recipe(summary, (MEASUREMENTS,)),
    FILES["latency"].path: Recipe(latency_summary, (LATENCY_ROUNDS,)),
    KV_CAPACITY: Recipe(kv_capacity, (KV_CAPACITY,)),
    FILES["compute"].path: Recipe(compute, ()),
    COUNTS: Recipe(parameters, (COUNTS,)),
    FILES["accuracy"].path: Recipe(accuracy, (FILES["samples"].pattern, FILES["lm_eval"].pattern)),
    FILES["divergence"].path: Recipe(divergence, (FILES["divergence_documents"].path,)),
    FILES["served"].path: Recipe(served_summary, (SERVED_ROUNDS,)),
    FILES["saturation"].path: Recipe(served_saturation, (SERVED_ROUNDS,)),
    **{path: Recipe(claims, ()) for path in CLAIMS.values()},
    **{FILES[f"{name}_text"].path: claims_text(name) for name in CLAIMS},
    **{f"tables/{name}.{form}": table(name) for name in exhibits.TABLES for form in ("csv", "md", "tex")},
    **{
        f"served/{name}.{form}": Recipe(served_tables, SERVED_SUMMARIES, configured=False)
        for name in exhibits.SERVED_TABLES
        for form in ("csv", "md", "tex")
    },
    "tables/tables.tex": Recipe(tables_document, (), configured=False),
}
PARTLY = {
    MEASUREMENTS: "elapsed_s and, without requests.jsonl.gz, ttft_p50_s",
    KV_CAPACITY: "kv_caches, kv_bytes_per_token, capacity_tokens",
    COUNTS: "trained",
}
