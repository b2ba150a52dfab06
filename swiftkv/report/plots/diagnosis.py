"""fig-diagnosis: where the students' answers part from the base's."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.report.plots.style import (
    Figure,
    arm_colours,
    arm_labels,
    arm_markers,
    footer,
    known_arms,
    legend,
    new,
    share_axis,
)
from swiftkv.results import Results

NEEDLE = "needle"


def lines(axes: Axes, frame: pd.DataFrame, x: str, y: str, config: RunConfig, arms: list[str]) -> None:
    """One line with markers per arm; the base dashed and on top, so that no student hides it."""
    colours, markers, labels = arm_colours(config), arm_markers(config), arm_labels(config)
    for arm in arms:
        rows = frame[frame.arm == arm].sort_values(x)
        style = {"linestyle": "--", "zorder": 3} if arm == BASE_ARM else {}
        axes.plot(rows[x], rows[y], color=colours[arm], marker=markers[arm], label=labels[arm], linewidth=1.2,
                  markersize=3.5, markevery=max(1, len(rows) // 8), alpha=0.9, **style)  # fmt: skip


def by_position(frame: pd.DataFrame) -> pd.DataFrame:
    """KL and agreement per arm and position, over the tasks' tokens."""
    weighted = frame.assign(kl=frame.kl * frame.tokens, agreement=frame.agreement * frame.tokens)
    total = weighted.groupby(["arm", "position"])[["tokens", "kl", "agreement"]].sum().reset_index()
    return total.assign(kl=total.kl / total.tokens, agreement=total.agreement / total.tokens)


def by_context(axes: Axes, title: str) -> None:
    """Label a panel whose x axis is the prompt's length."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(title=title, xlabel="prompt tokens")


def draw(config: RunConfig, results: Results) -> Figure:
    """KL and agreement by answer position; exact answers by prompt length, needle context and records of each task."""
    positions = by_position(known_arms(results, "diagnosis_positions", config))
    lengths, difficulty = (known_arms(results, f"diagnosis_{name}", config) for name in ("lengths", "difficulty"))
    arms, tasks = list(difficulty.arm.unique()), list(config.tasks)
    students = [arm for arm in arms if arm != BASE_ARM]
    figure, axes = new(2, 4, 4.3)
    lines(axes[0], positions, "position", "kl", config, students)
    lines(axes[1], positions, "position", "agreement", config, students)
    lines(axes[2], lengths, "prompt_tokens", "exact", config, arms)
    lines(axes[3], difficulty[difficulty.task == NEEDLE], "prompt_tokens", "exact", config, arms)
    for panel, task in zip(axes[4:], tasks, strict=True):
        lines(panel, difficulty[difficulty.task == task], "records", "exact", config, arms)
        panel.set(title=task, xlabel="records")
    axes[0].set(title="KL(base || student)", xlabel="answer position", ylabel="nats", yscale="log")
    axes[1].set(title="top-1 agreement", xlabel="answer position")
    share_axis(axes[1], positions.agreement.min())
    by_context(axes[2], "all tasks")
    by_context(axes[3], "needle")
    for panel in axes[2:]:
        panel.set_ylim(-0.04, 1.04)
    for panel in (axes[2], axes[4]):
        panel.set_ylabel("share exact")
    legend(figure, axes[3].get_legend_handles_labels()[0], size=7)
    items = difficulty.groupby(difficulty.task == NEEDLE)["items"].min()
    note = f"Teacher-forced; {items[False]} items per task and number of records, {items[True]} needles per length."
    footer(figure, results.origin("diagnosis_difficulty"), note)
    return figure
