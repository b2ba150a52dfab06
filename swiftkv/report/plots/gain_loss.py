"""fig-gain-loss: what each student gains beside what it loses, on one model."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from swiftkv.config import BASE_ARM, UNDISTILLED, RunConfig
from swiftkv.report.gain_loss import gains_and_losses
from swiftkv.report.plots.speed import scatter
from swiftkv.report.plots.style import GREY, Figure, arm_colours, arm_labels, arm_marker, footer, legend, new
from swiftkv.results import Results

LOSS = "kl", "kl_ci_low", "kl_ci_high"
GAINS = {"ratio_10to1": "10:1", "prompt_only": "prompts alone"}


def distilled(axes: Axes, frame: pd.DataFrame, gain: str, loss: str, config: RunConfig) -> None:
    """A line from every undistilled control to its student."""
    colours, by_arm = arm_colours(config), frame.set_index("arm")
    for arm in by_arm.index[by_arm.index.str.endswith(UNDISTILLED)]:
        pair = by_arm.loc[[arm, arm.removesuffix(UNDISTILLED)]]
        axes.plot(pair[gain], pair[loss], color=colours[arm], linewidth=0.8, linestyle=":", zorder=0)


def draw(config: RunConfig, results: Results) -> Figure:
    """Columns: speed-up at 10:1 and of prompts alone. Rows: change of the tasks' mean score; KL to the base."""
    frame = gains_and_losses(results)
    frame = frame[frame.arm != BASE_ARM].assign(
        **{name: 100 * frame[name] for name in ("score_change", "score_ci_low", "score_ci_high")}
    )
    figure, panels = new(2, len(GAINS), 4.9, sharex="col", sharey="row")
    for number, (gain, title) in enumerate(GAINS.items()):
        score, divergence = panels[number], panels[number + len(GAINS)]
        x = gain, f"{gain}_ci_low", f"{gain}_ci_high"
        for axes, y in ((score, ("score_change", "score_ci_low", "score_ci_high")), (divergence, LOSS)):
            scatter(axes, frame, x, y, config, 7)
            distilled(axes, frame, gain, y[0], config)
        score.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        score.set_title(title, fontsize=8.5)
        divergence.set_xlabel("throughput relative to the base", fontsize=8)
        divergence.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_ylabel("score less the base's, points", fontsize=8)
    panels[len(GAINS)].set(yscale="log")
    panels[len(GAINS)].set_ylabel("KL(base || student), nats", fontsize=8)
    panels[len(GAINS)].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panels[len(GAINS)].yaxis.set_major_formatter("{x:g}")
    panels[len(GAINS)].yaxis.set_minor_formatter(NullFormatter())
    labels = arm_labels(config)
    handles = [Line2D([], [], label=labels[arm], **arm_marker(config, arm)) for arm in frame.arm]
    legend(figure, handles, columns=min(3, len(handles)))
    note = "Whiskers: 95% intervals. Dotted: what distillation changes. KL: at answers behind an early-exit prompt."
    footer(figure, results.origin("divergence"), note)
    return figure
