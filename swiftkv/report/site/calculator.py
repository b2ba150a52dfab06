"""What the calculator of a page knows: shapes of models, and how much of the limit measured runs reached.

Its formulas are those of `swiftkv.costmodel`, written once more in workflow/report/site/costmodel.js, because the page
works without Python; a test holds the two equal.
"""

from swiftkv.config import BASE_ARM
from swiftkv.costmodel import PUBLISHED_SHAPES, SHAPE_KEYS
from swiftkv.report.plots.style import CONTROL_LABELS
from swiftkv.report.site.runs import Run

OFFERED = ("Llama-3.1-8B", "Llama-3.1-70B")  # of the published models


def shapes(runs: list[Run]) -> dict[str, dict[str, int]]:
    """Name -> shape: published models, then the benchmark model of each run, unless it is one of those before it."""
    known = {name: PUBLISHED_SHAPES[name] for name in OFFERED}
    for run in runs:
        if run.config is None:
            continue
        shape = {key: run.config.shape[key] for key in SHAPE_KEYS}
        if head := run.config.shape.get("head_dim"):
            shape["head_dim"] = head
        if shape not in known.values():
            known[f"benchmark model of {run.name}"] = shape
    return known


def forecasts(runs: list[Run]) -> list[dict]:
    """What the roofline model predicts for published models, of the first run that has such predictions: model, GPU,
    share skipped, layers per cache, prompt and output tokens, speed-up."""
    for run in runs:
        frame = run.frame("prediction_models")
        if frame is not None:
            columns = ["model", "gpu", "skip", "group", "input_len", "output_len", "speedup"]
            return frame[frame.arm != BASE_ARM][columns].round(4).to_dict("records")
    return []


def reached(runs: list[Run]) -> list[dict]:
    """What students of all runs measured at each point: run, student, prompt and output tokens, share of the limit."""
    found = []
    for run in runs:
        frame = run.frame("throughput")
        if frame is None:
            continue
        for row in frame[~frame.arm.isin([BASE_ARM, *CONTROL_LABELS])].itertuples():
            found.append(
                {"run": run.name, "student": run.label(row.arm), "input_len": int(row.input_len),
                 "output_len": int(row.output_len), "share": round(float(row.share_of_limit), 4)}
            )  # fmt: skip
    return found
