"""Memory and time of a distillation before anything is loaded (`swiftkv distill --plan`), beside the time of the
published recipe's computation on the same tokens."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from swiftkv.base_model.fetch import local_dir
from swiftkv.config import RunConfig
from swiftkv.costmodel.memory import StudentPlan, base_parameters, largest_rows, memory, student_plan
from swiftkv.costmodel.training import forward_flops, head_flops, peak_flops, student_flops
from swiftkv.devices import KEPT_FREE
from swiftkv.distill.data import documents, select
from swiftkv.engines.engine import GIB
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import BASE_TYPES, read_shape
from swiftkv.workloads.rows import self_made
from swiftkv.workloads.sources import stream_of
from swiftkv.workloads.tokens import load_tokenizer

# Of a GPU's peak: the published 24 H100-hours of Llama-3.1-8B are 0.41 by the same count; ours have not been measured
# since attention and loss were made anew.
UTILISATION = 0.4
# On a CPU what is not a matrix product takes as long as the products at this hidden size: these grow with its square,
# the rest with it (docs/results/distillation.md, "Speed").
CPU_HIDDEN = 300
BATCHES = 4  # read to learn what documents look like


class DataShape(NamedTuple):
    """What decides the cost of training data beside the configuration: share of tokens that are answers, tokens of a
    document and of a step; None: those of the configuration, a row and a whole step."""

    answer_share: float = 1.0
    document: int | None = None
    step_tokens: int | None = None


@dataclass(frozen=True)
class DistillationPlan:
    """What a run on `processes` GPUs needs. Tokens and FLOPs of a step are those of all processes together; `context`
    is the tokens of a row, `document` those of a document; `asked_tokens` is the micro-batch of a process that was
    asked for, if any."""

    shape: Mapping
    students: list[StudentPlan]
    context: int
    document: int
    step_tokens: int
    processes: int
    gpu_memory_gib: float
    tflops: float
    checkpoint: bool
    utilisation: float
    asked_tokens: int | None

    def memory(self, rows: int) -> dict[str, int]:
        """Bytes per process by part, for a micro-batch of `rows`."""
        return memory(self.shape, self.students, self.processes, rows * self.context, self.checkpoint)

    @property
    def budget(self) -> float:
        """Bytes of a GPU that may be used."""
        return (1 - KEPT_FREE) * self.gpu_memory_gib * GIB

    @property
    def most_rows(self) -> int:
        """A process's rows of a step."""
        return max(1, math.ceil(self.step_tokens / (self.context * self.processes)))

    @property
    def rows(self) -> int:
        """Rows of a micro-batch: as asked for, else as many as fit, as the run does it (one where none fits)."""
        asked = self.largest_rows() if self.asked_tokens is None else self.asked_tokens // self.context
        return min(max(1, asked), self.most_rows)

    def largest_rows(self) -> int:
        """Rows of the largest micro-batch that fits; 0 if none does."""
        return largest_rows(self.most_rows, self.budget, lambda rows: sum(self.memory(rows).values()))

    @property
    def steps(self) -> int:
        return max(student.steps for student in self.students)

    @property
    def teacher_flops(self) -> int:
        """The teacher's part of a step."""
        # The teacher's logits are computed once, where the most demanding student needs them.
        at_loss = math.ceil(self.step_tokens * max(student.loss_share for student in self.students))
        layers = self.shape["num_hidden_layers"]
        return forward_flops(self.shape, layers, self.step_tokens, self.document) + head_flops(self.shape, at_loss)

    def late_flops(self, student: StudentPlan) -> int:
        """A student's part of a step, checkpointing included."""
        return student_flops(
            self.shape,
            student.cut,
            student.group,
            tokens=self.step_tokens,
            loss_tokens=math.ceil(self.step_tokens * student.loss_share),
            context=self.document,
            recompute=self.checkpoint,
            run_tokens=math.ceil(self.step_tokens * student.run_share),
        )

    def published_flops(self, student: StudentPlan) -> int:
        """The same step as the released code computes it (ArcticTraining, projects/swiftkv): whole teacher and whole
        student, logits and gradient at every position, activations checkpointed, one student per run."""
        tokens, layers = self.step_tokens, self.shape["num_hidden_layers"]
        forward = forward_flops(self.shape, layers + student.cut, tokens, self.document)
        late = student_flops(self.shape, student.cut, student.group, tokens, tokens, self.document, recompute=True)
        return forward + head_flops(self.shape, tokens) + late

    @property
    def run_flops(self) -> int:
        """The whole run."""
        late = sum(student.steps * self.late_flops(student) for student in self.students)
        return self.steps * self.teacher_flops + late

    @property
    def published_run_flops(self) -> int:
        """One run of the published computation per student."""
        return sum(student.steps * self.published_flops(student) for student in self.students)

    @property
    def step_flops(self) -> int:
        """A step of all students."""
        return self.teacher_flops + sum(map(self.late_flops, self.students))

    @property
    def tokens_per_s(self) -> float:
        """Training tokens per second while all students train."""
        return self.step_tokens / (3600 * self.hours(self.step_flops))

    def hours(self, flops: int) -> float:
        """Hours of that many FLOPs at the assumed utilisation."""
        return flops / (3600 * self.utilisation * self.tflops * 1e12 * self.processes)


def plan(
    config: RunConfig,
    shape: Mapping,
    processes: int,
    gpu_memory_gib: float,
    tflops: float,
    micro_batch_tokens: int | None,
    checkpoint_activations: bool,
    data: DataShape = DataShape(),  # noqa: B008 (immutable)
    utilisation: float = UTILISATION,
) -> DistillationPlan:
    """The plan of `config` for a base of `shape` on GPUs with a peak of `tflops` TFLOP/s each.

    `micro_batch_tokens` is a process's, None for as many as fit. What no configuration says of the `data` is by default
    what costs most. Raises UserError for a cut that does not fit the shape, weights other than q, k, v to be trained,
    or nothing to be trained.
    """
    distill = config.distill
    students = [student_plan(shape, variant, distill, data.answer_share) for variant in config.variants]
    students = [student for student in students if student.parameters and student.steps]
    if not students:
        raise UserError("plan: nothing is trained (distill.steps is 0, or every variant skips no layer)")
    return DistillationPlan(
        shape=shape,
        students=students,
        context=distill.sequence_length,
        document=data.document or distill.sequence_length,
        step_tokens=data.step_tokens or distill.batch_tokens,
        processes=processes,
        gpu_memory_gib=gpu_memory_gib,
        tflops=tflops,
        checkpoint=checkpoint_activations,
        utilisation=utilisation,
        asked_tokens=micro_batch_tokens,
    )


def base_there(config: RunConfig, base_dir: Path | None) -> Path | None:
    """The base model's directory, if it is on this machine already."""
    if base_dir is not None and Path(base_dir).is_dir():
        return Path(base_dir)
    return local_dir(config.base.path) if config.base.source == "embedded" else None


def shape_of(config: RunConfig, base_dir: Path | None) -> tuple[Mapping, str]:
    """The base model's shape and where it is from: its config.json, what it is to be trained with, or
    `throughput.model` if neither is there."""
    if (there := base_there(config, base_dir)) is not None:
        return read_shape(there, BASE_TYPES), f"{there}/config.json"
    if config.base.source == "train":
        return config.raw["train_base"], "train_base of the configuration"
    return config.shape, "throughput.model of the configuration (no base model there yet)"


def memory_here(device: torch.device) -> float:
    """GiB of the first GPU, or of this machine if it has none."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def student_table(planned: DistillationPlan) -> str:
    """A line per student."""
    whole = base_parameters(planned.shape)
    rows = [(s.name, s.cut, s.group, f"{s.parameters:,}", f"{s.parameters / whole:.1%}") for s in planned.students]
    return pd.DataFrame(rows, columns=["student", "cut", "group", "trained", "of base"]).to_string(index=False)


def memory_table(planned: DistillationPlan) -> list[str]:
    """A line per part of a process's memory, their sum, whether it fits, and the largest micro-batches that do."""
    parts, context, rows = planned.memory(planned.rows), planned.context, planned.rows
    total, batches = sum(parts.values()), math.ceil(planned.most_rows / rows)
    at_once, recomputed = (replace(planned, checkpoint=choice).largest_rows() * context for choice in (False, True))
    return [
        f"memory per process (of {planned.processes}), {batches} micro-batches a step of {rows} x {context:,} tokens, "
        f"late activations {'made again' if planned.checkpoint else 'kept'}:",
        *(f"  {part:<28}{size / GIB:>10.3g} GiB" for part, size in (parts | {"total": total}).items()),
        f"  {'fits' if total <= planned.budget else 'does not fit'} in {planned.gpu_memory_gib:.4g} GiB with "
        f"{KEPT_FREE:.0%} kept free; at most {at_once:,} tokens at once do, {recomputed:,} with --recompute",
    ]


def time_table(planned: DistillationPlan) -> list[str]:
    """Tokens, FLOPs and hours of the run."""
    tokens, run, published = planned.step_tokens, planned.run_flops, planned.published_run_flops
    return [
        f"run: {planned.steps:,} steps of {tokens:,} tokens = {planned.steps * tokens / 1e6:,.0f} M tokens; "
        f"{planned.step_flops:.3g} FLOPs a step, {run:.3g} in all",
        f"time: {planned.hours(run):.3g} h, {planned.tokens_per_s:,.0f} tokens/s; the published computation (whole "
        f"models, one student a run): {planned.hours(published):.3g} h",
    ]


def report(planned: DistillationPlan, source: str, speed: str) -> str:
    """The plan in words."""
    shares = ", ".join(f"{share:.0%}" for share in sorted({s.loss_share for s in planned.students}))
    return "\n".join(
        [
            f"plan: base of {base_parameters(planned.shape):,} parameters, from {source}",
            student_table(planned),
            *memory_table(planned),
            *time_table(planned),
            f"assumed: {planned.utilisation:.0%} of {planned.tflops:.4g} TFLOP/s a process ({speed}); "
            f"loss at {shares} of the positions, documents of {planned.document:,} tokens",
        ]
    )


def here(
    config: RunConfig,
    base_dir: Path | None,
    processes: int = 1,
    gpu_memory_gib: float | None = None,
    tflops: float | None = None,
    micro_batch_tokens: int | None = None,
    checkpoint_activations: bool = False,
    answer_share: float | None = None,
) -> tuple[DistillationPlan, str, str]:
    """The plan, and where the shape and the speed are from. What is not given is this machine's: GiB and peak TFLOP/s
    of its first GPU, or its own where there is none; and the data's, where base and data are there. Raises UserError
    as `plan` does."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_cpu = device.type == "cpu" and not tflops and not gpu_memory_gib
    if on_cpu:  # the run takes a whole step at once there
        micro_batch_tokens = micro_batch_tokens or config.distill.batch_tokens
    shape, source = shape_of(config, base_dir)
    peak, speed = (tflops * 1e12, "given") if tflops else peak_flops(device)
    planned = plan(
        config,
        shape,
        processes=processes,
        gpu_memory_gib=gpu_memory_gib or memory_here(device),
        tflops=peak / 1e12,
        micro_batch_tokens=micro_batch_tokens,
        checkpoint_activations=checkpoint_activations,
        data=data_shape(config, base_dir) if answer_share is None else DataShape(answer_share),
        utilisation=cpu_utilisation(shape) if on_cpu else UTILISATION,
    )
    return planned, source, speed


def show(config: RunConfig, base_dir: Path | None, *choices, **named) -> DistillationPlan:
    """Print the plan of `here` and return it. Raises UserError as `plan` does."""
    planned, source, speed = here(config, base_dir, *choices, **named)
    print(report(planned, source, speed), flush=True)
    return planned


def cpu_utilisation(shape: Mapping) -> float:
    """The share of a CPU's peak that a distillation reaches."""
    return shape["hidden_size"] / (shape["hidden_size"] + CPU_HIDDEN)


def data_shape(config: RunConfig, base_dir: Path | None) -> DataShape:
    """What the first batches of the configured data look like, if the base, whose tokenizer it takes, and the data are
    on this machine; else what costs most."""
    there = base_there(config, base_dir)
    data = config.distill.data.source
    if there is None or data == "hub" or (data == "self" and not self_made(config).is_file()):
        return DataShape()
    tokens = answers = ends = 0
    for batch in islice(stream_of(config, load_tokenizer(there))(0), BATCHES):
        texts = documents(batch)
        tokens, ends = tokens + len(texts.ids), ends + len(texts.bounds) - 1
        answers += int(select(texts, "answers", False).loss.sum())
    return DataShape(answers / tokens, tokens // ends, tokens // BATCHES)
