"""HumanEval: write a function from its docstring (https://arxiv.org/abs/2107.03374).

Generated code is never run, so there is no pass@1 here: an answer is parsed and compared with the published solution.
"""

from swiftkv.workloads.real import published
from swiftkv.workloads.real.base import Example, RealTask
from swiftkv.workloads.real.python_text import edit_similarity, normal_form
from swiftkv.workloads.tasks.base import Item

FILE = "HumanEval.jsonl.gz"
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")  # what follows a finished function


def examples(settings: dict) -> list[Example]:
    """Every problem of the published set."""
    return [example(row) for row in published.rows(FILE)]


def example(row: dict) -> Example:
    """One problem; the answer is the function's body."""
    return Example(
        id=row["task_id"],
        instruction="Write a Python function that does what its docstring says.\n\n",
        lead=f"```python\n{row['prompt']}",
        answer=row["canonical_solution"],
        meta={"before": row["prompt"]},
    )


def score(item: Item, text: str) -> dict[str, float]:
    """Score: edit similarity to the published body if the function parses, else 0. It is not pass@1.

    `exact_match` compares the syntax trees.
    """
    body = text.split("```")[0].rstrip()
    given, expected = (normal_form(item.meta["before"] + body) for body in (body, item.answer))
    valid = float(given is not None)
    return {
        "score": valid * edit_similarity(item.answer.strip(), body.strip()),
        "exact_match": float(given is not None and given == expected),
        "valid": valid,
    }


TASK = RealTask(
    "humaneval", examples, score, ("score", "exact_match", "valid"), stop=STOP, max_new_tokens=512, files=(FILE,)
)
