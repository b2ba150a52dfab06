"""Distil every variant of a configuration in one run (`swiftkv distill`).

Teacher and students share layers 1..l, which are frozen, so one pass of the base model serves all: it leaves x_l
for every cut and the final hidden state, and each student runs its late half, at loss positions only. Each
student has its own optimiser; their updates do not depend on each other.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from swiftkv import checkpoint, files
from swiftkv.config import RunConfig
from swiftkv.convert import BASE_TYPES, check_checkpoint, read_config, weight_files, write_student
from swiftkv.distill.data import select
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.provenance import Provenance
from swiftkv.workloads.stream import Batch, batches
from swiftkv.workloads.tokens import load_tokenizer

SAVE_EVERY_S = 30
REPORT_EVERY_S = 10
ROWS_PER_STUDENT = 100  # lines of distill.jsonl

Stream = Callable[[int], Iterator[Batch]]


def rate_at(step: int, settings: dict) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up over the `warmup` share, then a cosine to zero."""
    steps, warm = settings["steps"], max(1, round(settings["steps"] * settings["warmup"]))
    if step < warm:
        return settings["learning_rate"] * (step + 1) / warm
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Distillation:
    """Teacher, students and the position in the data stream; can be saved and resumed."""

    def __init__(self, config: RunConfig, base_dir: Path, work: Path):
        self.settings, self.work = config["distill"], work
        weights = [files.sha256(path) for path in weight_files(base_dir)]
        self.key = checkpoint.key_of([self.settings, config["tasks"], config["variants"], config.seed, weights])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = Teacher(base_dir, self.device)
        self.students = [Student(variant, self.teacher, self.settings) for variant in config.variants]
        self.trainees = [student for student in self.students if student.trained]
        last = self.teacher.model.config.num_hidden_layers - 1
        self.kept_layers = {student.cut for student in self.trainees} | {last}
        self.step, self.tokens, self.seconds, self.rows = 0, 0, 0.0, []

    def save(self) -> None:
        """Write trained tensors, optimiser moments and progress to `work`, atomically."""
        tensors = {}
        for student in self.trainees:
            tensors |= {f"{student.name}:{name}": tensor for name, tensor in student.trained.items()}
            tensors |= checkpoint.optimizer_tensors(student.optimizer, f"{student.name}:optimizer")
        progress = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "rows": self.rows}
        checkpoint.save(self.work, self.key, tensors, progress)

    def resume(self) -> None:
        """Continue from `work` if it holds a checkpoint of the same configuration and base model."""
        found = checkpoint.load(self.work, self.key)
        if found is None:
            return
        tensors, progress = found
        for student in self.trainees:
            with torch.no_grad():
                for name, tensor in student.trained.items():
                    tensor.copy_(tensors[f"{student.name}:{name}"])
            checkpoint.load_optimizer(student.optimizer, tensors, f"{student.name}:optimizer")
        for name, value in progress.items():
            setattr(self, name, value)
        print(f"distill: resumed at step {self.step} of {self.settings['steps']}", flush=True)

    def train_step(self, data: Batch, pad_token_id: int) -> list[dict]:
        """One update of every student; returns one row for each."""
        began, rate = time.monotonic(), rate_at(self.step, self.settings)
        ids, answers = data.input_ids.to(self.device), data.answers.to(self.device)
        every_position = self.settings["hidden_loss"] > 0
        selection = select(ids, answers, pad_token_id, self.settings["loss_on"], every_position)
        passed = self.teacher.look(ids, selection, self.kept_layers, self.settings["temperature"])
        results = [student.step(passed, rate, self.step) for student in self.trainees]
        self.step, self.tokens = self.step + 1, self.tokens + data.tokens
        self.seconds += time.monotonic() - began
        common = {"learning_rate": rate, "tokens": self.tokens, "seconds": round(self.seconds, 3)}
        return [
            {"step": self.step, "variant": student.name}
            | {name: getattr(losses, name).item() for name in ("loss", "kl", "hidden", "agreement")}
            | common
            for student, losses in zip(self.trainees, results, strict=True)
        ]

    def report(self, rows: list[dict], began_step: int, began_tokens: int, began: float) -> None:
        """Print loss per student, speed and time left."""
        elapsed = time.monotonic() - began
        left = elapsed / (self.step - began_step) * (self.settings["steps"] - self.step)
        kl = ", ".join(f"{row['variant']} {row['kl']:.4f}" for row in rows)
        speed = (self.tokens - began_tokens) / elapsed
        steps = f"step {self.step}/{self.settings['steps']}"
        print(f"distill: {steps}, KL {kl}; {speed:.0f} tok/s, {left:.0f} s left", flush=True)

    def train(self, stream: Stream, pad_token_id: int) -> None:
        """Train to the configured step, with a checkpoint every SAVE_EVERY_S seconds and one at the end."""
        steps, every = self.settings["steps"], max(1, self.settings["steps"] // ROWS_PER_STUDENT)
        start = self.step, self.tokens, time.monotonic()
        saved = reported = time.monotonic()
        source = stream(self.step)
        while self.trainees and self.step < steps:
            rows = self.train_step(next(source), pad_token_id)
            last = self.step == steps
            if self.step % every == 0 or self.step == 1 or last:
                self.rows += rows
            if last or time.monotonic() - reported > REPORT_EVERY_S:
                self.report(rows, *start)
                reported = time.monotonic()
            if last or time.monotonic() - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()


def stream_of(config: RunConfig, tokenizer, split: str = "train") -> Stream:
    """The stream of the configuration, to be entered at any batch."""
    settings = config["distill"]
    length = settings["sequence_length"]
    rows = max(1, settings["batch_tokens"] // length)
    return lambda start: batches(config["tasks"], tokenizer, rows, length, config.seed, start, split)


def pad_id(tokenizer) -> int:
    """Padding id; models without one are padded with their end-of-sequence token."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def run(config: RunConfig, base_dir: Path, out_dir: Path, work: Path, stream: Stream | None = None) -> None:
    """Distil all variants of `config` from `base_dir`: `out_dir/<variant>/` and `out_dir/distill.jsonl`.

    Resumes from `work`. `stream(start)` replaces the task stream: batches from number `start` on. With 0 steps
    the students are the undistilled ones. Raises UserError naming variant and step if a loss is not finite.
    """
    base_dir, out_dir = Path(base_dir), Path(out_dir)
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    tokenizer = load_tokenizer(base_dir)
    with Provenance("distill", config, inputs=weight_files(base_dir)) as provenance:
        torch.manual_seed(config.seed)
        distillation = Distillation(config, base_dir, Path(work))
        distillation.resume()
        distillation.train(stream or stream_of(config, tokenizer), pad_id(tokenizer))
        for student in distillation.students:
            trained = {name: tensor.detach().cpu() for name, tensor in student.trained.items()}
            write_student(base_dir, out_dir / student.name, student.cut, student.group, trained)
        files.write_jsonl(out_dir / "distill.jsonl", distillation.rows)
        provenance.save(out_dir / "distill.jsonl")
