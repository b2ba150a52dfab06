"""fig-lengths: prompt and output tokens per workload and their ratio, after the announcement's Figure 1."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from swiftkv.config import RunConfig
from swiftkv.report.plots.style import GREY, Figure, footer, new
from swiftkv.results import Results, published
from swiftkv.workloads.traces import COMMITTED, GENERATED, MIRROR, NETWORK

PROMPT, OUTPUT, RATIO = "#4d4d4d", "#b8b8b8", "#808080"  # greys: colours stand for students
KINDS = {MIRROR: "trace", NETWORK: "trace", COMMITTED: "trace, quantiles", GENERATED: "task of this suite"}
FLAT = 1.02  # quartiles closer than this factor make no visible box
BOX = {"med": 0.5, "q1": 0.25, "q3": 0.75, "whislo": 0.1, "whishi": 0.9}


def boxes(quantiles: pd.DataFrame, quantity: str, workloads: list[str]) -> list[dict]:
    """Box statistics per workload, read off its quantile curve; zeros are lifted to 1 for the log axis."""
    statistics = []
    for workload in workloads:
        curve = quantiles[(quantiles.workload == workload) & (quantiles.quantity == quantity)].sort_values("q")
        lowest = 0.1 if quantity == "ratio" else 1
        values = {key: max(lowest, float(np.interp(q, curve.q, curve.tokens))) for key, q in BOX.items()}
        statistics.append(values | {"label": workload, "fliers": []})
    return statistics


def draw_boxes(axes: Axes, statistics: list[dict], offset: float, width: float, colour: str) -> None:
    """One box per row; a square where all requests are alike, since a box without width cannot be seen."""
    places = {index + offset: one for index, one in enumerate(statistics)}
    flat = {place: one["med"] for place, one in places.items() if one["q3"] < FLAT * one["q1"]}
    square = {"marker": "s", "s": 34, "color": colour, "edgecolor": "black", "linewidth": 0.7, "zorder": 4}
    axes.scatter(list(flat.values()), list(flat), **square)
    wide = {place: one for place, one in places.items() if place not in flat}
    axes.bxp(
        list(wide.values()),
        positions=list(wide),
        widths=width,
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "edgecolor": "black", "linewidth": 0.7},
        medianprops={"color": "white", "linewidth": 1.6},
        whiskerprops={"linewidth": 0.8},
        capprops={"linewidth": 0.8},
        manage_ticks=False,
    )


def label_rows(axes: Axes, frame: pd.DataFrame) -> None:
    """Workload names, top to bottom, with what kind of data each is."""
    names = [f"{row.workload.replace('_', ' ')}\n({KINDS.get(row.source, row.source)})" for row in frame.itertuples()]
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.grid(axis="y", visible=False)
    traces = int((frame.kind == "trace").sum())
    if 0 < traces < len(frame):
        axes.axhline(traces - 0.5, color=GREY, linewidth=0.6)


def draw(config: RunConfig, results: Results) -> Figure:
    """Left: tokens per request (box 25-75%, whiskers 10-90%). Right: their ratio, with the 10:1 line."""
    frame = results.lengths.sort_values("kind", key=lambda kind: kind != "trace", kind="stable")
    quantiles, workloads = results.lengths_quantiles, list(frame.workload)
    figure, (tokens, ratio) = new(1, 2, 1.6 + 0.52 * len(frame), sharey=True, width_ratios=[1.25, 1])
    draw_boxes(tokens, boxes(quantiles, "prompt", workloads), -0.2, 0.34, PROMPT)
    draw_boxes(tokens, boxes(quantiles, "output", workloads), 0.2, 0.34, OUTPUT)
    handles = [tokens.scatter([], [], marker="s", color=c, s=40) for c in (PROMPT, OUTPUT)]
    tokens.legend(handles, ["prompt", "output"], loc="lower right", framealpha=1)
    tokens.set(xlabel="tokens per request", title="Prompt and output lengths")
    draw_boxes(ratio, boxes(quantiles, "ratio", workloads), 0, 0.5, RATIO)
    ratio.scatter(frame.ratio_of_means, range(len(frame)), marker="D", s=26, color="white", edgecolor="black", zorder=5)
    claimed = float(published().value["paper-prompt-ratio"])
    ratio.axvline(claimed, color="black", linestyle="--", linewidth=1)
    ratio.set(xlabel="prompt tokens per output token", title=f"Ratio (dashed: the published {claimed:.0f}:1)")
    label_rows(tokens, frame)
    ratio.set_xscale("log")
    ratio.grid(axis="y", visible=False)
    note = (
        "Boxes: 25-75% of requests, whiskers 10-90%, line: median, diamond: mean prompt / mean output. "
        "Squares: all requests are alike."
    )
    footer(figure, results.origin("lengths"), note)
    return figure
