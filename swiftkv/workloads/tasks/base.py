"""What every task shares: an item to be answered, and a context with the questions one can ask of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Question:
    """A question on a context, the answer, and what scoring needs to know."""

    text: str
    answer: str
    meta: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """A context and the questions that can be asked of it, in random order."""

    text: str
    questions: list[Question]


@dataclass(frozen=True)
class Item:
    """One held-out example. A greedy continuation of `prompt` is compared with `answer`."""

    id: str
    task: str
    prompt: str
    answer: str
    meta: dict


@dataclass(frozen=True)
class Task:
    """A task: `make(rng, split, settings)` builds a context, `score(item, text)` judges an answer."""

    name: str
    make: Callable[[Random, str, dict], Context]
    score: Callable[[Item, str], dict[str, float]]


def normalise(text: str) -> str:
    """The answer on one line: what comes after a line break is not part of it; white space is folded."""
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()) if lines else ""


def exact(item: Item, text: str) -> float:
    """1.0 if the answer is the expected one, white space aside."""
    return float(normalise(text) == normalise(item.answer))


def token_f1(expected: list[str], given: list[str]) -> float:
    """Harmonic mean of precision and recall over words, counted with multiplicity (SQuAD's F1)."""
    common = sum(min(expected.count(word), given.count(word)) for word in set(expected))
    return 0.0 if not common else 2 * common / (len(expected) + len(given))
