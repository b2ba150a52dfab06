"""What the base model trains on (`swiftkv train-base`): stages of growing contexts of the tasks, and plain text.

A batch depends on its number, the seed and, with text, the token stream that is kept in the work directory.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import AutoTokenizer

from swiftkv import files
from swiftkv.base_model import text
from swiftkv.base_model.tokenizer import train_tokenizer
from swiftkv.config import RunConfig
from swiftkv.config.training import TrainBase
from swiftkv.workloads.stream import Batch, batch

AHEAD = 8  # batches that each process makes in advance


@dataclass(frozen=True)
class CurriculumStage:
    """A stretch of the curriculum: task settings, rows of `length` tokens per step, weight of the mean loss on prompt
    tokens beside that on answer tokens, and the step after its last."""

    settings: dict
    rows: int
    length: int
    prompt_weight: float
    end: int


def stages_of(recipe: TrainBase, settings: dict) -> list[CurriculumStage]:
    """The recipe's stages: `recall` alone, or the four tasks at a share of their difficulty."""
    stages, end = [], 0
    for entry in recipe.stages:
        length, rows = entry.sequence_length, max(1, recipe.batch_tokens // entry.sequence_length)
        end += max(1, entry.tokens // (rows * length))
        chosen = {"recall": entry.recall.model_dump()} if entry.recall else scale(settings, entry.difficulty)
        stages.append(CurriculumStage(chosen, rows, length, entry.prompt_weight, end))
    return stages


def scale(settings: dict, difficulty: float) -> dict:
    """The task settings with `difficulty` times the records in every context, at least two."""
    return {t: v | {"records": max(2, round(v["records"] * difficulty))} for t, v in settings.items()}


def single_thread(_: int) -> None:
    """A process that makes batches leaves the other cores to its siblings."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Curriculum(Dataset):
    """The batches of a run by number, with the tokenizer they are made with."""

    def __init__(self, config: RunConfig, work: Path, mirror: Path | None = None):
        self.recipe, self.settings, self.seed = config.train_base, config.tasks, config.seed
        self.written = config.raw["train_base"]  # what is hashed and recorded
        self.work, self.mirror, self.text_settings = work, mirror, self.recipe.text
        self.stages = stages_of(self.recipe, self.settings)
        self.key = files.digest([self.written, self.settings, self.seed])
        self.tokenizer = self.own_tokenizer()
        self.text = self.own_text()

    def __len__(self) -> int:
        return self.stages[-1].end

    def texts(self) -> Iterator[str]:
        """The plain texts, if the recipe has any."""
        return text.texts(self.text_settings, self.mirror) if self.text_settings else iter(())

    def own_tokenizer(self):
        """The run's tokenizer, kept with the checkpoint: training one again may number equally frequent tokens anew."""
        directory = self.work / f"tokenizer-{self.key}"
        if not directory.is_dir():
            with files.atomic_dir(directory) as new:
                size = self.recipe.vocab_size
                train_tokenizer(self.settings, size, self.seed, texts=self.texts()).save_pretrained(new)
        return AutoTokenizer.from_pretrained(directory)

    def own_text(self) -> text.TokenStream | None:
        """The run's token stream, kept with the checkpoint; None without plain text."""
        if not self.text_settings:
            return None
        path = self.work / f"text-{self.key}.npy"
        if not path.is_file():
            text.write_tokens(self.texts(), self.tokenizer, path)
        return text.TokenStream.open(path, self.seed)

    def stage(self, step: int) -> CurriculumStage:
        """The stage that a step belongs to."""
        return next(stage for stage in self.stages if step < stage.end)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: rows of the tasks, then rows of text, all of whose tokens count as a prompt's."""
        stage = self.stage(step)
        plain = round(stage.rows * self.text_settings.share) if self.text else 0
        task_rows = batch(stage.settings, self.tokenizer, stage.rows - plain, stage.length, self.seed, step)
        if not plain:
            return task_rows
        rows = self.text.rows(stage.length, plain, step * plain)
        answers = torch.cat([task_rows.answers, torch.zeros(rows.shape, dtype=torch.bool)])
        lengths = torch.cat([task_rows.lengths, torch.full((len(rows),), rows.shape[1])])
        return Batch(torch.cat([task_rows.input_ids, rows]), answers, lengths)

    def batches(self, start: int, processes: int = 0) -> Iterator[Batch]:
        """Every batch from number `start` on, made in advance by `processes` others if there are any."""
        settings = {"prefetch_factor": AHEAD, "worker_init_fn": single_thread} if processes else {}
        steps = Subset(self, range(start, len(self)))
        return iter(DataLoader(steps, batch_size=None, num_workers=processes, **settings))

    def data_record(self) -> dict:
        """What the data were; `sha256` changes when they do: the ids of the first batch of every stage."""
        starts = [0, *(stage.end for stage in self.stages[:-1])]
        record = {"generator": "swiftkv.workloads.tasks", "split": "train"}
        record["sha256"] = files.digest([self[step].input_ids.tolist() for step in starts])
        return record | (
            {"text": {**self.text_settings.model_dump(), "tokens": len(self.text.tokens)}} if self.text else {}
        )
