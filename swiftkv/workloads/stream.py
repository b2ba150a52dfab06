"""Training rows: one context and as many questions with their answers as fit, for every task in turn.

Several questions per context supervise densely: look-up in context is learnt from far fewer tokens than with
one question per context. Batch i depends on the seed and on i alone, so a stream can be entered anywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch

from swiftkv.errors import UserError
from swiftkv.workloads import tasks
from swiftkv.workloads.tokens import bos_text, pad_id


@dataclass(frozen=True)
class Batch:
    """`input_ids` [rows, T] int64, right-padded; `answers` [rows, T] bool, True where a token is part of an
    answer (its end-of-sequence token included); `lengths` [rows] int64: tokens before the padding, whose id may also
    end a document; `positions` [rows, T] int64: each token's place in its own document, from 0, where a row packs
    several (None: a row is one document)."""

    input_ids: torch.Tensor
    answers: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.lengths.sum())


def segments(context: tasks.Context, eos: str) -> Iterator[tuple[str, bool]]:
    """The row's pieces in order, each with whether it is an answer."""
    yield context.text, False
    for question in context.questions:
        yield question.text, False
        yield question.answer + eos, True


def row(context: tasks.Context, tokenizer, length: int) -> tuple[list[int], list[bool]]:
    """Token ids and answer flags of a context with as many whole questions as fit in `length` tokens, begun as the
    tokenizer begins texts."""
    (text, _), *turns = segments(context, tokenizer.eos_token)
    pieces = [(bos_text(tokenizer) + text, False), *turns]
    encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
    ids, flags = list(encoded[0]), [False] * len(encoded[0])
    for question, answer in zip(encoded[1::2], encoded[2::2], strict=True):
        if len(ids) + len(question) + len(answer) > length:
            break
        ids += question + answer
        flags += [False] * len(question) + [True] * len(answer)
    if not any(flags):
        raise UserError(f"sequence_length {length}: too short for a context and one question ({len(ids)} tokens)")
    return ids, flags


def batch(settings: dict, tokenizer, rows: int, length: int, seed: int, index: int, split: str = "train") -> Batch:
    """Batch number `index` of the stream; the tasks of `settings` take turns row by row."""
    names = list(settings)
    ids = torch.full((rows, length), pad_id(tokenizer))
    answers = torch.zeros((rows, length), dtype=torch.bool)
    lengths = torch.zeros(rows, dtype=torch.int64)
    for number in range(rows):
        task = names[(index * rows + number) % len(names)]
        rng = Random(f"{task}/{split}/{seed}/{index}/{number}")
        tokens, flags = row(tasks.context(task, split, rng, settings[task]), tokenizer, length)
        ids[number, : len(tokens)], answers[number, : len(tokens)] = torch.tensor(tokens), torch.tensor(flags)
        lengths[number] = len(tokens)
    return Batch(ids, answers, lengths)


def batches(
    settings: dict, tokenizer, rows: int, sequence_length: int, seed: int, start: int = 0, split: str = "train"
) -> Iterator[Batch]:
    """Endless batches from number `start` on. Raises UserError if a context does not fit in a row."""
    while True:
        yield batch(settings, tokenizer, rows, sequence_length, seed, start, split)
        start += 1
