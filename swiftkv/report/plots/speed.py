"""fig-throughput, fig-accuracy-speedup and fig-latency: what SwiftKV gains, and at what price."""

from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from swiftkv.config import BASE_ARM, UNDISTILLED, RunConfig
from swiftkv.errors import UserError
from swiftkv.report.plots.style import (
    CONTROL_LABELS,
    GREY,
    HATCHES,
    Figure,
    arm_colours,
    arm_labels,
    arm_marker,
    controls_of,
    footer,
    interval_note,
    known_arms,
    legend,
    milliseconds,
    new,
)
from swiftkv.results import Results, published

RATIO_POINT = "ratio-10to1"
MEAN_SCORE = "mean"


def whiskers(frame: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    """Distances [2, rows] from the value down to the CI's low end and up to its high end, for errorbar."""
    return np.maximum(0, [frame[value] - frame[low], frame[high] - frame[value]])


def gain_panel(axes: Axes, rows: pd.DataFrame, controls: pd.DataFrame, colours: dict[str, str]) -> None:
    """Speed-up bars of one workload with CIs, and the compute limit as a line above each bar; controls apart."""
    positions = np.arange(len(rows))
    axes.bar(positions, rows.speedup, 0.72, color=[colours[arm] for arm in rows.arm], edgecolor="black", linewidth=0.5)
    axes.hlines(rows.limit, positions - 0.44, positions + 0.44, color="black", linewidth=1.8)
    apart = len(rows) + 0.5 + np.arange(len(controls))
    hatches = [HATCHES[arm] for arm in controls.arm]
    axes.bar(apart, controls.speedup, 0.72, color="white", hatch=hatches, edgecolor=GREY, linewidth=0.5)
    rows, positions = pd.concat([rows, controls]), np.concatenate([positions, apart])
    errors = whiskers(rows, "speedup", "ci_low", "ci_high")
    axes.errorbar(positions, rows.speedup, errors, fmt="none", ecolor="black", elinewidth=0.9, capsize=2.5)
    # At the foot of its bar, where a value cannot be read as that of the limit.
    for position, value in zip(positions, rows.speedup, strict=True):
        box = {"fc": "white", "ec": "none", "pad": 1.2}
        axes.text(position, 0.06, f"{value:.2f}", ha="center", va="bottom", fontsize=7.5, bbox=box)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_xticks([])
    axes.grid(axis="x", visible=False)
    first = rows.iloc[0]
    axes.set_title(
        f"{first.point}\n{first.input_len}:{first.output_len} tokens, {first.num_requests} requests", fontsize=8
    )


def throughput(config: RunConfig, results: Results) -> Figure:
    """Speed-up over the base per workload and student (95% CI), against the limit of the FLOPs model."""
    frame, labels, colours = known_arms(results, "throughput", config), arm_labels(config), arm_colours(config)
    frame, controls = frame[frame.arm != BASE_ARM], controls_of(results, "throughput")
    points = list(frame.point.unique())
    columns = min(len(points), 4)
    rows = ceil(len(points) / columns)
    figure, panels = new(rows, columns, 1.3 + 2.4 * rows, sharey=True)
    for axes, point in zip(panels, points, strict=False):
        gain_panel(axes, frame[frame.point == point], controls[controls.point == point], colours)
    for axes in panels[len(points) :]:
        axes.set_visible(False)
    top = 1.15 * max(frame.limit.max(), frame.ci_high.max())
    for axes in panels[::columns]:
        axes.set(ylabel="throughput relative to the base", ylim=(0, top))
    arms = list(frame.arm.unique())
    handles = [Patch(facecolor=colours[arm], edgecolor="black", linewidth=0.5, label=labels[arm]) for arm in arms]
    handles.append(Line2D([], [], color="black", linewidth=1.8, label="compute limit"))
    handles += [
        Patch(facecolor="white", hatch=HATCHES[arm], edgecolor=GREY, linewidth=0.5, label=CONTROL_LABELS[arm])
        for arm in controls.arm.unique()
    ]
    columns = len(handles) if controls.empty else -(-len(handles) // 2)
    legend(figure, handles, columns, columnspacing=1.0, handlelength=1.3)
    repeats = int(frame.repeats.min())
    note = f"Whiskers: {interval_note(frame)} over {repeats} or more interleaved repeats."
    footer(figure, results.origin("throughput"), note)
    return figure


def speed_and_score(config: RunConfig, results: Results) -> pd.DataFrame:
    """Mean retention joined with the speed-up at 10:1; an undistilled control runs at its variant's speed."""
    speed = known_arms(results, "throughput", config).query("point == @RATIO_POINT")
    if speed.empty:
        raise UserError(f"{results.path('throughput')}: no rows of point {RATIO_POINT}")
    speed = speed.set_index("arm")[["speedup", "ci_low", "ci_high"]].add_prefix("speed_")
    scores = known_arms(results, "accuracy", config).query("task == @MEAN_SCORE").copy()
    scores["runs_as"] = scores.arm.str.removesuffix(UNDISTILLED)
    joined = scores.join(speed, on="runs_as", how="inner")
    joined["kept"] = 100 * joined.score / joined.base_score
    joined["kept_low"] = 100 * (1 + joined.ci_low / joined.base_score)
    joined["kept_high"] = 100 * (1 + joined.ci_high / joined.base_score)
    return joined


Interval = tuple[str, str, str]  # columns of a value and of its interval's ends


def scatter(axes: Axes, frame: pd.DataFrame, x: Interval, y: Interval, config: RunConfig, size: float) -> None:
    """One marker with both CIs per arm; hollow if it was not distilled."""
    for _, row in frame.iterrows():
        one = row.to_frame().T
        xerr, yerr = (whiskers(one, *columns).astype(float) for columns in (x, y))
        style = {"markersize": size, "elinewidth": 0.9, "capsize": 2, **arm_marker(config, row.arm)}
        axes.errorbar(row[x[0]], row[y[0]], xerr=xerr, yerr=yerr, **style)


def accuracy_speedup(config: RunConfig, results: Results) -> Figure:
    """Accuracy kept (mean over tasks) against the speed-up at 10:1: all models, then distilled ones enlarged."""
    frame, labels = speed_and_score(config, results), arm_labels(config)
    figure, (whole, zoom) = new(1, 2, 3.6, sharex=True)
    x, y = ("speed_speedup", "speed_ci_low", "speed_ci_high"), ("kept", "kept_low", "kept_high")
    scatter(whole, frame, x, y, config, 8)
    scatter(zoom, frame[~frame.arm.str.endswith(UNDISTILLED)], x, y, config, 8)
    for axes, title in ((whole, "all models"), (zoom, "distilled students, enlarged")):
        axes.axhline(100, color=GREY, linewidth=0.8, zorder=0)
        axes.set(title=title, xlabel="throughput at 10:1 relative to the base")
    whole.set(ylabel="accuracy kept, % of the base", ylim=(0, 108))
    handles = [Line2D([], [], label=labels[arm], markersize=7, **arm_marker(config, arm)) for arm in frame.arm]
    legend(figure, handles, columns=4)
    footer(figure, results.origin("accuracy"), "Whiskers: 95% CIs. Mean over the tasks, greedy generation.")
    return figure


def ratio_panel(axes: Axes, rows: pd.DataFrame, value: str, low: str, high: str, config: RunConfig) -> None:
    """One marker with its CI per arm, and the base as a line at 1."""
    for position, (_, row) in enumerate(rows.iterrows()):
        one = row.to_frame().T
        errors = whiskers(one, value, low, high).astype(float)
        look = {"color": "white", "marker": "o", "linestyle": "", "markeredgecolor": "black"}
        look |= {} if row.arm in CONTROL_LABELS else arm_marker(config, row.arm)
        axes.errorbar(row[value], position, xerr=errors, markersize=7, capsize=3, ecolor="black", elinewidth=1, **look)
        axes.annotate(f"{row[value]:.3f}", (row[value], position), xytext=(0, 7), textcoords="offset points",
                      ha="center", fontsize=7, bbox={"fc": "white", "ec": "none", "pad": 0.6})  # fmt: skip
    axes.axvline(1, color=GREY, linewidth=1, zorder=0)
    axes.margins(x=0.14)  # room for the numbers at either end


def published_band(axes: Axes, kind: str) -> None:
    """Shade what Snowflake's own benchmark runs gave at concurrency 1 (Llama-3.1-8B FP8, 50% skipped)."""
    values = [float(published().value[f"{run}-8b-skip50-{kind}-ratio"]) for run in ("ci-2025-07", "ci-2025-10")]
    axes.axvspan(min(values), max(values), color="#CC79A7", alpha=0.25, linewidth=0)


def latency(config: RunConfig, results: Results) -> Figure:
    """TTFT and TPOT of one request at a time, relative to the base, with 95% CIs."""
    frame, controls = known_arms(results, "latency", config), controls_of(results, "latency")
    labels = arm_labels(config) | CONTROL_LABELS
    base = frame[frame.arm == BASE_ARM].iloc[0]
    rows = pd.concat([frame[frame.arm != BASE_ARM], controls])
    figure, (first, later) = new(1, 2, 3.4 + 0.3 * len(controls), sharey=True)
    ratio_panel(first, rows, "ttft_ratio", "ttft_ci_low", "ttft_ci_high", config)
    ratio_panel(later, rows, "tpot_ratio", "ci_low", "ci_high", config)
    for axes in (first, later) if len(controls) else ():
        axes.axhline(len(rows) - len(controls) - 0.5, color=GREY, linewidth=0.6, linestyle="--")
    published_band(first, "ttft")
    published_band(later, "tpot")
    first.set_yticks(range(len(rows)), [labels[arm] for arm in rows.arm])
    first.set_ylim(len(rows) - 0.4, -0.7)
    first.set(title=f"time to first token (base {milliseconds(base.ttft_median_s)})", xlabel="relative to the base")
    later.set(title=f"time per output token (base {milliseconds(base.tpot_median_s)})", xlabel="relative to the base")
    for axes in (first, later):
        axes.title.set_fontsize(9)
    band = Patch(color="#CC79A7", alpha=0.25, label="Snowflake's own runs: Llama-3.1-8B FP8, 50% skipped, one request")
    legend(figure, [band])
    point = config.throughput.latency
    note = (
        f"One request at a time, {point.input_len} prompt and {point.output_len} output tokens; {interval_note(rows)}."
    )
    footer(figure, results.origin("latency"), note)
    return figure
