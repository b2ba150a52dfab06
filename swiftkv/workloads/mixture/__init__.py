"""Rows of training data that raise no question of licence, kind by kind (`distill.data.mix`).

A kind gives its rows in an order that the seed decides: `{"text": ...}`, or `{"messages": [...]}`, which ends with a
user's turn where the base has yet to answer. `training-data` takes as many as the mix asks for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from swiftkv.config import RunConfig
from swiftkv.config.data import MixEntry
from swiftkv.workloads.mixture import code, given, sql, tasks, texts

Rows = Iterator[dict]


@dataclass(frozen=True)
class Setting:
    """What rows depend on beside their entry."""

    config: RunConfig
    tokenizer: object
    mirror: Path | None

    @property
    def passage(self) -> int:
        """Characters of a passage, at most: about half of a row, which has to hold the answer, too."""
        return 2 * self.config.distill.sequence_length

    def rng(self, *path) -> Random:
        """A generator of its own for each `path`."""
        return Random("/".join(map(str, ("training-data", self.config.seed, *path))))


# Rows of an entry, given the entry and the setting; the base writes those of `own` (`distill.answers`).
MAKERS: dict[str, Callable[[MixEntry, Setting], Rows]] = {
    "text": lambda entry, at: texts.rows(entry.corpora, at.mirror, at.rng("text")),
    "documents": lambda entry, at: texts.questions(entry.corpora, at.mirror, at.passage, at.rng("documents")),
    "code": lambda entry, at: code.rows(0.5 if entry.fim is None else entry.fim, at.tokenizer, at.rng("code")),
    "tasks": lambda entry, at: tasks.rows(entry.tasks, at.config.tasks, at.rng("tasks")),
    "sql": lambda entry, at: sql.rows(at.rng("sql")),
    "file": lambda entry, at: given.rows(entry.files, at.rng("file")),
}


def answered(row: dict) -> bool:
    """Whether nothing is left for the base to answer."""
    return "messages" not in row or row["messages"][-1]["role"] == "assistant"


def text_of(row: dict) -> str:
    """All that a row says, for comparisons."""
    return row["text"] if "text" in row else "\n".join(turn["content"] for turn in row["messages"])
