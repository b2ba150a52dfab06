"""Which cut can a base model take? Cheap probes of every cut and group, beside what each may gain (`swiftkv advise`).

A candidate is probed on held-out text with one teacher pass for all: KL to the base, and the share of answer tokens and
of whole answers on which both choose the same; first as converted, then after a short joint distillation. Expected
speed-up and KV capacity follow from the FLOPs model for a 10:1 workload.
"""

import itertools
from pathlib import Path

import pandas as pd
import psutil
import torch

from swiftkv import costmodel, files, outputs
from swiftkv.config import RunConfig, SwiftKVVariant
from swiftkv.costmodel.memory import largest_rows, memory, student_plan
from swiftkv.devices import KEPT_FREE
from swiftkv.distill import loop
from swiftkv.distill.probe import probe
from swiftkv.distill.students import Student
from swiftkv.errors import UserError
from swiftkv.layers import Layers
from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, read_shape, weight_files
from swiftkv.provenance import Provenance
from swiftkv.workloads.sources import BatchStream, stream_of
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import load_tokenizer

WORKLOAD = {"input_len": 2000, "output_len": 200}
GROUPS = (1, 2, 3, 4, 5, 8)


def candidates(layers: int) -> list[SwiftKVVariant]:
    """Every cut 1..L-1 with every group of GROUPS that divides the layers above it."""
    return [
        SwiftKVVariant(f"cut{cut}-group{group}", 1 - cut / layers, group)
        for cut in range(1, layers)
        for group in GROUPS
        if not Layers(layers, cut, group).problem
    ]


def expected(shape: dict, student: Student) -> dict:
    """Speed-up limit of a 10:1 request and KV capacity relative to the base."""
    return {
        "speedup_10to1": costmodel.workload_speedup_limit(shape, student.cut, student.group, **WORKLOAD),
        "kv_capacity": costmodel.kv_capacity_ratio(shape, student.cut, student.group),
    }


def in_memory(config: RunConfig, shape: dict, budget: float) -> list[list[SwiftKVVariant]]:
    """The candidates in groups that train together within `budget` bytes, as few as can be, of one at least."""
    left, groups = candidates(shape["num_hidden_layers"]), []
    plans = {c.name: student_plan(shape, c, config.distill, 1.0) for c in left}

    def need(number: int) -> int:
        chosen = [plans[c.name] for c in left[:number]]
        return sum(memory(shape, chosen, 1, config.distill.batch_tokens, False).values())

    while left:
        number = max(1, largest_rows(len(left), budget, need))
        groups.append(left[:number])
        left = left[number:]
    return groups


def free_bytes() -> float:
    """What one process may take of the device that it trains on."""
    if torch.cuda.is_available():
        return (1 - KEPT_FREE) * torch.cuda.mem_get_info()[0]
    return (1 - KEPT_FREE) * psutil.virtual_memory().available


def short_config(config: RunConfig, chosen: list[SwiftKVVariant], steps: int) -> RunConfig:
    """The configuration with candidates as its variants and `steps` distillation steps."""
    variants = [{"name": c.name, "skip": c.skip, "key_value_group_size": c.key_value_group_size} for c in chosen]
    change = {"variants": variants, "distill": config.raw["distill"] | {"steps": steps}}
    return RunConfig(config.raw | change, config.path)


def table(config: RunConfig, base_dir: Path, work: Path, probes: int, steps: int) -> pd.DataFrame:
    """A row per candidate: cut, group, skip, the probes, and what it may gain."""
    tokenizer, shape = load_tokenizer(base_dir), read_shape(base_dir)
    texts = list(itertools.islice(stream_of(config, tokenizer, "test")(0), probes))
    stream = stream_of(config, tokenizer) if steps else None
    rows, groups = [], in_memory(config, shape, free_bytes())
    for number, chosen in enumerate(groups, 1):
        if len(groups) > 1:
            print(f"advise: {len(chosen)} candidates at once, {number} of {len(groups)}", flush=True)
        distillation = loop.Distillation(short_config(config, chosen, steps), base_dir, work)
        rows += probed(distillation, texts, shape, stream)
    return pd.DataFrame(rows)


def probed(distillation: loop.Distillation, texts: list[Batch], shape: dict, stream: BatchStream | None) -> list[dict]:
    """Rows of the students of a run, with a second probe after their training on `stream`."""
    teacher, students = distillation.teacher, distillation.students
    before, _ = probe(teacher, students, texts)
    rows = [
        {"cut": s.cut, "group": s.group, "skip": 1 - s.cut / shape["num_hidden_layers"]}
        | tally.row()
        | expected(shape, s)
        for s, tally in zip(students, before, strict=True)
    ]
    if stream is None:
        return rows
    distillation.resume()
    distillation.train(stream)
    after, _ = probe(teacher, students, texts)
    return [row | tally.row("_distilled") for row, tally in zip(rows, after, strict=True)]


def recommend(frame: pd.DataFrame, budget: float) -> pd.Series | None:
    """The candidate that gains most while at most `budget` of the base's answers change; more KV room breaks ties."""
    column = "answers_kept_distilled" if "answers_kept_distilled" in frame else "answers_kept"
    fit = frame[frame[column] >= 1 - budget]
    return None if fit.empty else fit.sort_values(["speedup_10to1", "kv_capacity"]).iloc[-1]


def run(config: RunConfig, base_dir: Path, out: Path, work: Path, budget: float, probes: int, steps: int) -> None:
    """Write the table of candidates (CSV) and print the recommended one. Raises UserError if none fits the budget."""
    base_dir, work = Path(base_dir), Path(work)
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    asked = {"probes": probes, "steps": steps}
    with (
        outputs.alone(work),
        Provenance("advise", config, inputs=weight_files(base_dir), out=[out], **asked) as provenance,
    ):
        torch.manual_seed(config.seed)
        frame = table(config, base_dir, work, probes, steps)
        files.write_text(out, frame.to_csv(index=False))
        provenance.save(out)
    best = recommend(frame, budget)
    if best is None:
        raise UserError(f"advise: no cut keeps {1 - budget:.1%} of the base's answers; see {out} for what each keeps")
    print(
        f"advise: cut {best.cut:.0f} of {read_config(base_dir)['num_hidden_layers']}, group {best.group:.0f}: skip "
        f"{best.skip:.3g}, at most {best.speedup_10to1:.2f}x at 10:1, {best.kv_capacity:.2f}x KV tokens (see {out})"
    )
