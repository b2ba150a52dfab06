"""Recall: lines of names, to be finished from their first word. Used to warm up training, never scored.

Nearly every token of it is look-up in context (what followed this word before?), the skill all four tasks rest on.
"""

from random import Random

from swiftkv.workloads.names import draw
from swiftkv.workloads.tasks.base import Context, Item, Question, Task, exact

REPEATS = 40  # more lines than fit in a row: rows are always full


def make(rng: Random, split: str, settings: dict) -> Context:
    """Two to `records` lines of two to `values` names, then lines again in random order."""
    count, length = (rng.randint(2, max(2, settings[key])) for key in ("records", "values"))
    names = draw(rng, split, count * length)
    lines = [" " + " ".join(names[start : start + length]) for start in range(0, len(names), length)]
    chosen = (rng.choice(lines).partition("_") for _ in range(REPEATS))
    return Context("".join(f"{line}\n" for line in lines), [Question(head, "_" + rest) for head, _, rest in chosen])


def score(item: Item, text: str) -> dict[str, float]:
    """Exact match."""
    return {"score": exact(item, text)}


TASK = Task("recall", make, score)
