"""Which cut can a base model take? Cheap probes of every cut and group, beside what each may gain (`swiftkv advise`).

A candidate is probed on held-out text with one teacher pass for all: KL to the base, and the share of answer tokens and
of whole answers on which both choose the same; first as converted, then after a short joint distillation. Expected
speed-up and KV capacity follow from the FLOPs model for a 10:1 workload.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from swiftkv import costmodel, files
from swiftkv.config import RunConfig, SwiftKVVariant
from swiftkv.convert import BASE_TYPES, check_checkpoint, read_config, weight_files
from swiftkv.distill import loop
from swiftkv.distill.data import Selection, select
from swiftkv.distill.loss import divergence
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher, TeacherPass
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import load_tokenizer

WORKLOAD = {"input_len": 2000, "output_len": 200}
GROUPS = (1, 2, 4, 8)


@dataclass
class Tally:
    """Sums over the probed positions."""

    kl: float = 0.0
    tokens: int = 0
    tokens_kept: int = 0
    answers: int = 0
    answers_kept: int = 0

    def row(self, suffix: str) -> dict:
        """The means as columns."""
        return {
            f"kl{suffix}": self.kl / self.tokens,
            f"tokens_kept{suffix}": self.tokens_kept / self.tokens,
            f"answers_kept{suffix}": self.answers_kept / self.answers,
        }


def candidates(layers: int) -> list[SwiftKVVariant]:
    """Every cut 1..L-1 with every group of GROUPS that divides the layers above it."""
    return [
        SwiftKVVariant(f"cut{cut}-group{group}", 1 - cut / layers, group)
        for cut in range(1, layers)
        for group in GROUPS
        if (layers - cut) % group == 0
    ]


def answer_numbers(selection: Selection) -> torch.Tensor:
    """For every loss position, in order [N]: the number of the answer it belongs to (a run of neighbours in a row)."""
    starts = torch.ones_like(selection.loss)
    starts[:, 1:] = selection.positions[:, 1:] != selection.positions[:, :-1] + 1
    return (starts & selection.loss)[selection.loss].cumsum(0) - 1


@torch.no_grad()
def probe(student: Student, passed: TeacherPass, tally: Tally) -> None:
    """Add one batch to the tally of a student."""
    with student.teacher.autocast():
        _, hidden = student.late_half(passed)
        final = student.teacher.model.model.norm(hidden[passed.selection.loss])
    kept, targets = [], passed.targets
    for chunk in targets.chunks():
        teacher_log, top = targets.of(chunk)
        logits = targets.head(final[chunk].to(targets.hidden.dtype)).float()
        tally.kl += divergence(logits, teacher_log, targets.temperature).item()
        kept.append(logits.argmax(-1) == top)
    kept, numbers = torch.cat(kept), answer_numbers(passed.selection)
    wrong = torch.zeros(int(numbers.max()) + 1, dtype=torch.long, device=kept.device).index_add_(
        0, numbers, (~kept).long()
    )
    tally.tokens, tally.tokens_kept = tally.tokens + len(kept), tally.tokens_kept + int(kept.sum())
    tally.answers, tally.answers_kept = tally.answers + len(wrong), tally.answers_kept + int((wrong == 0).sum())


def probe_all(teacher: Teacher, students: list[Student], texts: list[Batch], pad_token_id: int) -> list[Tally]:
    """A tally per student; one teacher pass per batch."""
    tallies = [Tally() for _ in students]
    for number, data in enumerate(texts, 1):
        ids, answers = data.input_ids.to(teacher.device), data.answers.to(teacher.device)
        selection = select(ids, answers, pad_token_id, "answers", every_position=False)
        passed = teacher.look(ids, selection, {student.cut for student in students}, temperature=1.0)
        for student, tally in zip(students, tallies, strict=True):
            probe(student, passed, tally)
        print(f"advise: {number} of {len(texts)} batches probed", flush=True)
    return tallies


def expected(shape: dict, student: Student) -> dict:
    """Speed-up limit of a 10:1 request and KV capacity relative to the base."""
    return {
        "speedup_10to1": costmodel.workload_speedup_limit(shape, student.cut, student.group, **WORKLOAD),
        "kv_capacity": costmodel.kv_capacity_ratio(shape, student.cut, student.group),
    }


def short_config(config: RunConfig, layers: int, steps: int) -> RunConfig:
    """The configuration with every candidate as a variant and `steps` distillation steps."""
    variants = [
        {"name": c.name, "skip": c.skip, "key_value_group_size": c.key_value_group_size} for c in candidates(layers)
    ]
    return RunConfig(config.raw | {"variants": variants, "distill": config["distill"] | {"steps": steps}}, config.path)


def table(config: RunConfig, base_dir: Path, work: Path, probes: int, steps: int) -> pd.DataFrame:
    """A row per candidate: cut, group, skip, the probes, and what it may gain."""
    tokenizer, shape = load_tokenizer(base_dir), read_config(base_dir)
    layers, pad = shape["num_hidden_layers"], loop.pad_id(tokenizer)
    distillation = loop.Distillation(short_config(config, layers, steps), base_dir, work)
    texts = list(itertools.islice(loop.stream_of(config, tokenizer, "test")(0), probes))
    students = distillation.students
    found = [
        {"cut": s.cut, "group": s.group, "skip": 1 - s.cut / layers} | t.row("") | expected(shape, s)
        for s, t in zip(students, probe_all(distillation.teacher, students, texts, pad), strict=True)
    ]
    if steps:
        distillation.resume()
        distillation.train(loop.stream_of(config, tokenizer), pad)
        after = probe_all(distillation.teacher, students, texts, pad)
        found = [row | tally.row("_distilled") for row, tally in zip(found, after, strict=True)]
    return pd.DataFrame(found)


def recommend(frame: pd.DataFrame, budget: float) -> pd.Series | None:
    """The candidate that gains most while at most `budget` of the base's answers change; more KV room breaks ties."""
    column = "answers_kept_distilled" if "answers_kept_distilled" in frame else "answers_kept"
    fit = frame[frame[column] >= 1 - budget]
    return None if fit.empty else fit.sort_values(["speedup_10to1", "kv_capacity"]).iloc[-1]


def run(config: RunConfig, base_dir: Path, out: Path, work: Path, budget: float, probes: int, steps: int) -> None:
    """Write the table of candidates (CSV) and print the recommended one. Raises UserError if none fits the budget."""
    base_dir = Path(base_dir)
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    with Provenance("advise", config, inputs=weight_files(base_dir), probes=probes, steps=steps) as provenance:
        torch.manual_seed(config.seed)
        frame = table(config, base_dir, Path(work), probes, steps)
        files.write_text(out, frame.to_csv(index=False))
        provenance.save(out)
    best = recommend(frame, budget)
    if best is None:
        raise UserError(f"advise: no cut keeps {1 - budget:.1%} of the base's answers; see {out} for what each keeps")
    print(
        f"advise: cut {best.cut:.0f} of {read_config(base_dir)['num_hidden_layers']}, group {best.group:.0f}: skip "
        f"{best.skip:.3g}, at most {best.speedup_10to1:.2f}x at 10:1, {best.kv_capacity:.2f}x KV tokens (see {out})"
    )
