"""fig-served and fig-served-latency: servers against their load, a panel for each workload."""

from math import ceil

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from swiftkv.config import RunConfig
from swiftkv.report.plots.style import (
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

LABELS = {"ttft_p50_s": "TTFT, median (s)", "tpot_p50_s": "TPOT, median (s)", "attainment": "share within the SLO"}
COLUMNS = 3
LIMITS = {"ttft_p50_s": "slo_ttft_s", "tpot_p50_s": "slo_tpot_s", "attainment": "wanted"}
LIMIT = "#A00000"  # no student's colour


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
    axes.set_ylim(*((-0.05, 1.05) if value == "attainment" else (0, None)))
    axes.tick_params(labelsize=7)


def title(rows: pd.DataFrame) -> str:
    """Two lines: the workload; its mean prompt and output tokens, and by how much a trace's lengths are scaled."""
    prompt, output = (rows[f"{name}_tokens"].sum() / rows.requests.sum() for name in ("prompt", "output"))
    scaled = rows.length_scale.dropna().unique()
    tail = f", lengths x {scaled[0]:.3g}" if len(scaled) else ""
    return f"{rows.point.iloc[0]}\n{prompt:.0f}:{output:.0f} tokens{tail}"


def draw(config: RunConfig, results: Results, quantities: tuple[str, ...]) -> Figure:
    """A block of panels for each quantity, a panel for each workload."""
    frame, limits = known_arms(results, "served_rounds", config), results.frame("saturation").iloc[0]
    points = list(frame.point.unique())
    columns = min(COLUMNS, len(points))
    block = ceil(len(points) / columns) * columns  # panels of a quantity, empty ones included
    rows = len(quantities) * block // columns
    figure, panels = new(rows, columns, 0.9 + 1.95 * rows)
    for axes in panels:
        axes.set_visible(False)
    for number, value in enumerate(quantities):
        for place, point in enumerate(points):
            axes, its = panels[number * block + place], frame[frame.point == point]
            axes.set_visible(True)
            panel(axes, its, value, limits[LIMITS[value]], config)
            axes.set_xlabel(f"load ({its.load_unit.iloc[0]})", fontsize=7.5)
            axes.set_title(title(its), fontsize=8)
            if place % columns == 0:
                axes.set_ylabel(LABELS[value], fontsize=7.5)
    limit = Line2D([], [], color=LIMIT, linestyle="--", linewidth=1.1, label="SLO")
    legend(figure, [*arm_handles(config, frame.arm.unique(), markersize=5), limit])
    note = (
        f"Median and range of {frame['round'].nunique()} interleaved rounds; SLO: TTFT at most {limits.slo_ttft_s:g} s "
        f"and TPOT at most {limits.slo_tpot_s:g} s for {limits.wanted:.0%} of the requests."
    )
    footer(figure, results.origin("served_rounds"), note)
    return figure


def attainment(config: RunConfig, results: Results) -> Figure:
    """The share of requests within both limits of the SLO, by workload."""
    return draw(config, results, ("attainment",))


def latency(config: RunConfig, results: Results) -> Figure:
    """Median TTFT by workload, then median TPOT."""
    return draw(config, results, ("ttft_p50_s", "tpot_p50_s"))
