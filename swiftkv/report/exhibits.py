"""Every figure and table by its stable id, which others may cite: an id keeps its meaning and is never given away.

The pipeline, the drawing and the writing code, the PDF of all tables and docs/citing.md take the ids from here. What
makes them is named, not imported, so that the rules can read this without any drawing code.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from swiftkv.config import RunConfig
from swiftkv.errors import UserError


@dataclass(frozen=True)
class Exhibit:
    """What a figure or table shows, and the function below `swiftkv.report` that makes it, as `module:function`."""

    shows: str
    made_by: str
    section: str | None = None  # of the configuration, without which no run has it

    @property
    def maker(self) -> Callable:
        """(configuration, results) -> Figure, or results -> Table."""
        module, function = self.made_by.split(":")
        return getattr(import_module(f"swiftkv.report.{module}"), function)


FIGURES = {
    "fig-lengths": Exhibit("prompt and output tokens of production traces and of the tasks", "plots.lengths:draw"),
    "fig-rewiring": Exhibit("which layers prompt tokens run, and where late K and V come from", "plots.rewiring:draw"),
    "fig-throughput": Exhibit("speed-up per workload and student beside the compute limit", "plots.speed:throughput"),
    "fig-accuracy-speedup": Exhibit("accuracy kept against the speed-up at 10:1", "plots.speed:accuracy_speedup"),
    "fig-distillation": Exhibit(
        "distillation loss and agreement with the base over training tokens", "plots.learning:distillation"
    ),
    "fig-similarity": Exhibit("how little layer inputs change with depth", "plots.learning:similarity"),
    "fig-latency": Exhibit("TTFT and TPOT at concurrency 1, relative to the base", "plots.speed:latency"),
    "fig-diagnosis": Exhibit("where students part from the base", "plots.diagnosis:draw"),
    "fig-divergence": Exhibit(
        "how far students are from the base on published texts", "plots.divergence:draw", "divergence"
    ),
    "fig-gain-loss": Exhibit("what each student gains beside what it loses", "plots.gain_loss:draw", "divergence"),
}
SWEEP_FIGURES = {  # of the target `sweep`
    "fig-ratio": Exhibit("speed-up against prompt:output ratio, with prediction and limit", "plots.sweep:ratio"),
    "fig-map": Exhibit("predicted speed-up by ratio and prompt length", "plots.sweep:ratio_map"),
    "fig-capacity": Exhibit(
        "KV capacity, and speed-up where KV memory is short, by AcrossKV group", "plots.sweep:capacity"
    ),
    "fig-prefix": Exhibit("speed-up by share of the prompt that the prefix cache holds", "plots.sweep:prefix"),
    "fig-models": Exhibit("predicted gain by model and prompt length beside published values", "plots.sweep:models"),
    "fig-prediction": Exhibit("predicted against measured speed-ups", "plots.sweep:prediction"),
}
SERVED_FIGURES = {  # of the target `served`
    "fig-served": Exhibit("share of requests within the SLO against load", "plots.served:attainment"),
    "fig-served-latency": Exhibit("median TTFT and TPOT against load", "plots.served:latency"),
}
SERVED_TABLES = {
    "tab-served": Exhibit("latency percentiles and goodput per load and student", "served:served"),
    "tab-saturation": Exhibit("the load up to which each student keeps the SLO", "served:saturation"),
}
TABLES = {
    "tab-throughput": Exhibit("throughput, speed-up and share of the compute limit per workload", "tables:throughput"),
    "tab-accuracy": Exhibit("scores per task, difference to the base, verdict on retention", "tables:accuracy"),
    "tab-compute": Exhibit("GFLOPs per prompt token by part of the model", "tables:compute"),
    "tab-kv": Exhibit("KV cache per token and capacity, measured and by the formula", "tables:kv"),
    "tab-latency": Exhibit("TTFT and TPOT of one request at a time", "tables:latency"),
    "tab-lengths": Exhibit("prompt and output tokens per request and their ratio", "tables:lengths"),
    "tab-divergence": Exhibit(
        "perplexity, KL to the base and agreement with it on published texts", "tables:divergence", "divergence"
    ),
    "tab-gain-loss": Exhibit("what each student gains beside what it loses", "tables:gain_loss", "divergence"),
    "tab-claims": Exhibit("published claims, measured values and verdicts", "tables:claims"),
}
PROTOCOL = {  # of the target `protocol`
    "tab-protocol": Exhibit(
        "the paper's seven tasks by model and variant, this run's rows above every published one",
        "protocol_report:protocol",
    ),
}
ALL_FIGURES = FIGURES | SWEEP_FIGURES | SERVED_FIGURES
ALL = ALL_FIGURES | TABLES | SERVED_TABLES | PROTOCOL
TEXTS = {name: exhibit.shows for name, exhibit in ALL.items()}
LAYOUT = "% swiftkv table layout 2\n"  # first in LaTeX files; another release's may be laid out otherwise
DOCUMENT = r"""% All tables in a two-column article: `pdflatex tables.tex`. Needs booktabs and siunitx.
\documentclass[twocolumn]{article}
\usepackage[textwidth=506pt,textheight=650pt,columnsep=24pt]{geometry}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{booktabs,siunitx}
\begin{document}
INPUTS
\end{document}
"""


def of(config: RunConfig, known: dict[str, Exhibit]) -> list[str]:
    """The ids among `known` that a run of this configuration has."""
    return [name for name, exhibit in known.items() if exhibit.section is None or exhibit.section in config.raw]


def document(names: Iterable[str] = TABLES) -> str:
    """LaTeX source of a document of the tables; belongs into the directory of their .tex files."""
    return LAYOUT + DOCUMENT.replace("INPUTS", "\n\\clearpage\n".join(f"\\input{{{name}}}" for name in names))


def make(names: Iterable[str], make_one: Callable[[str], None], partial: bool) -> list[str]:
    """Call `make_one` for every id and return those that were made. `partial`: say why one could not be and go on;
    otherwise its UserError is raised. Raises UserError if none could be made."""
    made, ids = [], list(names)
    for name in ids:
        try:
            make_one(name)
            made.append(name)
        except UserError as error:
            if not partial:
                raise
            print(f"left out: {name}: {error}", flush=True)
    if not made:
        raise UserError(f"none of {', '.join(ids)} could be made")
    return made
