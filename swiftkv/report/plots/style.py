"""One look for all figures: colour-blind safe colours, legible in print, provenance in the footer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from swiftkv.config import BASE_ARM, UNDISTILLED, RunConfig, SwiftKVVariant
from swiftkv.config.measuring import BASE_AGAIN, L_EQUALS_L
from swiftkv.errors import UserError
from swiftkv.files import atomic_path
from swiftkv.results import Origin, Results

WIDTH = 7.2  # inches; two columns of a paper
DPI = 200
GREY = "#555555"
# Okabe and Ito's palette, ordered so that neighbours also differ in lightness (readable in grey print).
PALETTE = ["#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442"]
MARKERS = ["o", "s", "D", "^", "v", "P", "X"]
CONTROL_LABELS = {BASE_AGAIN: "control: base again (A/A)", L_EQUALS_L: "control: student with l = L"}
FORMATS = {  # without what changes from day to day
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
HATCHES = {BASE_AGAIN: "////", L_EQUALS_L: "...."}  # white bars with these are no students


@contextmanager
def theme() -> Iterator[None]:
    """Draw without a display and with the same bytes every time, whatever the user's matplotlib settings."""
    import seaborn

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # before seaborn's theme, or a user's settings would show wherever it is silent
        seaborn.set_theme(context="paper", style="whitegrid", font_scale=1.05)
        matplotlib.rcParams.update(
            {"svg.hashsalt": "swiftkv", "svg.fonttype": "none", "pdf.fonttype": 42, "axes.edgecolor": GREY}
        )
        yield


def new(rows: int, columns: int, height: float, **options) -> tuple[Figure, list]:
    """A figure of WIDTH x `height` inches and its axes as a flat list."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def arm_handles(config: RunConfig, arms: Iterable[str], **style) -> list[Line2D]:
    """What a legend says of the arms: colour, marker and label of each, with `style` in common."""
    colours, markers, labels = arm_colours(config), arm_markers(config), arm_labels(config)
    return [Line2D([], [], color=colours[arm], marker=markers[arm], label=labels[arm], **style) for arm in arms]


def legend(figure: Figure, handles: list, columns: int | None = None, size: float = 7.5, **options) -> None:
    """The legend above the panels, in one row unless `columns` says how many stand in one."""
    columns = columns or len(handles)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=size, frameon=False, **options)


def footer(figure: Figure, origin: Origin | str, note: str = "") -> None:
    """Write a note, then hardware, commit, scale and file below the figure, and make room for them."""
    text = "\n".join(line for line in (note, str(origin)) if line)
    # The layout engine knows no text outside of axes, so room is left for it by hand, in inches.
    room = (0.06 + 0.12 * (text.count("\n") + 1)) / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, room, 1, 1 - room))
    figure.text(0.01, 0.03 / figure.get_figheight(), text, fontsize=6.2, color=GREY, va="bottom", ha="left")


def share_axis(axes: Axes, lowest: float) -> None:
    """The y axis of shares that are near 1: down to the lowest, at least to 0.98, and with no number above 1."""
    low = min(0.98, lowest)
    axes.set_ylim(low - 0.04 * (1 - low), 1 + 0.04 * (1 - low))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 1])


def save(figure: Figure, stem: Path) -> None:
    """Write `<stem>.png`, `.svg` and `.pdf` atomically, without dates, and with the figure's id, which the stem is."""
    figure.text(0.99, 0.03 / figure.get_figheight(), stem.name, fontsize=6.2, color=GREY, va="bottom", ha="right")
    for suffix, metadata in FORMATS.items():
        metadata = {"Title": stem.name, **metadata}
        with atomic_path(stem.with_name(stem.name + suffix)) as path:
            figure.savefig(path, dpi=DPI, metadata=metadata, facecolor="white")


def percent(share: float) -> str:
    """0.625 -> '62.5%', 0.5 -> '50%'."""
    return f"{100 * share:.4g}%"


def variant_label(variant: SwiftKVVariant) -> str:
    """`skip 50%, AcrossKV 4`: what the variant skips and how many layers share a cache."""
    across = f", AcrossKV {variant.key_value_group_size}" if variant.key_value_group_size > 1 else ""
    return f"skip {percent(variant.skip)}{across}"


def arm_labels(config: RunConfig) -> dict[str, str]:
    """Arm name -> label for the base, every variant and every undistilled control, in the config's order."""
    labels = {BASE_ARM: "base"} | {variant.name: variant_label(variant) for variant in config.variants}
    controls = config.accuracy.undistilled
    return labels | {name + UNDISTILLED: f"{labels[name]}, not distilled" for name in controls}


def look_of(variant: SwiftKVVariant) -> int:
    """Which colour of PALETTE and marker of MARKERS stand for what the variant skips and shares, in every figure of
    every run: without AcrossKV by the share skipped, near 25%, 50%, more; with it by the layers that share a cache."""
    if variant.key_value_group_size > 1:
        return {2: 3, 3: 5, 4: 4}.get(variant.key_value_group_size, 6)
    return 0 if variant.skip < 0.375 else 1 if variant.skip < 0.5625 else 2


def controls_of(results: Results, name: str) -> pd.DataFrame:
    """The rows of the frame called `name` that are controls of the throughput stage."""
    frame = results.frame(name)
    return frame[frame.arm.isin(CONTROL_LABELS)]


def interval_note(frame: pd.DataFrame) -> str:
    """What the whiskers of measured ratios are, in words: results of earlier releases do not name their interval."""
    if "interval" not in frame:
        return "95% bootstrap CI of the median"
    processes = int(frame.restarts.min()) if "restarts" in frame else 1
    return "95% CI (t on log ratios" + (f" of {processes} processes)" if processes > 1 else ")")


def milliseconds(seconds: float) -> str:
    """Three digits of a time in milliseconds: `26.8 ms`, `1,780 ms`."""
    ms = float(f"{1000 * seconds:.3g}")
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:g} ms"


def looks(config: RunConfig) -> dict[str, int]:
    """Variant name -> `look_of`; where two variants of one configuration would look alike, the next that is free."""
    taken: dict[str, int] = {}
    for variant in config.variants:
        wanted = look_of(variant)
        free = [
            n % len(PALETTE) for n in range(wanted, wanted + len(PALETTE)) if n % len(PALETTE) not in taken.values()
        ]
        taken[variant.name] = free[0] if free else wanted
    return taken


def arm_colours(config: RunConfig) -> dict[str, str]:
    """Arm name -> colour; an undistilled control has the colour of its variant."""
    colours = {name: PALETTE[look] for name, look in looks(config).items()}
    controls = {name + UNDISTILLED: colours[name] for name in config.accuracy.undistilled}
    return {BASE_ARM: "#000000"} | colours | controls


def arm_markers(config: RunConfig) -> dict[str, str]:
    """Arm name -> marker, so that colour never carries meaning alone."""
    markers = {name: MARKERS[look] for name, look in looks(config).items()}
    controls = {name + UNDISTILLED: markers[name] for name in config.accuracy.undistilled}
    return {BASE_ARM: "*"} | markers | controls


def arm_marker(config: RunConfig, arm: str) -> dict:
    """Marker and colours of an arm, as matplotlib takes them; hollow if it was not distilled."""
    colour, hollow = arm_colours(config)[arm], arm.endswith(UNDISTILLED)
    edge = {"markerfacecolor": "white" if hollow else colour, "markeredgecolor": colour if hollow else "black"}
    return {"color": colour, "marker": arm_markers(config)[arm], "linestyle": "", **edge}


def known_arms(results: Results, name: str, config: RunConfig) -> pd.DataFrame:
    """The frame called `name` without controls of the throughput stage (`controls_of`); raises UserError if it holds
    arms that the configuration does not name."""
    frame = results.frame(name)
    frame = frame[~frame.arm.isin(CONTROL_LABELS)]
    unknown = sorted(set(frame.arm) - set(arm_labels(config)))
    if unknown:
        raise UserError(f"{results.path(name)}: arm {', '.join(unknown)} is not in {config.path}; run that stage again")
    return frame
