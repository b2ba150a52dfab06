"""fig-distillation and fig-similarity: how the students learn, and why late K and V can come from one layer."""

import pandas as pd
from matplotlib.axes import Axes

from swiftkv.config import RunConfig
from swiftkv.layers import nearest_cut
from swiftkv.report.plots.style import (
    GREY,
    Figure,
    arm_colours,
    arm_labels,
    arm_markers,
    footer,
    legend,
    new,
    percent,
    share_axis,
)
from swiftkv.results import Results

SMOOTH = 20  # points of the curve that show single steps faintly and their running mean


def curves(axes: Axes, frame: pd.DataFrame, column: str, config: RunConfig) -> None:
    """One line per student over training tokens: a running median, with markers that tell the lines apart."""
    colours, markers, labels = arm_colours(config), arm_markers(config), arm_labels(config)
    for variant in config.variants:
        rows = frame[frame.variant == variant.name].sort_values("step")
        window = max(1, len(rows) // SMOOTH)
        smooth = rows[column].rolling(window, min_periods=1).median()
        style = {"color": colours[variant.name], "marker": markers[variant.name], "markevery": max(1, len(rows) // 8)}
        axes.plot(rows.tokens / 1e6, rows[column], color=colours[variant.name], linewidth=0.6, alpha=0.3)
        axes.plot(rows.tokens / 1e6, smooth, linewidth=1.5, markersize=4, label=labels[variant.name], **style)


def distillation(config: RunConfig, results: Results) -> Figure:
    """KL divergence to the teacher and top-1 agreement with it over training tokens, per student."""
    frame = results.distill
    figure, (loss, agreement) = new(1, 2, 3.5)
    if frame.empty:
        loss.text(0.5, 0.5, "no distillation step (distill.steps: 0)", ha="center", transform=loss.transAxes)
        footer(figure, results.origin("distill"))
        return figure
    curves(loss, frame, "kl", config)
    curves(agreement, frame, "agreement", config)
    loss.set(yscale="log", ylabel="$T^2$ KL(teacher || student)", title="distillation loss")
    agreement.set(ylabel="share of answer tokens", title="top-1 agreement with the teacher")
    share_axis(agreement, frame.agreement.min())
    for axes in (loss, agreement):
        axes.set_xlabel("training tokens (millions)")
    legend(figure, loss.get_legend_handles_labels()[0])
    minutes = frame.seconds.max() / 60
    note = f"All students in one run with one teacher pass, {minutes:.1f} minutes. Lines: running median; faint: raw."
    footer(figure, results.origin("distill"), note)
    return figure


def cuts(axes: Axes, config: RunConfig, layers: int) -> None:
    """Mark the input from which each variant takes K and V (the layer after the cut)."""
    for skip in sorted({variant.skip for variant in config.variants}):
        layer = nearest_cut(layers, skip) + 1
        axes.axvline(layer, color=GREY, linestyle=":", linewidth=1)
        axes.text(layer, 1.01, percent(skip), transform=axes.get_xaxis_transform(), ha="center", fontsize=7, color=GREY)


def similarity(config: RunConfig, results: Results) -> Figure:
    """Cosine of layer inputs to the previous input and to the final output, and the relative change, by depth."""
    frame = results.similarity.sort_values("layer")
    layers = int(frame.layer.max()) - 1
    figure, (cosine, change) = new(1, 2, 3.4)
    # Black and grey: colours stand for students.
    previous, final = frame.cosine_to_previous, frame.cosine_to_final
    cosine.plot(frame.layer, previous, "o-", color="black", markersize=4, label="cosine to the previous input")
    cosine.plot(frame.layer, final, "s--", color=GREY, markersize=4, label="cosine to the final output")
    lowest = frame[["cosine_to_final", "cosine_to_previous"]].min().min()
    cosine.set(ylabel="mean cosine", ylim=(min(0, lowest - 0.05), 1.05))
    change.plot(frame.layer, frame.relative_change, "o-", color="black", markersize=4)
    change.set(ylabel="|change| / |input|")
    if frame.relative_change.max() > 10 * frame.relative_change.min():
        change.set_yscale("log")
    else:
        change.set_ylim(0, None)
    for axes, title in ((cosine, "similarity of layer inputs"), (change, "change from the previous input")):
        axes.set(xlabel=f"input of layer ({layers + 1}: final output)")
        axes.set_title(title, pad=16)
        axes.xaxis.get_major_locator().set_params(integer=True)
        cuts(axes, config, layers)
    legend(figure, cosine.get_legend_handles_labels()[0])
    prompts, tokens = int(frame.prompts.max()), int(frame.tokens.max())
    note = f"Base model, {prompts} prompts, {tokens:,} tokens. Dotted: the input that gives late K and V, by skip."
    footer(figure, results.origin("similarity"), note)
    return figure
