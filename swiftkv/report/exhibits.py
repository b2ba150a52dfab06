"""Every figure and table by its stable id, which others may cite: an id keeps its meaning and is never given away.

The pipeline, the drawing and the writing code, the PDF of all tables and docs/citing.md take the ids from here.
"""

from collections.abc import Callable, Iterable

from swiftkv.errors import UserError

FIGURES = {  # id -> what it shows
    "fig-lengths": "prompt and output tokens of production traces and of the tasks",
    "fig-rewiring": "which layers prompt tokens run, and where late K and V come from",
    "fig-throughput": "speed-up per workload and student beside the compute limit",
    "fig-accuracy-speedup": "accuracy kept against the speed-up at 10:1",
    "fig-distillation": "distillation loss and agreement with the base over training tokens",
    "fig-similarity": "how little layer inputs change with depth",
    "fig-latency": "TTFT and TPOT at concurrency 1, relative to the base",
    "fig-diagnosis": "where students part from the base",
}
SWEEP_FIGURES = {  # of the target `sweep`
    "fig-ratio": "speed-up against prompt:output ratio, with prediction and limit",
    "fig-map": "predicted speed-up by ratio and prompt length",
    "fig-capacity": "KV capacity, and speed-up where KV memory is short, by AcrossKV group",
    "fig-prefix": "speed-up by share of the prompt that the prefix cache holds",
    "fig-models": "predicted gain by model and prompt length beside published values",
    "fig-prediction": "predicted against measured speed-ups",
}
SERVED_FIGURES = {  # of the target `served`
    "fig-served": "latency and attainment of the SLO against load",
}
SERVED_TABLES = {
    "tab-served": "latency percentiles and goodput per load and student",
    "tab-saturation": "the load up to which each student keeps the SLO",
}
TABLES = {
    "tab-throughput": "throughput, speed-up and share of the compute limit per workload",
    "tab-accuracy": "scores per task, difference to the base, verdict on retention",
    "tab-compute": "GFLOPs per prompt token by part of the model",
    "tab-kv": "KV cache per token and capacity, measured and by the formula",
    "tab-latency": "TTFT and TPOT of one request at a time",
    "tab-lengths": "prompt and output tokens per request and their ratio",
    "tab-claims": "published claims, measured values and verdicts",
}
PROTOCOL = {  # of the target `protocol`
    "tab-protocol": "the paper's seven tasks by model and variant, this run's rows above every published one",
}
ALL = FIGURES | TABLES | SWEEP_FIGURES | SERVED_FIGURES | SERVED_TABLES | PROTOCOL
DOCUMENT = r"""% All tables, a page each: `pdflatex tables.tex`. Needs LaTeX's recommended packages.
\documentclass{article}
\usepackage[a3paper,landscape,margin=15mm]{geometry}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{booktabs}
\begin{document}
INPUTS
\end{document}
"""


def document(names: Iterable[str] = TABLES) -> str:
    """LaTeX source of a document of the tables; belongs into the directory of their .tex files."""
    return DOCUMENT.replace("INPUTS", "\n\\clearpage\n".join(f"\\input{{{name}}}" for name in names))


def make(names: Iterable[str], make_one: Callable[[str], None], partial: bool) -> list[str]:
    """Call `make_one` for every id and return those that were made. `partial`: say why one could not be and go on;
    otherwise its UserError is raised. Raises UserError if none could be made."""
    made, wanted = [], list(names)
    for name in wanted:
        try:
            make_one(name)
            made.append(name)
        except UserError as error:
            if not partial:
                raise
            print(f"left out: {name}: {error}", flush=True)
    if not made:
        raise UserError(f"none of {', '.join(wanted)} could be made")
    return made
