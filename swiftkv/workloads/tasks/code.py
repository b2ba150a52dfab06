"""Code completion: finish a call to one of several functions whose signatures stand above it."""

import ast
from random import Random

from swiftkv.workloads.names import draw
from swiftkv.workloads.tasks.base import Context, Item, Question, Task, exact


def make(rng: Random, split: str, settings: dict) -> Context:
    """`records` signatures with `values` parameters each; every call passes the parameters by name."""
    records, values = settings["records"], settings["values"]
    names = draw(rng, split, records * (values + 1))
    lines, questions = [], []
    for start in range(0, len(names), values + 1):
        function, parameters = names[start], ", ".join(names[start + 1 : start + values + 1])
        lines.append(f"def {function}( {parameters} ): ...\n")
        questions.append(Question(f"call {function}(", f" {parameters} )", {"function": function}))
    rng.shuffle(questions)
    return Context("# code\n" + "".join(lines), questions)


def call_of(source: str) -> str | None:
    """The normal form of `source` if it is one valid Python call, else None."""
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return ast.unparse(tree) if isinstance(tree.body, ast.Call) else None


def score(item: Item, text: str) -> dict[str, float]:
    """Score 1.0 if the completed call parses to the expected one; `valid` says whether it parses at all."""
    head = item.meta["function"] + "("
    first = (text.strip().splitlines() or [""])[0]
    given, expected = call_of(head + first), call_of(head + item.answer)
    return {"score": float(given == expected), "exact_match": exact(item, text), "valid": float(given is not None)}


TASK = Task("code", make, score)
