"""fig-divergence: how far students are from the base on published texts, by set."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.report.plots.speed import whiskers
from swiftkv.report.plots.style import (
    GREY,
    Figure,
    arm_labels,
    arm_marker,
    footer,
    known_arms,
    legend,
    new,
)
from swiftkv.results import Results

MODES = {"full": "every token through every layer", "answers": "answers behind a prompt that leaves at the cut"}
PANELS = {"kl": "KL(base || student), nats", "agreement": "share with the same top token"}
MEAN = "mean"
SIZE = 5  # of a marker
SPREAD = 0.7  # of the way from one set to the next, over which the arms stand


def panel(axes: Axes, rows: pd.DataFrame, value: str, sets: list[str], arms: list[str], config: RunConfig) -> None:
    """One quantity of one mode: a marker with its interval per set and arm."""
    for arm, offset in zip(arms, SPREAD * (np.arange(len(arms)) + 0.5) / len(arms) - SPREAD / 2, strict=True):
        its = rows[rows.arm == arm].set_index("set").loc[sets]
        errors = whiskers(its, value, f"{value}_ci_low", f"{value}_ci_high")
        style = {
            "elinewidth": 0.9,
            "capsize": 1.5,
            "markeredgewidth": 0.7,
            "markersize": SIZE,
            **arm_marker(config, arm),
        }
        axes.errorbar(np.arange(len(sets)) + offset, its[value], errors, **style)
    axes.axvline(len(sets) - 1.5, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(sets)), [name.replace("_", "\n") for name in sets], fontsize=7.5)
    axes.set_xlim(-0.5, len(sets) - 0.5)
    axes.tick_params(axis="y", which="both", labelsize=7.5)
    axes.grid(axis="x", visible=False)


def draw(config: RunConfig, results: Results) -> Figure:
    """Rows: modes. Columns: KL and agreement, by set and in the mean over sets."""
    frame = known_arms(results, "divergence", config)
    frame = frame[frame.arm != BASE_ARM]
    arms, sets = list(frame.arm.unique()), [*(name for name in frame["set"].unique() if name != MEAN), MEAN]
    figure, panels = new(len(MODES), len(PANELS), 4.9, sharey="col")
    for number, (mode, title) in enumerate(MODES.items()):
        for axes, (value, label) in zip(panels[number * len(PANELS) :], PANELS.items(), strict=False):
            panel(axes, frame[frame["mode"] == mode], value, sets, arms, config)
            axes.set_ylabel(label, fontsize=7.5)
        panels[number * len(PANELS)].set_title(title, fontsize=8.5, loc="left")
    for axes in panels[:: len(PANELS)]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    labels = arm_labels(config)
    legend(
        figure,
        [Line2D([], [], label=labels[arm], markersize=SIZE, **arm_marker(config, arm)) for arm in arms],
        columns=min(4, len(arms)),
    )
    documents = frame[frame["set"] != MEAN].documents
    number = f"{documents.min()} to {documents.max()}" if documents.min() < documents.max() else f"{documents.min()}"
    note = f"Teacher-forced; whiskers: 95% bootstrap intervals over {number} documents per set."
    footer(figure, results.origin("divergence"), note)
    return figure
