"""Figures with stable ids, each as PNG (200 dpi), SVG and PDF, from results/<scale>/ and the configuration.

swiftkv.report.plots.draw_all(config, "results/cpu/figures")
"""

from collections.abc import Iterable
from pathlib import Path

from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import FRAMES, SWEEP_FRAMES
from swiftkv.report import exhibits
from swiftkv.report.plots.style import FORMATS, save, theme
from swiftkv.results import load


def files_of(names: Iterable[str], out_dir: str | Path) -> list[Path]:
    """The files of figures, in every format."""
    return [Path(out_dir) / f"{name}{suffix}" for name in names for suffix in FORMATS]


def draw(config: RunConfig, name: str, out_dir: str | Path, root: str | Path = "results") -> None:
    """Draw one figure of `exhibits`. Raises UserError for an unknown id or a missing result file."""
    if name not in exhibits.ALL_FIGURES:
        raise UserError(f"figure {name!r}: unknown; there are {', '.join(exhibits.ALL_FIGURES)}")
    with theme():
        save(exhibits.ALL_FIGURES[name].maker(config, load(config.scale, root)), Path(out_dir) / name)


def draw_all(
    config: RunConfig, out_dir: str | Path, root: str | Path = "results", of_sweep: bool = False, partial: bool = False
) -> None:
    """Draw every figure of the pipeline, or of a sweep, below `out_dir` from `root/<scale>`, with one provenance.

    Raises UserError for a missing result file; `partial` leaves such figures out.
    """
    results = load(config.scale, root)
    frames = ["throughput", "kv_capacity", *SWEEP_FRAMES] if of_sweep else [name for name in FRAMES if name != "claims"]
    names = exhibits.of(config, exhibits.SWEEP_FIGURES if of_sweep else exhibits.FIGURES)
    inputs, written = [results.path(frame) for frame in frames], files_of(names, out_dir)
    with Provenance("figures", config, inputs=inputs, out=written) as provenance:
        made = exhibits.make(names, lambda name: draw(config, name, out_dir, root), partial)
        provenance.record["ids"] = made
        provenance.save(Path(out_dir) / ("sweep" if of_sweep else "figures"))
