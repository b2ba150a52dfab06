"""Summarisation: a service log, of which the lines of the asked severities matter."""

from random import Random

from swiftkv.workloads.names import draw
from swiftkv.workloads.tasks.base import Context, Item, Question, Task, exact, normalise, token_f1

NOISE = ("INFO", "DEBUG", "TRACE")
SEVERITIES = ("ERROR", "WARN", "FATAL", "ALERT", "AUDIT")


def make(rng: Random, split: str, settings: dict) -> Context:
    """`records` log lines, one of each severity and the rest noise; a summary names `values` of the severe ones."""
    records, values = settings["records"], settings["values"]
    names = draw(rng, split, 2 * records)
    codes = rng.sample(range(10, 100), records)
    facts = [f"{names[2 * i]} {codes[i]} {names[2 * i + 1]}" for i in range(records)]
    severe = rng.sample(SEVERITIES, min(len(SEVERITIES), records))
    levels = severe + [rng.choice(NOISE) for _ in range(records - len(severe))]
    lines = [f"{level} {fact}\n" for level, fact in zip(levels, facts, strict=True)]
    rng.shuffle(lines)
    known = dict(zip(levels, facts, strict=True))
    questions = [ask(rng.sample(severe, min(values, len(severe))), known) for _ in range(records)]
    return Context("# log\n" + "".join(lines), questions)


def ask(levels: list[str], known: dict[str, str]) -> Question:
    """Ask for the facts of `levels`, in that order."""
    first, *others = levels
    answer = f" {known[first]}" + "".join(f" ; {level} {known[level]}" for level in others)
    facts = [f"{level} {known[level]}".split() for level in levels]
    return Question(f"summary of {' '.join(levels)}\n{first}", answer, {"first": first, "facts": facts})


def score(item: Item, text: str) -> dict[str, float]:
    """Field-level F1: severity, service, code and host of every fact asked for."""
    given = f"{item.meta['first']} {normalise(text)}".replace(";", " ").split()
    expected = [field for fact in item.meta["facts"] for field in fact]
    return {"score": token_f1(expected, given), "exact_match": exact(item, text)}


TASK = Task("summarise", make, score)
