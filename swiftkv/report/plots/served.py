"""fig-served: latency and attainment of servers against their load, one row per workload."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from swiftkv.config import RunConfig
from swiftkv.report.plots.style import (
    PALETTE,
    Figure,
    arm_colours,
    arm_handles,
    arm_markers,
    footer,
    known_arms,
    legend,
    new,
)
from swiftkv.results import Results

PANELS = {"ttft_p50_s": "TTFT, median (s)", "tpot_p50_s": "TPOT, median (s)", "attainment": "share within the SLO"}
LIMITS = {"ttft_p50_s": "slo_ttft_s", "tpot_p50_s": "slo_tpot_s", "attainment": "wanted"}
LIMIT = PALETTE[4]


def curve(axes: Axes, rows: pd.DataFrame, value: str, style: dict) -> None:
    """One arm: median over the rounds by load, and the range of the rounds as a whisker."""
    by_load = rows.groupby("load")[value]
    medians = by_load.median()
    errors = [medians - by_load.min(), by_load.max() - medians]
    axes.errorbar(medians.index, medians, errors, elinewidth=0.9, capsize=2, linewidth=1.2, markersize=5, **style)


def panel(axes: Axes, rows: pd.DataFrame, value: str, limit: float, config: RunConfig) -> None:
    """One quantity of one workload against its load, with the limit of the SLO as a dashed line."""
    colours, markers = arm_colours(config), arm_markers(config)
    for arm in rows.arm.unique():
        curve(axes, rows[rows.arm == arm], value, {"color": colours[arm], "marker": markers[arm]})
    axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.1)
    axes.set_xlim(0, 1.1 * rows.load.max())
    axes.set_ylim(*((-0.05, 1.08) if value == "attainment" else (0, None)))
    axes.tick_params(labelsize=7)


def title(rows: pd.DataFrame) -> str:
    """`azure-chat: prompts of 120, outputs of 17 tokens on average, lengths x 0.1`."""
    prompt, output = (rows[f"{name}_tokens"].sum() / rows.requests.sum() for name in ("prompt", "output"))
    scaled = rows.length_scale.dropna().unique()
    tail = f", lengths x {scaled[0]:.3g}" if len(scaled) else ""
    return f"{rows.point.iloc[0]}: {prompt:.0f}:{output:.0f} tokens on average{tail}"


def draw(config: RunConfig, results: Results) -> Figure:
    """Rows: workloads. Columns: median TTFT, median TPOT, and the share of requests within both limits."""
    frame, limits = known_arms(results, "served_rounds", config), results.frame("saturation").iloc[0]
    points = list(frame.point.unique())
    figure, panels = new(len(points), len(PANELS), 0.9 + 1.75 * len(points))
    for row, point in enumerate(points):
        rows = frame[frame.point == point]
        for column, (value, label) in enumerate(PANELS.items()):
            axes = panels[row * len(PANELS) + column]
            panel(axes, rows, value, limits[LIMITS[value]], config)
            axes.set_ylabel(label, fontsize=7.5)
            axes.set_xlabel(f"load ({rows.load_unit.iloc[0]})", fontsize=7.5)
        panels[row * len(PANELS)].set_title(title(rows), fontsize=8, loc="left")
    limit = Line2D([], [], color=LIMIT, linestyle="--", linewidth=1.1, label="SLO")
    legend(figure, [*arm_handles(config, frame.arm.unique(), markersize=5), limit])
    note = (
        f"Median and range of {frame['round'].nunique()} interleaved rounds; SLO: TTFT at most {limits.slo_ttft_s:g} s "
        f"and TPOT at most {limits.slo_tpot_s:g} s for {limits.wanted:.0%} of the requests."
    )
    footer(figure, results.origin("served_rounds"), note)
    return figure
