"""The figures of a run on its page."""

from collections.abc import Callable, Iterable

import pandas as pd

from swiftkv.config import BASE_ARM, UNDISTILLED
from swiftkv.report.plots.style import CONTROL_LABELS, PALETTE, interval_note, milliseconds
from swiftkv.report.site.marks import Figure, Look, Looks, intervals, scatter, span
from swiftkv.report.site.runs import SHAPES, VERDICTS, Run

SERVED_QUANTITIES = {"ttft_p50": "time to first token", "tpot_p50": "time per output token"}


def series_looks(run: Run, arms: Iterable[str]) -> Looks:
    return {run.label(arm): run.look(arm) for arm in arms}


def students(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the base, which is what ratios are relative to."""
    return frame[frame.arm != BASE_ARM]


def speedups(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame = students(frame)
    rows = pd.DataFrame(
        {
            "group": [f"{row.point}|{row.input_len}:{row.output_len} tokens" for row in frame.itertuples()],
            "series": frame.arm.map(run.label),
            "value": frame.speedup,
            "low": frame.ci_low,
            "high": frame.ci_high,
            "limit": frame.limit.where(~frame.arm.isin(CONTROL_LABELS)),
            "note": [f"{row.num_requests} requests, {row.repeats} repeats" for row in frame.itertuples()],
        }
    )
    look = Look("throughput relative to the base", bars=True, limit="limit by FLOPs")
    text = (
        f"Bars: total tokens per second relative to the base; {interval_note(frame)}. The tick is the limit by "
        "FLOPs: what saving compute alone could give. Below the name of each point stand prompt and output tokens."
    )
    return intervals("speed-up", "Speed-up", text, rows, look, series_looks(run, frame.arm.unique()))


def latency(run: Run, frame: pd.DataFrame) -> Figure | None:
    base, frame = frame[frame.arm == BASE_ARM].iloc[0], students(frame)
    parts = []
    for name, prefix, title in (("ttft", "ttft_", "time to first token"), ("tpot", "", "time per output token")):
        parts.append(
            pd.DataFrame(
                {
                    "group": title,
                    "series": frame.arm.map(run.label),
                    "value": frame[f"{name}_ratio"],
                    "low": frame[f"{prefix}ci_low"],
                    "high": frame[f"{prefix}ci_high"],
                    "note": [
                        f"{milliseconds(value)}, base {milliseconds(base[f'{name}_median_s'])}"
                        for value in frame[f"{name}_median_s"]
                    ],
                }
            )
        )
    text = f"One request at a time, relative to the base; {interval_note(frame)}. Left of the dashed line is faster."
    look = Look("relative to the base", digits=".3f")
    return intervals("latency", "Latency", text, pd.concat(parts), look, series_looks(run, frame.arm.unique()))


def capacity(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame = students(frame)
    rows = pd.DataFrame(
        {
            "group": "KV tokens",
            "series": frame.arm.map(run.label),
            "value": frame.ratio_to_base,
            "limit": frame.formula_ratio,
            "note": [
                f"{row.capacity_tokens:,.0f} tokens, {row.kv_bytes_per_token:,.0f} bytes each"
                for row in frame.itertuples()
            ],
        }
    )
    text = (
        "Tokens that fit into the same KV memory, as the engine reports them; the tick is the formula. Only AcrossKV, "
        "where late layers share a cache, makes room."
    )
    look = Look("KV tokens relative to the base", bars=True, digits=".3f", limit="formula")
    return intervals("kv-capacity", "KV capacity", text, rows, look, series_looks(run, frame.arm.unique()))


def with_undistilled(
    run: Run, frame: pd.DataFrame, groups: pd.Series, intervals: pd.DataFrame, notes: list[str]
) -> pd.DataFrame:
    """Rows of a figure in which students that were not distilled are pale; `intervals`: value, low and high."""
    rows = intervals.set_axis(["value", "low", "high"], axis="columns")
    pale = frame.arm.str.endswith(UNDISTILLED)
    return rows.assign(group=groups, series=frame.arm.map(run.label), hollow=pale, note=notes)


def accuracy(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame = students(frame)
    notes = [
        f"{row.items} items, {100 * row.score:.1f}%, base {100 * row.base_score:.1f}%" for row in frame.itertuples()
    ]
    groups = frame.task.replace("mean", "mean of the tasks")
    rows = with_undistilled(run, frame, groups, 100 * frame[["difference", "ci_low", "ci_high"]], notes)
    text = "Score less the base's, in percentage points, with 95% intervals; pale where the student was not distilled."
    look = Look("points more than the base", reference=0, digits=".1f")
    return intervals("accuracy", "Accuracy", text, rows, look, series_looks(run, frame.arm.unique()))


def divergence(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame = students(frame)
    frame = frame[frame["mode"] == "answers"]
    if frame.empty:
        return None
    notes = [f"same top token {100 * row.agreement:.1f}%" for row in frame.itertuples()]
    groups = frame["set"].replace("mean", "mean of the sets")
    rows = with_undistilled(run, frame, groups, frame[["kl", "kl_ci_low", "kl_ci_high"]], notes)
    text = (
        "KL divergence from the base at the answers of published texts, behind a prompt that leaves at the cut, with "
        "95% intervals; 0 is the base. Pale where the student was not distilled."
    )
    look = Look("KL(base || student), nats per token", reference=0, digits=".3f")
    return intervals("divergence", "Divergence", text, rows, look, series_looks(run, frame.arm.unique()))


def load(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame, parts, colours = students(frame), [], {}
    for number, (quantity, title) in enumerate(SERVED_QUANTITIES.items()):
        for arm in frame.arm.unique():
            of_arm, series = frame[frame.arm == arm], f"{run.label(arm)}: {title}"
            colours[series] = (run.look(arm)[0] if number == 0 else PALETTE[5], list(SHAPES.values())[number])
            parts.append(
                pd.DataFrame(
                    {
                        "group": [f"{row.point}|{row.load:g} {row.load_unit}" for row in of_arm.itertuples()],
                        "series": series,
                        "value": of_arm[f"{quantity}_ratio"],
                        "low": of_arm[f"{quantity}_ci_low"],
                        "high": of_arm[f"{quantity}_ci_high"],
                    }
                )
            )
    text = "Servers under load: medians relative to the base's at the same load, with 95% intervals."
    rows = pd.concat(parts).dropna(subset="value")
    return intervals("load", "Under load", text, rows, Look("relative to the base"), colours)


def predicted(run: Run, frame: pd.DataFrame) -> Figure | None:
    frame = frame.assign(
        series=frame.arm.map(run.label),
        off=[f"{100 * error:+.1f}%" for error in frame.error],
        interval=[span(row.ci_low, row.ci_high, ".2f") for row in frame.itertuples()],
        shown=[f"{value:.3f}" for value in frame.measured],
        wanted=[f"{value:.3f}" for value in frame.predicted],
    )
    columns = {"point": "point", "series": "of", "quantity": "quantity", "shown": "measured"}
    columns |= {"interval": "95% interval", "wanted": "predicted", "off": "error"}
    x, y = ("measured", "measured, relative to the base"), ("predicted", "predicted")
    spec = scatter(frame, x, y, columns, series_looks(run, frame.arm.unique()))
    off = frame.error.abs()
    text = (
        "Speed-ups and latency ratios of students, predicted by the roofline model from times of the base alone. "
        f"{len(off)} ratios, off by {100 * off.median():.1f}% in the median and {100 * off.max():.1f}% at worst."
    )
    return Figure(
        "predictions",
        "Predicted and measured",
        text,
        spec,
        list(columns.values()),
        frame[list(columns)].values.tolist(),
    )


MADE_OF: dict[
    str, tuple[Callable[[Run, pd.DataFrame], Figure | None], str]
] = {  # frame -> the figure of it, what it is called
    "throughput": (speedups, "throughput"),
    "latency": (latency, "latency"),
    "kv_capacity": (capacity, "KV capacity"),
    "accuracy": (accuracy, "accuracy"),
    "divergence": (divergence, "divergence from the base"),
    "served": (load, "load"),
    "predictions": (predicted, "predictions"),
}


def of_run(run: Run) -> tuple[list[Figure], list[str]]:
    """The figures of a run, and in words what it has no results for."""
    figures, missing = [], []
    for key, (make, name) in MADE_OF.items():
        frame = run.frame(key)
        if frame is not None and (figure := make(run, frame)):
            figures.append(figure)
        else:
            missing.append(f"{name} ({run.lack(key)})" if run.results.has(key) and run.lack(key) else name)
    missing += [f"verdicts ({run.lack(name)})" for name in VERDICTS if run.results.has(name) and run.lack(name)]
    return figures, missing
