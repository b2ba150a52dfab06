"""fig-ratio, fig-map, fig-capacity, fig-prefix, fig-models and fig-prediction: a sweep, beside what was predicted."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.report.plots.speed import whiskers
from swiftkv.report.plots.style import (
    GREY,
    Figure,
    arm_colours,
    arm_handles,
    arm_labels,
    arm_markers,
    footer,
    interval_note,
    known_arms,
    legend,
    new,
)
from swiftkv.results import Results, published

BOUND = {"color": GREY, "linewidth": 0.8, "zorder": 0}
PREDICTED_STYLE, LIMIT_STYLE = {"linestyle": "--", "linewidth": 1.1}, {"linestyle": ":", "linewidth": 1.1}


def joined(config: RunConfig, results: Results) -> pd.DataFrame:
    """Every variant's measured speed-up with its prediction and limit; `kind` is plain, kv or prefix."""
    frame = known_arms(results, "throughput", config)
    keys = ["point", "arm"]
    predicted = results.predictions.query("quantity == 'speedup'").set_index(keys).predicted
    frame = frame[frame.arm != BASE_ARM].join(predicted, on=keys)
    caching = {point.name for point in config.throughput.points if point.prefix_share is not None}
    limited = frame.kv_tokens.notna()
    frame["kind"] = np.select([limited, frame.point.isin(caching)], ["kv", "prefix"], "plain")
    return frame.assign(
        ratio=frame.input_len / frame.output_len,
        group=frame.arm.map({variant.name: variant.key_value_group_size for variant in config.variants}),
        share=frame.cached_len / frame.input_len,
    )


def rows_of(frame: pd.DataFrame, kind: str, results: Results) -> pd.DataFrame:
    """The rows of a kind. Raises UserError if the sweep has none."""
    rows = frame[frame.kind == kind]
    if rows.empty:
        raise UserError(f"{results.path('throughput')}: no point of the kind {kind!r}; is it a sweep's?")
    return rows


def curves(axes: Axes, rows: pd.DataFrame, x: str, config: RunConfig) -> None:
    """Per arm: measured markers with CIs, the prediction dashed, the FLOPs limit dotted."""
    colours, markers = arm_colours(config), arm_markers(config)
    for arm, its in rows.sort_values(x).groupby("arm", sort=False):
        style = {"color": colours[arm]}
        axes.plot(its[x], its.limit, **LIMIT_STYLE, **style)
        axes.plot(its[x], its.predicted, **PREDICTED_STYLE, **style)
        errors = whiskers(its, "speedup", "ci_low", "ci_high")
        axes.errorbar(its[x], its.speedup, errors, fmt=markers[arm], markersize=4.5, elinewidth=0.9, capsize=2,
                      markeredgecolor="black", markeredgewidth=0.5, **style)  # fmt: skip
    axes.axhline(1, **BOUND)


def sweep_legend(figure: Figure, arms: list[str], config: RunConfig, *more: Line2D) -> None:
    """The arms, and what the lines mean."""
    style = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 5.5}
    handles = [*arm_handles(config, arms, **style), Line2D([], [], color=GREY, label="predicted", **PREDICTED_STYLE)]
    handles += more
    rows = 1 + (len(handles) > 5)
    legend(figure, handles, -(-len(handles) // rows), columnspacing=1.2)


def limit_line() -> Line2D:
    return Line2D([], [], color=GREY, label="FLOPs limit", **LIMIT_STYLE)


def ratio(config: RunConfig, results: Results) -> Figure:
    """Speed-up against prompt:output ratio, a panel per prompt length; variants without AcrossKV."""
    rows = rows_of(joined(config, results), "plain", results).query("group == 1")
    lengths = sorted(length for length, its in rows.groupby("input_len") if its.ratio.nunique() > 1)
    figure, panels = new(1, len(lengths), 3.2, sharey=True)
    for axes, length in zip(panels, lengths, strict=True):
        shown = rows[rows.input_len == length]
        curves(axes, shown.sort_values("num_requests").drop_duplicates(["arm", "ratio"], keep="last"), "ratio", config)
        axes.set_xscale("log")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if shown.ratio.min() * 0.8 <= tick <= shown.ratio.max()]
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.set(title=f"prompts of {length:,} tokens", xlabel="prompt:output ratio")
    panels[0].set_ylabel("throughput relative to the base")
    sweep_legend(figure, list(rows.arm.unique()), config, limit_line())
    whisker = f"Whiskers: {interval_note(rows)}."
    footer(figure, results.origin("throughput"), f"{whisker} Predicted from the base's times alone.")
    return figure


def ratio_map(config: RunConfig, results: Results) -> Figure:
    """Heat map of the predicted speed-up by ratio and prompt length, for the variant that skips half or nearest to it;
    measured points lie on it as circles in the same colours."""
    half = min((v for v in config.variants if v.key_value_group_size == 1), key=lambda v: abs(v.skip - 0.5))
    rows = results.prediction_map.query("arm == @half.name")
    seen = joined(config, results).query("kind == 'plain' and arm == @half.name")
    counts = sorted(rows.num_requests.unique())
    figure, panels = new(1, len(counts), 3.7, sharey=True)
    colours = {"cmap": "viridis", "vmin": 1, "vmax": max(rows.speedup.max(), seen.speedup.max())}
    bounds = [*counts[1:], np.inf]
    for axes, count, beyond in zip(panels, counts, bounds, strict=True):
        near = seen[(seen.num_requests >= count) & (seen.num_requests < beyond)]
        mesh = heat(axes, rows[rows.num_requests == count], near, colours)
        plural = "request" if count == 1 else "requests"
        axes.set(title=f"{count} {plural} at once", xlabel="prompt:output ratio")
    panels[0].set_ylabel("prompt tokens")
    figure.colorbar(mesh, ax=panels, label="throughput relative to the base")
    what = "Cells: predicted. Circles: measured, with at least as many requests and fewer than in the next panel."
    footer(figure, results.origin("throughput"), f"{arm_labels(config)[half.name]}. {what}")
    return figure


def heat(axes: Axes, rows: pd.DataFrame, seen: pd.DataFrame, colours: dict):
    """One panel of the map; returns what the colour bar describes."""
    cells = rows.pivot(index="input_len", columns="ratio", values="speedup")
    mesh = axes.pcolormesh(np.arange(cells.shape[1] + 1), np.arange(cells.shape[0] + 1), cells, **colours)
    for (y, x), value in np.ndenumerate(cells):
        axes.text(
            x + 0.5, y + 0.22, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=on_cell(value, colours)
        )
    # Both axes are logarithmic, so positions between cells are interpolated there.
    x = np.interp(np.log(seen.ratio), np.log(cells.columns.astype(float)), np.arange(cells.shape[1]) + 0.5)
    y = np.interp(np.log(seen.input_len), np.log(cells.index.astype(float)), np.arange(cells.shape[0]) + 0.5)
    axes.scatter(x, y + 0.18, c=seen.speedup, s=70, edgecolors="black", linewidths=0.8, zorder=3, **colours)
    axes.set_xticks(np.arange(cells.shape[1]) + 0.5, [f"{value:g}" for value in cells.columns])
    axes.set_yticks(np.arange(cells.shape[0]) + 0.5, [f"{value:,}" for value in cells.index])
    axes.grid(visible=False)
    return mesh


def on_cell(value: float, colours: dict) -> str:
    """Colour of a number on its cell: white on dark cells, black on light ones."""
    return "white" if value < (colours["vmin"] + 2 * colours["vmax"]) / 3 else "black"


def capacity(config: RunConfig, results: Results) -> Figure:
    """Tokens that the KV cache holds against the AcrossKV group size, and what they are worth where memory is short."""
    frame = joined(config, results)
    rows = rows_of(frame, "kv", results)
    skip = {variant.name: variant.skip for variant in config.variants}
    widest = rows[rows.group == rows.group.max()].arm.iloc[0]
    rows = rows[rows.arm.map(skip) == skip[widest]].sort_values("group")
    held = known_arms(results, "kv_capacity", config)
    held = held[held.arm.isin(rows.arm)].assign(group=held.arm.map(rows.set_index("arm").group.to_dict()))
    points = list(rows.point.unique())
    figure, (left, *panels) = new(1, 1 + len(points), 3.2)
    cells(left, held.sort_values("group"))
    for axes, point in zip(panels, points, strict=True):
        by_group = rows[rows.point == point].set_index(rows[rows.point == point].group.astype(str))
        curves_by_group(axes, by_group, config)
        first = by_group.iloc[0]
        asked = f"{first.num_requests} x {first.input_len}:{first.output_len} tokens"
        axes.set_title(f"throughput, {asked},\nbase's KV memory: {first.kv_tokens:,.0f} tokens", fontsize=7.5)
    top = 1.12 * max(rows.ci_high.max(), rows.predicted.max())
    for axes in panels:
        axes.set(xlabel="layers per KV cache", ylim=(0.9, top))
    sweep_legend(figure, list(rows.arm.unique()), config)
    whisker = f"Whiskers: {interval_note(rows)}."
    footer(figure, results.origin("kv_capacity"), f"{whisker} Predicted from the base's times alone.")
    return figure


def cells(axes: Axes, held: pd.DataFrame) -> None:
    """Capacity as engines report it, and by the formula L / (l + (L - l) / n)."""
    names = held.group.astype(int).astype(str)
    axes.bar(names, held.ratio_to_base, width=0.6, color="#BBBBBB", edgecolor="black", linewidth=0.5)
    axes.plot(names, held.formula_ratio, linestyle="", marker="_", markersize=28, color="black")
    for name, ratio_ in zip(names, held.ratio_to_base, strict=True):
        axes.text(name, ratio_ + 0.03, f"{ratio_:.2f}", ha="center", fontsize=7.5)
    axes.set(xlabel="layers per KV cache", ylabel="relative to the base", ylim=(0, 1.12 * held.ratio_to_base.max()))
    axes.set_title("KV capacity in tokens, reported\n(black line: formula)", fontsize=7.5)


def curves_by_group(axes: Axes, rows: pd.DataFrame, config: RunConfig) -> None:
    """Measured markers with CIs per group size, the predictions joined by a dashed line."""
    colours, markers = arm_colours(config), arm_markers(config)
    axes.plot(rows.index, rows.predicted, color=GREY, **PREDICTED_STYLE)
    for name, row in rows.iterrows():
        errors = whiskers(row.to_frame().T, "speedup", "ci_low", "ci_high").astype(float)
        style = {"fmt": markers[row.arm], "color": colours[row.arm], "markersize": 7, "markeredgecolor": "black"}
        axes.errorbar([name], row.speedup, errors, capsize=3, ecolor="black", elinewidth=0.9, **style)
        axes.annotate(
            f"{row.speedup:.2f}", (name, row.speedup), xytext=(9, 0), textcoords="offset points", fontsize=7.5
        )
    axes.margins(x=0.25)


def prefix(config: RunConfig, results: Results) -> Figure:
    """Speed-up against the share of the prompt that the prefix cache holds, in the base, too."""
    rows = rows_of(joined(config, results), "prefix", results).assign(share=lambda frame: 100 * frame.share)
    figure, (axes,) = new(1, 1, 3.4)
    curves(axes, rows, "share", config)
    first = rows.iloc[0]
    axes.set(xlabel="share of the prompt in the prefix cache, %", ylabel="throughput relative to the base")
    axes.set_title(f"{first.num_requests} x {first.input_len:,}:{first.output_len} tokens", fontsize=8)
    sweep_legend(figure, list(rows.arm.unique()), config, limit_line())
    note = f"Whiskers: {interval_note(rows)}. Base and variants cache the same prefix."
    footer(figure, results.origin("throughput"), note)
    return figure


def models(config: RunConfig, results: Results) -> Figure:
    """Predicted gain and combined throughput by model and prompt length, after the announcement's Figure 3, with what
    was published as black markers."""
    rows = results.prediction_models.query("arm != 'base' and group == 1")
    figure, (gain, rate) = new(1, 2, 3.6)
    for (model, arm), line in rows.groupby(["model", "arm"], sort=False):
        style = {
            "color": arm_colours(config)[arm],
            "linestyle": "-" if model.endswith("8B") else "--",
            "linewidth": 1.2,
        }
        label = f"{model.removeprefix('Llama-3.1-')}, {arm_labels(config)[arm]}"
        gain.plot(line.input_len, line.speedup, label=label, **style)
        rate.plot(line.input_len, line.tokens_per_s / 1e3, **style)
    values = published().value.astype(float)
    for run, marker in (("2025-10", "v"), ("2025-07", "^")):
        value = values[f"ci-{run}-8b-skip50-speedup-2000in-250out"]
        gain.plot(2000, value, marker, color="black", label=f"published: 8B FP8, skip 50%, {run}", linestyle="")
    gain.axhline(values["paper-throughput-gain"], color="black", linewidth=0.8)
    gain.annotate('published: 70B "up to 2x"', (rows.input_len.max(), 2), ha="right", va="bottom", fontsize=7)
    published_rates(rate, values)
    for axes, label in ((gain, "throughput relative to the base"), (rate, "thousand tokens per second")):
        axes.set_xscale("log")
        axes.set_xticks(sorted(rows.input_len.unique()), [f"{n // 1000}K" for n in sorted(rows.input_len.unique())])
        axes.minorticks_off()
        axes.set(xlabel="prompt tokens", ylabel=label)
    rate.set(yscale="log")
    rate.set_yticks([5, 10, 20, 30, 40], ["5", "10", "20", "30", "40"])
    rate.minorticks_off()
    figure.legend(ncols=3, loc="outside upper center", fontsize=7, frameon=False)
    gpus = ", ".join(f"{model} on {line.gpu.iloc[0]}" for model, line in rows.groupby("model"))
    note = f"Lines: predictions, not measured ({gpus}; {rows.output_len.iloc[0]} output tokens)."
    footer(figure, results.origin("prediction_models"), note)
    return figure


def published_rates(axes: Axes, values: pd.Series) -> None:
    """Combined throughput that was published for prompts of 8,000 (one at 2,000) tokens, half of the layers skipped."""
    for name, length, label in (
        ("paper-8b-skip50-tokens-per-second", 8000, "8B, H100"),
        ("paper-v3-70b-skip50-combined-throughput", 8000, "70B, 4 x H100"),
        ("vllm-pr-11023-8b-skip50-total-throughput-2000in-256out", 2000, "8B, GPU not named"),
    ):
        axes.plot(length, values[name] / 1e3, "o", color="black", markersize=5)
        axes.annotate(f"published: {label}", (length, values[name] / 1e3), xytext=(5, 4), textcoords="offset points",
                      fontsize=6.5, bbox={"fc": "white", "ec": "none", "pad": 0.4, "alpha": 0.8})  # fmt: skip


def prediction(config: RunConfig, results: Results) -> Figure:
    """Predicted against measured speed-up of every point and variant, and the error of each."""
    frame = joined(config, results)
    frame["error"] = 100 * (frame.predicted / frame.speedup - 1)
    colours, markers = arm_colours(config), arm_markers(config)
    figure, (both, error) = new(1, 2, 3.4)
    for arm, points in frame.groupby("arm", sort=False):
        style = {"color": colours[arm], "marker": markers[arm], "linestyle": "", "markeredgecolor": "black"}
        style |= {"markersize": 4.5, "markeredgewidth": 0.5}
        both.plot(points.speedup, points.predicted, **style)
        error.plot(points.speedup, points.error, **style)
    ends = np.array([0.95, 1.05]) * [frame[["speedup", "predicted"]].min().min(), frame.speedup.max()]
    both.plot(ends, ends, **BOUND)
    both.set(xlabel="measured speed-up", ylabel="predicted speed-up")
    error.axhline(0, **BOUND)
    error.set(xlabel="measured speed-up", ylabel="predicted / measured - 1, %")
    off = frame.error.abs()
    error.set_title(f"{len(off)} speed-ups: median |error| {off.median():.1f}%, worst {off.max():.1f}%", fontsize=8)
    legend(figure, arm_handles(config, frame.arm.unique(), linestyle=""), columnspacing=1.2)
    footer(figure, results.origin("predictions"), "Predicted from the base's times alone.")
    return figure
