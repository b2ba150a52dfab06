"""Figures with stable ids, each as PNG (200 dpi) and SVG, from results/<scale>/ and the configuration.

swiftkv.plots.draw_all(config, "results/cpu/figures")
"""

from collections.abc import Callable
from pathlib import Path

from swiftkv import exhibits
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.plots import diagnosis, learning, lengths, rewiring, speed
from swiftkv.plots.style import Figure, save, theme
from swiftkv.provenance import Provenance
from swiftkv.results import FRAMES, Results, load

FIGURES: dict[str, Callable[[RunConfig, Results], Figure]] = {
    "fig-lengths": lengths.draw,
    "fig-rewiring": rewiring.draw,
    "fig-throughput": speed.throughput,
    "fig-accuracy-speedup": speed.accuracy_speedup,
    "fig-distillation": learning.distillation,
    "fig-similarity": learning.similarity,
    "fig-latency": speed.latency,
    "fig-diagnosis": diagnosis.draw,
}


def draw(config: RunConfig, name: str, out_dir: str | Path, root: str | Path = "results") -> None:
    """Draw one figure of FIGURES. Raises UserError for an unknown id or a missing result file."""
    if name not in FIGURES:
        raise UserError(f"figure {name!r}: unknown; there are {', '.join(FIGURES)}")
    with theme():
        save(FIGURES[name](config, load(config.scale, root)), Path(out_dir) / name)


def draw_all(config: RunConfig, out_dir: str | Path, root: str | Path = "results") -> None:
    """Draw every figure below `out_dir` from `root/<scale>`, with one provenance file for all."""
    results = load(config.scale, root)
    inputs = [results.path(frame) for frame in FRAMES if frame != "claims"]
    with Provenance("figures", config, inputs=inputs, ids=exhibits.FIGURES) as provenance:
        for name in FIGURES:
            draw(config, name, out_dir, root)
        provenance.save(Path(out_dir) / "figures")
