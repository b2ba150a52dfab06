"""Tables with stable ids, each as CSV (numbers), Markdown and LaTeX (\\label = id; `swiftkv.report.latex`).

    swiftkv.report.tables.write_all(config, "results/cpu/tables")

A table is a frame of numbers for the CSV and a frame of text for readers, with 95% CIs in brackets. Its caption ends
with its id (`swiftkv.report.exhibits`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.config.measuring import CONTROLS
from swiftkv.markup import pipe_table, with_interval
from swiftkv.provenance import Provenance
from swiftkv.registry import shown_in
from swiftkv.report import exhibits, latex, layouts
from swiftkv.report.gain_loss import gains_and_losses
from swiftkv.results import Origin, Results, load, published

TABLE_1 = {0.0: "base", 0.25: "skip25", 0.5: "skip50"}  # share of layers skipped -> its row in published.csv
ALL_TABLES = "tables.tex"
DIGITS = 6  # significant digits of the numbers in the CSV


@dataclass(frozen=True)
class Table:
    """One table: `numbers` goes to the CSV, `text` (strings only) to Markdown and LaTeX."""

    caption: str
    numbers: pd.DataFrame
    text: pd.DataFrame
    hardware: str | None = None  # where the numbers are from, if they are not all from one machine


def with_ci(frame: pd.DataFrame, value: str, low: str, high: str, digits: int = 2, factor: float = 1) -> pd.Series:
    """`1.59 [1.55, 1.62]` per row; the bare value where the row is its own reference (low = high)."""

    def one(row) -> str:
        ends = [None if row[low] == row[high] else factor * row[end] for end in (low, high)]
        return with_interval(factor * row[value], ends[0], ends[1], f".{digits}f")

    return frame.apply(one, axis=1)


def formatted(series: pd.Series, pattern: str) -> pd.Series:
    """Each value through a format pattern; a missing value becomes an empty string."""
    return series.map(lambda value: "" if pd.isna(value) else pattern.format(value))


def with_controls(arms: pd.Series) -> pd.Series:
    """Names of arms, with what the controls among them are."""
    return arms.where(~arms.isin(CONTROLS), arms + " (control)")


def throughput(results: Results) -> Table:
    frame = results.throughput
    text = pd.DataFrame(
        {
            "point": frame.point,
            "prompt:output": [f"{i}:{o}" for i, o in zip(frame.input_len, frame.output_len, strict=True)],
            "model": with_controls(frame.arm),
            "tokens/s": formatted(frame.total_tokens_per_s_median, "{:,.0f}"),
            "speed-up [95% CI]": with_ci(frame, "speedup", "ci_low", "ci_high"),
            "compute limit": formatted(frame.limit, "{:.2f}"),
            "share of limit": formatted(frame.share_of_limit, "{:.0%}"),
            "TTFT p50 (s)": formatted(frame.ttft_p50_s, "{:.3g}"),
        }
    )
    return Table("Total throughput per workload, and speed-up over the base model", frame, text)


def tasks_where(frame: pd.DataFrame, chosen: pd.Series) -> pd.Series:
    """The chosen rows' tasks per arm, `sql, rag`; no entry for an arm without any."""
    return frame[chosen & (frame.task != "mean")].groupby("arm").task.agg(", ".join)


def accuracy(results: Results) -> Table:
    frame = results.accuracy
    frame["recovered"] = 100 * frame.retention
    tasks = [*(task for task in frame.task.unique() if task != "mean"), "mean"]
    arms = frame.arm.unique()
    scores = frame.pivot(index="arm", columns="task", values="score").loc[arms, tasks]
    mean = frame[frame.task == "mean"].set_index("arm").loc[arms]
    text = scores.map(lambda score: f"{100 * score:.1f}")
    text["difference of the mean [95% CI]"] = with_ci(mean, "difference", "ci_low", "ci_high", digits=1, factor=100)
    text["% of base"] = formatted(mean.recovered, "{:.1f}")
    text["retained"] = mean.retained
    text["tasks that lose (Holm, 5%)"] = tasks_where(frame, (frame.p_holm < 0.05) & (frame.difference < 0))
    text["answer length"] = formatted(mean.length_ratio, "{:.2f}")
    text["too short in"] = tasks_where(frame, ~frame.length_ok.astype(bool))
    caption = "Scores in percent per task; difference of the mean to the base in points"
    return Table(caption, frame.drop(columns="recovered"), text.rename_axis(None, axis=1).reset_index(names="model"))


def compute(results: Results) -> Table:
    frame, keys = results.compute, ["model", "counting", "context", "arm"]
    wide = frame.pivot_table(index=keys, columns="part", values="gflops_per_prompt_token", sort=False)
    parts = [*(part for part in frame.part.unique() if part != "total"), "total"]
    total = frame[frame.part == "total"].set_index(keys).relative_to_base
    text = wide[parts].map(lambda value: f"{value:.3g}")
    text["% of base"] = formatted(100 * total.loc[wide.index], "{:.1f}")
    caption = "Prefill compute in GFLOPs per prompt token by part (computed, exactly or as the paper's Table 1)"
    return Table(
        caption,
        beside_published(frame),
        text.rename_axis(None, axis=1).reset_index().rename(columns={"arm": "variant"}),
    )


def beside_published(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with `published_gflops`: what the paper's Table 1 prints for the same model and variant, if it does."""
    values = published().value
    printed = {skip: float(values[f"paper-70b-{name}-prefill-compute"]) for skip, name in TABLE_1.items()}
    own_caches = frame.arm.isin(frame[(frame.part == "kv") & (frame.relative_to_base == 1)].arm)
    same = (frame.model == "Llama-3.1-70B") & (frame.counting == "paper") & (frame.part == "total") & own_caches
    return frame.assign(published_gflops=frame.skip.map(printed).where(same))


def kv(results: Results) -> Table:
    frame = results.kv_capacity
    text = pd.DataFrame(
        {
            "model": with_controls(frame.arm),
            "KV caches": formatted(frame.kv_caches, "{:.0f}"),
            "bytes per token": formatted(frame.kv_bytes_per_token, "{:,.0f}"),
            "capacity (tokens)": formatted(frame.capacity_tokens, "{:,.0f}"),
            "capacity/base": formatted(frame.ratio_to_base, "{:.4f}"),
            "formula": formatted(frame.formula_ratio, "{:.4f}"),
        }
    )
    return Table("KV-cache memory per token and token capacity, as the engine reports them", frame, text)


def latency(results: Results) -> Table:
    frame = results.latency
    text = pd.DataFrame(
        {
            "model": with_controls(frame.arm),
            "TTFT (ms)": formatted(1000 * frame.ttft_median_s, "{:.3g}"),
            "TTFT/base [95% CI]": with_ci(frame, "ttft_ratio", "ttft_ci_low", "ttft_ci_high", digits=3),
            "TPOT (ms)": formatted(1000 * frame.tpot_median_s, "{:.3g}"),
            "TPOT/base [95% CI]": with_ci(frame, "tpot_ratio", "ci_low", "ci_high", digits=3),
            "rounds": formatted(frame.rounds, "{:.0f}"),
        }
    )
    return Table("Latency of one request at a time: time to first token and time per output token", frame, text)


def lengths(results: Results) -> Table:
    frame = results.lengths
    text = pd.DataFrame(
        {
            "workload": frame.workload,
            "lengths from": frame.source,
            "requests": formatted(frame.requests, "{:,.0f}"),
            "prompt mean (p50, p99)": spread(frame, "prompt"),
            "output mean (p50, p99)": spread(frame, "output"),
            "ratio of means": formatted(frame.ratio_of_means, "{:.1f}"),
            "median ratio": formatted(frame.median_ratio, "{:.1f}"),
            "requests at 10:1 or more": formatted(100 * frame.share_ratio_ge10, "{:.0f}%"),
        }
    )
    return Table("Prompt and output tokens per request, and their ratio", frame, text)


def divergence(results: Results) -> Table:
    frame = results.divergence
    students = frame[frame.arm != BASE_ARM]
    full, answers = (students[students["mode"] == mode].set_index(["arm", "set"]) for mode in ("full", "answers"))
    answers = answers.loc[full.index]
    text = pd.DataFrame(
        {
            "perplexity": formatted(full.perplexity, "{:.4g}"),
            "base": formatted(full.base_perplexity, "{:.4g}"),
            "KL [95% CI]": with_ci(full, "kl", "kl_ci_low", "kl_ci_high", digits=3),
            "KL, answers": with_ci(answers, "kl", "kl_ci_low", "kl_ci_high", digits=3),
            "same top token": percent_with_ci(full),
            "same top token, answers": percent_with_ci(answers),
            "NLL difference": with_ci(full, "nll_difference", "nll_ci_low", "nll_ci_high", digits=3),
            "detectable": formatted(full.detectable_nll_difference, "{:.3f}"),
            "documents (cut)": [f"{row.documents} ({row.cut})" for row in full.itertuples()],
            "tokens": formatted(full.tokens, "{:,.0f}"),
        }
    )
    caption = (
        "Published texts, teacher-forced: perplexity, KL(base || student) and difference of negative log-likelihoods "
        "in nats per token, positions with the base's most likely token in percent. Every token through every layer; "
        "answers behind a prompt that leaves at the cut"
    )
    return Table(caption, frame, text.reset_index().rename(columns={"arm": "model"}))


def gain_loss(results: Results) -> Table:
    frame = gains_and_losses(results)
    named = {"prompts alone": "prompt_only", "10:1": "ratio_10to1"}
    text = pd.DataFrame({"model": frame.arm})
    for title, name in named.items():
        text[f"{title} [95% CI]"] = with_ci(frame, name, f"{name}_ci_low", f"{name}_ci_high")
    text["TTFT/base"] = formatted(frame.ttft_ratio, "{:.3f}")
    text["TPOT/base"] = formatted(frame.tpot_ratio, "{:.3f}")
    text["KV tokens/base"] = formatted(frame.kv_tokens_ratio, "{:.3f}")
    text["score, points [95% CI]"] = with_ci(frame, "score_change", "score_ci_low", "score_ci_high", 1, 100)
    text["KL [95% CI]"] = with_ci(frame, "kl", "kl_ci_low", "kl_ci_high", 3)
    text["same top token"] = formatted(100 * frame.agreement, "{:.1f}%")
    text["perplexity/base"] = formatted(frame.perplexity_ratio, "{:.3f}")
    caption = (
        "What every student gains and loses: throughput, latency and KV memory relative to the base; score of the "
        "tasks less the base's; divergence from the base at the answers of published texts behind an early-exit prompt"
    )
    return Table(caption, frame, text)


def percent_with_ci(frame: pd.DataFrame) -> pd.Series:
    return with_ci(frame, "agreement", "agreement_ci_low", "agreement_ci_high", digits=1, factor=100)


def spread(frame: pd.DataFrame, what: str) -> list[str]:
    columns = zip(*(frame[f"{what}_{name}"] for name in ("mean", "p50", "p99")), strict=True)
    return [f"{mean:,.0f} ({median:,.0f}, {high:,.0f})" for mean, median, high in columns]


def claims(results: Results) -> Table:
    from swiftkv.report.claims.report import measured, number

    frame = results.claims
    text = pd.DataFrame(
        {
            "claim": frame.id,
            "statement": frame.statement,
            "published": formatted(frame.published, "{:.4g}").where(
                frame.published.abs() < 1000, frame.published.map(number)
            ),
            "measured [95% CI]": [measured(row) for row in frame.itertuples()],
            "unit": frame.unit,
            "verdict": frame.verdict,
        }
    )
    caption = "Published claims and what this run says about them"
    machines = [name for name in frame.hardware.dropna().unique() if not name.startswith("none")]
    return Table(caption, frame, text, hardware="; ".join(machines) or None)


def is_numeric(column: pd.Series) -> bool:
    """Whether every filled cell starts with a number, so that the column is set flush right."""
    return bool(column[column != ""].str.match(r"^-?[\d.,]+(%| \[.*\]| \(.*\))?$").all())


def markdown(table: Table, caption: str) -> str:
    """A pipe table under its caption."""
    rules = ["---:" if is_numeric(table.text[name]) else "---" for name in table.text]
    return f"{caption}\n\n{pipe_table(list(table.text.columns), table.text.values, rules, tight=True)}\n"


def files_of(names: Iterable[str], out_dir: str | Path) -> list[Path]:
    """The files of tables: CSV, Markdown and LaTeX of each."""
    return [Path(out_dir) / f"{name}{suffix}" for name in names for suffix in (".csv", ".md", ".tex")]


def write_one(results: Results, name: str, out_dir: str | Path) -> None:
    """Write a table of the results in its three formats. Raises UserError naming the result file that is missing."""
    write(exhibits.ALL[name].maker(results), results.origin(shown_in(name)[0].name), name, out_dir)


def write(table: Table, origin: Origin, name: str, out_dir: str | Path) -> None:
    """Write a table in its three formats, with where it is from in the caption."""
    text = table.text.fillna("").astype(str)
    table = replace(table, text=text)
    random = " Benchmark model with random weights." if origin.weights == "dummy" else ""
    where = f"Scale {origin.scale}; {table.hardware or origin.hardware}; git {origin.git}; {name}."
    caption = f"{table.caption}.{random} {where}"
    numbers = table.numbers.to_csv(index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    for path, content in zip(
        files_of([name], out_dir),
        (numbers, markdown(table, caption), latex.table(text, caption, name, layouts.of(name))),
        strict=True,
    ):
        files.write_text(path, content)


def write_all(config: RunConfig, out_dir: str | Path, root: str | Path = "results", partial: bool = False) -> None:
    """Write every table of the pipeline from `root/<scale>`, tables.tex (all of them), and one provenance file.

    Raises UserError for a missing result file; `partial` leaves such tables out.
    """
    results = load(config.scale, root)
    names = exhibits.of(config, exhibits.TABLES)
    inputs = [results.path(file.name) for name in names for file in shown_in(name)]
    written = [*files_of(names, out_dir), Path(out_dir) / ALL_TABLES]
    with Provenance("tables", config, inputs=inputs, out=written) as provenance:
        made = exhibits.make(names, lambda name: write_one(results, name, out_dir), partial)
        files.write_text(Path(out_dir) / ALL_TABLES, exhibits.document(made))
        provenance.record["ids"] = made
        provenance.save(Path(out_dir) / "tables")
