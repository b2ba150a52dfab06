"""From result frames to one number per claim, with its interval and a sentence that shows the working.

Every function takes the `metric` mapping of a claim and the ClaimContext (config, results, published figures) and
returns a Measurement, or raises Unanswerable (no number, with the verdict) or UserError (a file is missing).
"""

from pathlib import Path

import pandas as pd

from swiftkv.config import BASE_ARM
from swiftkv.evals import gate_file
from swiftkv.layers import nearest_cut
from swiftkv.report.claims import gating, noise
from swiftkv.report.claims.analytic import predicted_gain, prefill_compute
from swiftkv.report.claims.measurement import Measurement, Unanswerable, file_of, only, student
from swiftkv.report.claims.quality import gap_recovered, retention
from swiftkv.results import require

NO_SERVED_LOAD = (
    "This run has no served load, a target of its own: "
    "`snakemake --cores all --configfile config/served.yaml -- served` (docs/serving.md)"
)


def cell(metric: dict, context) -> Measurement:
    """One cell: `frame`, `column`; optional where, student, low, high, limit, factor, min_input_len."""
    name, factor = metric["frame"], metric.get("factor", 1)
    where = dict(metric.get("where", {}))
    if "student" in metric:
        where["arm"] = student(metric, context)
    frame = context.results.parameters if name == "parameters" else context.results.frame(name)
    columns = {key: metric[key] for key in ("column", "low", "high", "limit") if key in metric}
    require(frame, [*where, *columns.values()], Path(file_of(name)))
    row = only(frame, where, file_of(name))
    take = {key: factor * float(row[column]) for key, column in columns.items()}
    # An interval that is not there reads as NaN.
    take = {key: value for key, value in take.items() if not pd.isna(value)}
    if "column" not in take:
        raise Unanswerable("not measured", f"{file_of(name)}: {metric['column']} is empty for {where}")
    # latency.csv has no lengths of its own: one request shape, that of the configuration, stands for all of its rows.
    shape = pd.Series(row.to_dict() | (context.config.throughput.latency.model_dump() if name == "latency" else {}))
    if (needed := metric.get("min_input_len", 0)) and shape.input_len < needed:
        raise Unanswerable(
            "not comparable",
            f"measured at {shape.input_len:,.0f} prompt tokens; the claim is about {needed:,} and more",
        )
    asked = tuple(metric[key] for key in ("column", "low", "high") if key in metric)
    is_ratio = name in ("throughput", "latency") and len(asked) == 3
    shown = [describe(where, shape, take)]
    if is_ratio:
        shown.append(noise.controls(frame, row, asked))
    return Measurement(
        value=take["column"],
        frame=name,
        low=take.get("low"),
        high=take.get("high"),
        is_ci={"low", "high"} <= set(take),
        limit=take.get("limit"),
        details="; ".join(text for text in shown if text),
        doubt=noise.doubt(frame, row, asked, context.config.throughput.aa_tolerance) if is_ratio else None,
    )


def describe(where: dict, row: pd.Series, take: dict) -> str:
    """The row that was read, in words, and the share of the compute limit it reaches."""
    text = ", ".join(f"{column} {value}" for column, value in where.items())
    if {"input_len", "output_len"} <= set(row.index):
        text += f", {row.input_len:.0f} prompt and {row.output_len:.0f} output tokens"
    if "num_requests" in row.index:
        text += f", {row.num_requests:.0f} requests, {row.repeats:.0f} repeats"
    if row.get("weights") == "dummy":
        text += ", random weights"
    if "ttft_ratio" in row.index:
        text += ", one request at a time"
    if "trained" in row.index:
        text += f": {row.trained:,} of {row.base:,} weights are trained"
    if "limit" in take:
        share = take["column"] / take["limit"]
        text += f"; the compute limit is {take['limit']:.2f}x, of which {share:.0%} is reached"
    return text


def kv_reduction(metric: dict, context) -> Measurement:
    """100 * (1 - KV-cache bytes per token / base's), from the engine's own KV-cache specification."""
    arm, frame = student(metric, context), context.results.kv_capacity
    row = only(frame, {"arm": arm}, file_of("kv_capacity"))
    base = only(frame, {"arm": BASE_ARM}, file_of("kv_capacity"))
    return Measurement(
        value=100 * (1 - row.kv_bytes_per_token / base.kv_bytes_per_token),
        frame="kv_capacity",
        details=f"{arm} owns {row.kv_caches:.0f} KV caches, the base {base.kv_caches:.0f}; "
        f"{row.kv_bytes_per_token:.0f} against {base.kv_bytes_per_token:.0f} bytes per token; token capacity "
        f"{row.ratio_to_base:.4g} times the base's (formula {row.formula_ratio:.4g})",
    )


def traces_of(context) -> pd.DataFrame:
    """Rows of lengths.csv that are request traces; Unanswerable if there is none."""
    frame = context.results.lengths
    traces = frame[frame.kind == "trace"]
    if traces.empty:
        raise Unanswerable("not measured", f"{file_of('lengths')} has no row of kind 'trace'")
    return traces


def trace_ratio(metric: dict, context) -> Measurement:
    """Median over request traces of mean prompt / mean output tokens; bounds are the extreme traces.

    The project's own tasks do not count: they were built near 10:1.
    """
    traces = traces_of(context)
    ratios = traces.ratio_of_means
    shown = ", ".join(f"{r.workload} {r.ratio_of_means:.1f}:1" for r in traces.itertuples())
    return Measurement(
        value=ratios.median(),
        frame="lengths",
        low=ratios.min(),
        high=ratios.max(),
        details=f"median of {len(traces)} request traces: {shown}; {(ratios >= 10).sum()} of {len(traces)} "
        f"reach 10:1 (lengths from: {', '.join(sorted(set(traces.source)))})",
    )


def trace_prompt(metric: dict, context) -> Measurement:
    """Median over request traces of the mean prompt length, in tokens."""
    traces = traces_of(context)
    shown = ", ".join(f"{r.workload} {r.prompt_mean:,.0f}" for r in traces.itertuples())
    return Measurement(value=traces.prompt_mean.median(), frame="lengths", details=f"mean prompt tokens: {shown}")


def late_similarity(metric: dict, context) -> Measurement:
    """Mean cosine between the inputs of neighbouring layers above the cut; details give those below."""
    frame = context.results.similarity
    layers = int(frame.layer.max()) - 1  # row L+1 is the final output, no layer's input
    cut = nearest_cut(layers, metric["skip"])
    # Row j is the input of layer j; that of layer cut + 1 is x_l, so pairs up to there lie below the cut. Row 1 has no
    # previous input.
    cosines = frame[(frame.layer >= 2) & (frame.layer <= layers)]
    early, late = cosines[cosines.layer <= cut + 1], cosines[cosines.layer > cut + 1]
    if early.empty or late.empty:
        raise Unanswerable("not measured", f"{file_of('similarity')} has too few layers ({layers}) to compare halves")
    above, below = late.cosine_to_previous.mean(), early.cosine_to_previous.mean()
    drift = frame.set_index("layer").cosine_to_final[cut + 1]
    return Measurement(
        value=above,
        frame="similarity",
        details=f"{layers} layers, cut at {cut}: neighbouring layer inputs have a mean cosine of {above:.3f} "
        f"above the cut and {below:.3f} below; the input of layer {cut + 1}, from which SwiftKV takes K and V, has "
        f"{drift:.3f} to the final output",
    )


def most_favourable(metric: dict, context) -> Measurement:
    """The speed-up at the workload where compute allows the most: chosen by the limit, not by what was measured."""
    frame = context.results.throughput
    of_student = frame[frame.arm == student(metric, context)].dropna(subset=metric["limit"])
    if of_student.empty:
        raise Unanswerable("not measured", f"{file_of('throughput')} has no workload of the student")
    point = of_student.point[of_student[metric["limit"]].idxmax()]
    return cell(metric | {"frame": "throughput", "where": {"point": point}}, context)


def sustained_load(metric: dict, context) -> Measurement:
    """The `column` ratio to the base at the request rate that the configuration named for it before it was measured:
    one that the base sustains, for `min_seconds` a round. Details give every other rate's."""
    arm, column, point = student(metric, context), metric["column"], metric["where"]["point"]
    if not context.results.has("served") or context.config.served is None:
        raise Unanswerable("not measured", NO_SERVED_LOAD)
    rates = context.results.served.query("kind == 'rate'")
    names = tuple(f"{column}_{end}" for end in ("ratio", "ci_low", "ci_high"))
    require(rates, names, Path(file_of("served")))
    row, base = (only(rates, {"point": point, "arm": name}, file_of("served")) for name in (arm, BASE_ARM))
    seconds, wanted = row.requests / row.load, context.config.served.slo.attainment
    if seconds < metric["min_seconds"]:
        raise Unanswerable("not measured", f"{point} lasts {seconds:.0f} s a round; asked are {metric['min_seconds']}")
    if base.attainment < wanted:
        kept = f"the base keeps the limits for {base.attainment:.0%} of its requests, under {wanted:.0%}"
        raise Unanswerable(
            "not comparable", f"at {row.load:g} {row.load_unit} {kept}, so it does not sustain that load"
        )
    others = rates[(rates.arm == arm) & (rates.point != point)]
    shown = ", ".join(f"{other.point} {other.load:g}: {getattr(other, names[0]):.2f}" for other in others.itertuples())
    value, low, high = (None if pd.isna(row[name]) else float(row[name]) for name in names)
    return Measurement(
        value=value,
        frame="served",
        low=low,
        high=high,
        is_ci=low is not None,
        doubt=noise.doubt(rates, row, names, context.config.throughput.aa_tolerance),
        details=f"{point}, {row.load:g} {row.load_unit} for {seconds:.0f} s, {row.rounds:.0f} rounds, random weights; "
        f"the base keeps the limits for {base.attainment:.0%} of its requests (other rates: {shown or 'none'})",
    )


def gates_passed(metric: dict, context) -> Measurement:
    """Share (%) of the verify gates that pass, by their measured values and limits; another run's do not count."""
    if why := gating.objection(context.config, context.results):
        raise Unanswerable("not gated", why)
    rows = context.results.frame("gates").to_dict("records")
    failed = gate_file.failed(rows)
    named = ", ".join(f"{row['gate']} ({row['variant']})" for row in failed)
    return Measurement(
        value=100 * (1 - len(failed) / len(rows)),
        frame="gates",
        details=f"{len(rows) - len(failed)} of {len(rows)} gates pass" + (f"; not {named}" if failed else ""),
    )


def nothing(metric: dict, context) -> Measurement:
    """A claim that no stage measures yet; the reason is part of the claim."""
    raise Unanswerable("not measured", metric["reason"])


METRICS = {
    "cell": cell,
    "retention": retention,
    "gap_recovered": gap_recovered,
    "kv_reduction": kv_reduction,
    "trace_ratio": trace_ratio,
    "trace_prompt": trace_prompt,
    "late_similarity": late_similarity,
    "most_favourable": most_favourable,
    "sustained_load": sustained_load,
    "gates_passed": gates_passed,
    "prefill_compute": prefill_compute,
    "predicted_gain": predicted_gain,
    "none": nothing,
}
