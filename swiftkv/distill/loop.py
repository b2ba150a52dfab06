"""Distil every variant of a configuration in one run (`swiftkv distill`).

Teacher and students share layers 1..l, which are frozen, so one pass of the base model serves all: it leaves x_l
for every cut and the final hidden state, and each student runs its late half, at loss positions only. Each
student has its own optimiser, step and checkpoint; their updates do not depend on each other.
"""

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from swiftkv import files, outputs
from swiftkv.config import RunConfig
from swiftkv.costmodel.memory import SHARED_BYTES, largest_rows, memory, student_plan
from swiftkv.costmodel.training import peak_flops, step_flops
from swiftkv.devices import KEPT_FREE
from swiftkv.distill import parallel
from swiftkv.distill.data import Documents, ahead, documents, part, select
from swiftkv.distill.parallel import World
from swiftkv.distill.progress import Progress, write_rows
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.distill.trainee import Trainee
from swiftkv.errors import UserError
from swiftkv.modeling import trained
from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files
from swiftkv.modeling.convert import REPLACED, write_student
from swiftkv.provenance import Provenance
from swiftkv.registry import FILES
from swiftkv.workloads.rows import local_files
from swiftkv.workloads.sources import BatchStream, stream_of
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import load_tokenizer

SAVE_EVERY_S = 30
CURVES = FILES["distill"].file
DROPPED = "dropped.json"


@dataclass(frozen=True)
class Options:
    """What depends on the machine and changes no result beyond rounding: tokens of a micro-batch per process (None: on
    a GPU as many as fit, on a CPU the whole batch), whether late layers are run again in the backward pass to save
    memory, whether float32 is used even where bfloat16 is faster, and where the rows of data source `self` lie (None:
    in the run's results)."""

    micro_batch_tokens: int | None = None
    recompute: bool = False
    float32: bool = False
    data: Path | None = None


class Distillation:
    """Teacher, students and their positions in the data stream; can be saved and resumed."""

    def __init__(self, config: RunConfig, base_dir: Path, work: Path, world: World | None = None, options=None):
        self.world, self.options, self.flops = world or parallel.join(), options or Options(), 0
        self.config, self.micro_rows = config, None
        several = len(config.variants) > 1
        keep_bytes = SHARED_BYTES[self.world.device.type] if several else 0
        self.teacher = Teacher(base_dir, self.world, self.options.float32, keep_bytes)
        self.students = [
            Student(variant, self.teacher, config.distill, self.options.recompute) for variant in config.variants
        ]
        self.records = self.go_on(base_dir)
        if self.world.size > 1:
            check_sharding(config, self.world.size)
            parallel.shard(self.teacher, self.students)
        data = [config.tasks, config.seed, *map(files.sha256, data_files(config, base_dir, self.options))]
        self.trainees = [Trainee(s, files.digest([data, *decisive(s)]), work) for s in self.students if s.trained]

    def go_on(self, base_dir: Path) -> dict[str, dict]:
        """Put the students that have a `start` there; returns the records of their training so far."""
        going_on = [student for student in self.students if student.start]
        base = trained.content_sha256(base_dir) if going_on else ""
        return {student.name: student.go_on_from_start(base) for student in going_on}

    def active(self) -> list[Trainee]:
        """The students that are trained next: those furthest behind."""
        left = [trainee for trainee in self.trainees if trainee.active]
        first = min((trainee.step for trainee in left), default=0)
        return [trainee for trainee in left if trainee.step == first]

    def resume(self) -> None:
        """Continue from the checkpoints that belong to this configuration and base model."""
        for trainee in self.trainees:
            trainee.resume()
            if trainee.step and self.world.first:
                steps = trainee.recipe.steps
                print(f"distill: {trainee.name} resumed at step {trainee.step} of {steps}", flush=True)

    def save(self) -> None:
        """Write a checkpoint of every student."""
        for trainee in self.trainees:
            trainee.save()

    def micro_batches(self, data: Batch) -> list[Batch]:
        """This process's rows, in parts that fit."""
        mine = range(len(data.input_ids))[self.world.rank :: self.world.size]
        if self.micro_rows is None:
            self.micro_rows = self.rows_at_once(data, len(mine))
        size = self.micro_rows
        return [part(data, torch.tensor(mine[first : first + size])) for first in range(0, len(mine), size)]

    def rows_at_once(self, data: Batch, most: int) -> int:
        """Rows of a micro-batch: as asked for, else on a GPU as many of `most` as fit beside what it holds already."""
        if asked := self.options.micro_batch_tokens:
            return max(1, asked // data.input_ids.shape[1])
        if self.world.device.type == "cpu" or any(student.own_trunk for student in self.students):
            return most
        shape, answers = self.teacher.model.config.to_dict(), int(select(documents(data), "answers", False).loss.sum())
        share = answers / max(1, data.tokens)
        plans = [student_plan(shape, variant, self.config.distill, share) for variant in self.config.variants]
        plans, per_row = [plan for plan in plans if plan.parameters], math.ceil(data.tokens / len(data.input_ids))
        processes, again = self.world.size, self.options.recompute
        free = torch.cuda.mem_get_info(self.world.device)[0] + torch.cuda.memory_reserved(self.world.device)
        fitting = largest_rows(
            most,
            (1 - KEPT_FREE) * free,
            lambda rows: sum(memory(shape, plans, processes, rows * per_row, again).values()),
        )
        return max(1, fitting)

    def denominators(self, texts: Documents, turn: list[Trainee]) -> dict[str, tuple[int, int]]:
        """Per student: loss positions of the whole batch, and its positions that are run times the hidden size."""
        hidden, counts = self.teacher.model.config.hidden_size, {}
        for key in {trainee.student.chosen for trainee in turn}:
            chosen = select(texts, *key)
            counts[key] = max(1, int(chosen.loss.sum())), max(1, len(chosen.index) * hidden)
        return {trainee.name: counts[trainee.student.chosen] for trainee in turn}

    def train_step(self, data: Batch) -> list[dict]:
        """One update of the students that are furthest behind; returns one row for each that is not dropped."""
        began, turn = time.monotonic(), self.active()
        layers = set().union(*(trainee.student.kept_layers for trainee in turn))
        texts = documents(data)
        counts = self.denominators(texts, turn)
        for micro in self.micro_batches(data):
            passed = self.teacher.run(micro, layers)
            for trainee in turn:
                trainee.accumulate(passed, *counts[trainee.name])
        rows = [(trainee, trainee.update(*counts[trainee.name])) for trainee in turn]
        self.flops += self.step_flops(texts, turn, list(counts.values()))
        seconds = time.monotonic() - began
        return [trainee.advance(row, data.tokens, seconds) for trainee, row in rows if row is not None]

    def step_flops(self, texts: Documents, turn: list[Trainee], counts: list[tuple[int, int]]) -> int:
        """FLOPs of one step of these students, without what recomputing adds (for the MFU)."""
        config = self.teacher.model.config
        students = [(trainee.student.cut, trainee.student.group) for trainee in turn]
        loss, run = max(loss for loss, _ in counts), max(values // config.hidden_size for _, values in counts)
        tokens = len(texts.ids)
        context = tokens // max(1, len(texts.bounds) - 1)
        return step_flops(config.to_dict(), students, tokens, loss, max(1, context), run_tokens=run)

    def peak(self) -> float:
        """FLOP/s that all processes could reach, read off or measured now."""
        return peak_flops(self.world.device)[0] * self.world.size

    def train(self, stream: BatchStream) -> None:
        """Train to the configured step, with a checkpoint every SAVE_EVERY_S seconds and one at the end."""
        steps = max((trainee.recipe.steps for trainee in self.trainees), default=0)
        saved, at, source = time.monotonic(), -1, iter(())
        progress = None
        while turn := self.active():
            if turn[0].step != at:
                at = turn[0].step
                source = ahead(stream(at))
            progress = progress or Progress(steps, at, self.peak, self.world.first)
            data = next(source)
            rows, at = self.train_step(data), at + 1
            progress.count(at, data.tokens, self.flops)
            progress.show(rows, [f"{t.name}: {t.dropped}" for t in turn if t.dropped], not self.active())
            if self.world.agree(time.monotonic() - saved > SAVE_EVERY_S):
                self.save()
                saved = time.monotonic()
        self.save()


def check_sharding(config: RunConfig, processes: int) -> None:
    """Raise UserError for what several processes cannot do."""
    shared = config.distill
    rows = max(1, shared.batch_tokens // shared.sequence_length)
    if rows % processes:
        raise UserError(
            f"distill: {processes} processes cannot share {rows} rows evenly; distill.batch_tokens / "
            "distill.sequence_length must be a multiple of the processes"
        )
    for variant in config.variants:
        if processes > 1 and variant.recipe(shared).train == "layers":
            raise UserError(f"distill: variant {variant.name}: train: layers runs on one process, not on {processes}")


def decisive(student: Student) -> list:
    """What decides a student's training beside the data."""
    start = [files.sha256(student.start)] if student.start else []
    return [student.recipe.model_dump(exclude_unset=True), student.cut, student.group, *start]


def data_files(config: RunConfig, base_dir: Path, options: Options | None = None) -> list[Path]:
    """The files a run depends on: weights of the base, and local training data."""
    return [*weight_files(base_dir), *local_files(config, options and options.data)]


def export(distillation: Distillation, config: RunConfig, base_dir: Path, out_dir: Path) -> None:
    """Write every student that is not dropped, the curves, and the record of those that are."""
    world, dropped = distillation.world, {t.name: t.dropped for t in distillation.trainees if t.dropped}
    for student in distillation.students:
        tensors = {name: parallel.whole(tensor) for name, tensor in student.trained.items()}
        if world.first and student.name not in dropped:
            write_student(base_dir, out_dir / student.name, student.cut, student.group, tensors)
    if world.first:
        rows = [row for trainee in distillation.trainees for row in trainee.rows]
        write_rows(out_dir / CURVES, rows, [variant.name for variant in config.variants])
        (out_dir / DROPPED).unlink(missing_ok=True)
        if dropped:
            files.write_json(out_dir / DROPPED, dropped)


def start(config: RunConfig, base_dir: Path, out_dir: Path, work: Path, options: Options, processes: int = 1) -> None:
    """`run`, on `processes` processes of this machine (or on those that torchrun has already started)."""
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    check_sharding(config, processes)
    parallel.launch(processes)
    try:
        run(config, base_dir, out_dir, work, options)
    finally:
        parallel.leave()


def run(
    config: RunConfig,
    base_dir: Path,
    out_dir: Path,
    work: Path,
    options: Options | None = None,
    stream: BatchStream | None = None,
) -> None:
    """Distil all variants of `config` from `base_dir`: `out_dir/<variant>/` and `out_dir/distill.jsonl`.

    Resumes from `work`. `stream(start)` replaces the configured data: batches from number `start` on. With 0 steps
    the students are the undistilled ones. A student whose loss is not finite or diverges is dropped and the others go
    on; once they are written, a UserError names it (its last checkpoint stays, and the next run continues from there).
    """
    base_dir, out_dir = Path(base_dir), Path(out_dir)
    for variant in config.variants:
        outputs.check_dir(out_dir / variant.name, REPLACED["distill"], [base_dir])
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    source = stream or stream_of(config, load_tokenizer(base_dir), made=options and options.data)
    starts = [variant.start_file for variant in config.variants if variant.start]
    inputs = [*data_files(config, base_dir, options), *starts]
    with Provenance("distill", config, inputs=inputs, out=[out_dir / CURVES]) as provenance, ExitStack() as stack:
        torch.manual_seed(config.seed)
        distillation = Distillation(config, base_dir, Path(work), options=options)
        if distillation.world.first:
            stack.enter_context(outputs.alone(Path(work)))
        distillation.resume()
        distillation.train(source)
        export(distillation, config, base_dir, out_dir)
        if distillation.world.first:
            provenance.record |= {"started_from": distillation.records} if distillation.records else {}
            if rows := getattr(source, "record", None):  # of what was read; the tasks are made from the configuration
                provenance.record["training_rows"] = rows
            provenance.save(out_dir / CURVES)
    if lost := [f"variant {trainee.name}: {trainee.dropped}" for trainee in distillation.trainees if trainee.dropped]:
        raise UserError(
            f"distill: {'; '.join(lost)}; the other students are written, the last checkpoint of this one is kept "
            "(a lower distill.learning_rate, for this variant alone if you like, may help)"
        )
