"""Metrics that no machine measures: what the FLOPs of a published shape say (`swiftkv.costmodel`).

Each takes the `metric` mapping of a claim and the ClaimContext, as in `metrics`, and returns a Measurement without
files: nothing of a run is in it.
"""

from swiftkv import costmodel
from swiftkv.layers import nearest_cut
from swiftkv.report.claims.measurement import Measurement


def cut_of(metric: dict) -> tuple[dict, int, int]:
    """The published shape, the layers that prompt tokens run, and the AcrossKV group."""
    shape, asked = costmodel.PUBLISHED_SHAPES[metric["model"]], metric["student"]
    cut = nearest_cut(shape["num_hidden_layers"], asked["skip"])
    return shape, cut, asked.get("key_value_group_size", 1)


def prefill_compute(metric: dict, context) -> Measurement:
    """Prefill FLOPs per prompt token in percent of the base's, every product counted once; the details have the paper's
    own way of counting beside it."""
    shape, cut, group = cut_of(metric)
    layers, length = shape["num_hidden_layers"], metric["input_len"]
    counts = {}
    for how in (costmodel.exact_prefill_gflops, costmodel.paper_prefill_gflops):
        counts[how] = [how(shape, at, n, length)["total"] for at, n in ((cut, group), (layers, 1))]
    (ours, base), (theirs, their_base) = counts.values()
    return Measurement(
        value=100 * ours / base,
        frame="compute",
        files=(),
        details=f"{metric['model']} at {length:,} prompt tokens, every product counted once: {ours:.0f} of {base:.0f} "
        f"GFLOPs per prompt token; as the paper seems to count, inferred from its rows (the vocabulary twice, "
        f"attention in units of 2^30): {theirs:.0f} of {their_base:.0f}, {100 * theirs / their_base:.4g}%",
    )


def predicted_gain(metric: dict, context) -> Measurement:
    """The throughput gain that the compute saved allows a published shape at one prompt and output length."""
    shape, cut, group = cut_of(metric)
    prompt, output = metric["input_len"], metric["output_len"]
    return Measurement(
        value=costmodel.workload_speedup_limit(shape, cut, group, prompt, output),
        frame="compute",
        files=(),
        details=f"A prediction: {metric['model']} at {prompt:,} prompt and {output} output tokens may gain so much by "
        f"the compute it saves, and no more",
    )
