"""Figures with stable ids, each as PNG (200 dpi) and SVG, from results/<scale>/ and the configuration.

swiftkv.report.plots.draw_all(config, "results/cpu/figures")
"""

from collections.abc import Callable
from pathlib import Path

from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import FRAMES, SWEEP_FRAMES
from swiftkv.report import exhibits
from swiftkv.report.plots import diagnosis, learning, lengths, rewiring, served, speed, sweep
from swiftkv.report.plots.style import Figure, save, theme
from swiftkv.results import Results, load

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
SWEEP: dict[str, Callable[[RunConfig, Results], Figure]] = {
    "fig-ratio": sweep.ratio,
    "fig-map": sweep.ratio_map,
    "fig-capacity": sweep.capacity,
    "fig-prefix": sweep.prefix,
    "fig-models": sweep.models,
    "fig-prediction": sweep.prediction,
}
SERVED: dict[str, Callable[[RunConfig, Results], Figure]] = {"fig-served": served.draw}


def draw(config: RunConfig, name: str, out_dir: str | Path, root: str | Path = "results") -> None:
    """Draw one figure of FIGURES, SWEEP or SERVED. Raises UserError for an unknown id or a missing result file."""
    known = FIGURES | SWEEP | SERVED
    if name not in known:
        raise UserError(f"figure {name!r}: unknown; there are {', '.join(known)}")
    with theme():
        save(known[name](config, load(config.scale, root)), Path(out_dir) / name)


def draw_all(
    config: RunConfig, out_dir: str | Path, root: str | Path = "results", of_sweep: bool = False, partial: bool = False
) -> None:
    """Draw every figure of FIGURES (of a sweep: SWEEP) below `out_dir` from `root/<scale>`, with one provenance.

    Raises UserError for a missing result file; `partial` leaves such figures out.
    """
    results = load(config.scale, root)
    frames = ["throughput", "kv_capacity", *SWEEP_FRAMES] if of_sweep else [name for name in FRAMES if name != "claims"]
    names = list(SWEEP if of_sweep else FIGURES)
    inputs, written = [results.path(frame) for frame in frames], [Path(out_dir) / f"{name}.png" for name in names]
    with Provenance("figures", config, inputs=inputs, out=written) as provenance:
        made = exhibits.make(names, lambda name: draw(config, name, out_dir, root), partial)
        provenance.record["ids"] = made
        provenance.save(Path(out_dir) / ("sweep" if of_sweep else "figures"))
