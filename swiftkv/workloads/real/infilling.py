"""HumanEval single-line infilling: one line is missing from a function (https://arxiv.org/abs/2207.14255)."""

from swiftkv.workloads.real import published
from swiftkv.workloads.real.base import Example, RealTask
from swiftkv.workloads.real.python_text import edit_similarity, normal_form
from swiftkv.workloads.tasks.base import Item

FILE = "HumanEval-SingleLineInfilling.jsonl.gz"


def examples(settings: dict) -> list[Example]:
    """Every gap of the published set. The code before it comes last, so that any model can go on from there."""
    return [example(row) for row in published.rows(FILE)]


def example(row: dict) -> Example:
    """One gap; the answer is the line with its indentation."""
    before, after = row["prompt"], row["suffix"]
    follows = f"It is followed by:\n\n```python\n{after}```" if after else "It is the last one."
    return Example(
        id=row["task_id"],
        instruction=f"One line is missing from a Python function. {follows}\n\nThe function with the missing line:\n\n",
        lead=f"```python\n{before}",
        answer=row["canonical_solution"].rstrip("\n"),
        meta={"before": before, "after": after},
        hole=(before, after),
    )


def score(item: Item, text: str) -> dict[str, float]:
    """Score 1.0 if the function parses to the expected one, so that spacing and comments do not count.

    `exact_match` and `edit_similarity` compare the line; `valid` says whether the whole function parses.
    """
    line = text.split("\n")[0].rstrip()
    given, expected = (
        normal_form(f"{item.meta['before']}{middle}\n{item.meta['after']}") for middle in (line, item.answer)
    )
    return {
        "score": float(given is not None and given == expected),
        "exact_match": float(line == item.answer.rstrip()),
        "edit_similarity": edit_similarity(item.answer.strip(), line.strip()),
        "valid": float(given is not None),
    }


METRICS = ("score", "exact_match", "edit_similarity", "valid")
TASK = RealTask("humaneval_infilling", examples, score, METRICS, stop=("\n",), max_new_tokens=64, files=(FILE,))
