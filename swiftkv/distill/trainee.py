"""A student in training: optimiser, progress, and the checkpoint that a run on any number of processes resumes from.

Every student has its own step and checkpoint, so one that fails leaves the others untouched, and one that is added
to a finished run trains alone.
"""

import math
import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from swiftkv import files
from swiftkv.config.training import Distill
from swiftkv.distill.parallel import gradient_norm
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import TeacherPass
from swiftkv.errors import UserError

CLIP = 1.0  # largest norm of a student's gradient
RECENT = 20  # losses whose mean says whether a student diverges
DIVERGED = 10.0  # times the first loss
LEAST_LOSS = 0.1  # a student that starts nearly perfect may lose this much
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
ROWS = 100  # lines of distill.jsonl per student


def rate_at(step: int, recipe: Distill) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up over the `warmup` share, then a cosine or line to zero."""
    steps, warm = recipe.steps, max(1, round(recipe.steps * recipe.warmup))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    left = 1 - done if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return recipe.learning_rate * left


class Trainee:
    """One student with its optimiser (AdamW, no weight decay) and its position in the data stream."""

    def __init__(self, student: Student, key: str, work: Path):
        self.student, self.key, self.work = student, key, work / student.name
        self.name, self.recipe, self.world = student.name, student.recipe, student.teacher.world
        self.step, self.tokens, self.seconds, self.rows, self.losses = 0, 0, 0.0, [], []
        self.dropped: str | None = None
        self.saved = 0
        trained = student.trained.values()
        kinds = [[p for p in trained if isinstance(p, DTensor) == sharded] for sharded in (True, False)]
        groups = [{"params": kind} for kind in kinds if kind]
        self.optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.999), weight_decay=0.0)
        for parameter in trained:
            moments = {name: torch.zeros_like(parameter) for name in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
        self.sums = self.zeros()

    def zeros(self) -> torch.Tensor:
        """Sums of a batch that has not begun: KL, agreeing positions, squared error."""
        return torch.zeros(3, dtype=torch.float64, device=self.student.teacher.device)

    @property
    def active(self) -> bool:
        """Whether there is more to train."""
        return self.dropped is None and self.step < self.recipe.steps

    def accumulate(self, passed: TeacherPass, positions: int, values: int) -> None:
        """Add the gradient of one micro-batch. `positions` are the loss positions of the whole batch, `values` its
        positions that are run, times the hidden size."""
        with self.student.teacher.autocast():
            sums = self.student.sums(passed)
            loss = sums.kl / positions + self.recipe.hidden_loss * sums.squares / values
        (loss * self.world.size).backward()  # gradients are averaged over the processes
        self.sums += torch.stack([sums.kl.detach().double(), sums.agreeing.double(), sums.squares.detach().double()])

    def update(self, positions: int, values: int) -> dict | None:
        """Finish a step: the row of its losses, or None if the student is dropped because they are not finite."""
        kl, agreeing, squares = self.world.total(self.sums).tolist()
        row = {"kl": kl / positions, "hidden": squares / values, "agreement": agreeing / positions}
        row = {"loss": row["kl"] + self.recipe.hidden_loss * row["hidden"], **row}
        rate, self.sums = rate_at(self.step, self.recipe), self.zeros()
        parameters = list(self.student.trained.values())
        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                self.world.mean(parameter.grad)
        row["gradient_norm"] = gradient_norm(parameters).item()
        self.losses = [*self.losses, row["loss"]][-RECENT:] if self.step else [row["loss"]]
        if self.failed(row):
            return None
        self.descend(parameters, rate, row["gradient_norm"])
        return row | {"learning_rate": rate}

    def failed(self, row: dict) -> bool:
        """Drop the student if a loss or gradient is not finite, or its loss has grown far beyond the first."""
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(row[name]):
                self.dropped = f"{name.replace('_', ' ')} is {row[name]} at step {self.step}"
                return True
        if len(self.losses) == RECENT:
            mean, limit = sum(self.losses) / RECENT, DIVERGED * max(self.rows[0]["loss"], LEAST_LOSS)
            if mean > limit:
                self.dropped = f"loss diverges: {mean:.3g} over the last {RECENT} steps to step {self.step}"
        return self.dropped is not None

    def descend(self, parameters: list[torch.Tensor], rate: float, norm: float) -> None:
        """One step of the optimiser, the gradient clipped to norm CLIP."""
        for parameter in parameters:
            parameter.grad.mul_(min(1.0, CLIP / (norm + 1e-6)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def advance(self, row: dict, tokens: int, seconds: float) -> dict:
        """Count the step and keep its row if it is one of ROWS."""
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + tokens, self.seconds + seconds
        counts = {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
        row = {"step": self.step, "variant": self.name, **row, **counts}
        every = max(1, self.recipe.steps // ROWS)
        if self.step % every == 0 or self.step == 1 or not self.active:
            self.rows.append(row)
        return row

    def tensors(self) -> dict[str, torch.Tensor]:
        """Trained tensors and moments, by name."""
        found = {}
        for name, parameter in self.student.trained.items():
            found[name] = parameter.detach()
            for moment in MOMENTS:
                found[f"{name}/{moment}"] = self.optimizer.state[parameter][moment]
        return found

    def save(self) -> None:
        """Replace the checkpoint: every process writes its shards (safetensors), the first one makes them count."""
        if self.dropped or self.step == self.saved:
            return
        folder, temporary = self.work / f"step-{self.step}", self.work / ".unfinished"
        if self.world.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.world.wait()
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that a process alone is alone
            dcp.save(self.tensors(), storage_writer=writer, no_dist=self.world.size == 1)
        self.world.wait()
        if self.world.first:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            progress = {name: getattr(self, name) for name in ("key", "step", "tokens", "seconds", "rows", "losses")}
            files.write_json(self.work / "progress.json", progress)
            for old in self.work.glob("step-*"):
                if old != folder and old.name.removeprefix("step-").isdecimal():
                    shutil.rmtree(old)
        self.world.wait()
        self.saved = self.step

    def resume(self) -> None:
        """Continue from the checkpoint if there is one of this key. Raises UserError if it is damaged."""
        if not (self.work / "progress.json").is_file():
            return
        progress = files.read_json(self.work / "progress.json")
        if progress.pop("key") != self.key:
            return
        folder = self.work / f"step-{progress['step']}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader = HuggingFaceStorageReader(str(folder))
                dcp.load(self.tensors(), storage_reader=reader, no_dist=self.world.size == 1)
        except (Exception, CheckpointException) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{folder}: damaged checkpoint ({reason}); delete {self.work} to start over") from None
        for name, value in progress.items():
            setattr(self, name, value)
        self.saved = self.step
        for state in self.optimizer.state.values():
            state["step"].fill_(self.step)
