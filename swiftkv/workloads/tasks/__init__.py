"""The four enterprise tasks of the SwiftKV announcement, generated from a seed.

    items("sql", "test", 200, seed=0, settings={"records": 8, "values": 2})

Train and test differ in every name they use (see `swiftkv.workloads.names`). A task is one module here that has a TASK.
"""

import pkgutil
from importlib import import_module
from random import Random

from swiftkv.errors import UserError
from swiftkv.workloads.tasks.base import Context, Item, Question, Task

TASKS = ["code", "sql", "summarise", "rag"]
_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
BY_NAME = {module.TASK.name: module.TASK for module in _MODULES if hasattr(module, "TASK")}

__all__ = ["BY_NAME", "TASKS", "Context", "Item", "Question", "Task", "check_names", "context", "items", "score"]


def check_names(config) -> None:
    """Raise UserError if a RunConfig names a task that there is not. Checked at a command's door: the configuration
    itself knows no workloads."""
    arms = config.ablations.arms if config.ablations else ()
    for name in [*config.tasks, *(task for arm in arms for task in arm.tasks or ())]:
        if name not in BY_NAME:
            raise UserError(f"{config.path}: tasks: {name!r} is not a task; allowed are {', '.join(BY_NAME)}")


def lookup(task: str) -> Task:
    """The task called `task`. Raises UserError listing the names there are."""
    try:
        return BY_NAME[task]
    except KeyError:
        raise UserError(f"task {task!r}: no such task; there are {sorted(BY_NAME)}") from None


def context(task: str, split: str, rng: Random, settings: dict) -> Context:
    """A fresh context of `task`. Raises UserError if the settings ask for more names than there are."""
    try:
        return lookup(task).make(rng, split, settings)
    except ValueError as error:
        raise UserError(f"tasks.{task}: {settings} is too hard for the name lists: {error}") from None


def items(task: str, split: str, count: int, seed: int, settings: dict) -> list[Item]:
    """`count` items of one question each; the same arguments always give the same items."""
    drawn = []
    for index in range(count):
        ctx = context(task, split, Random(f"{task}/{split}/{seed}/{index}"), settings)
        question = ctx.questions[0]
        drawn.append(
            Item(f"{task}-{split}-{seed}-{index}", task, ctx.text + question.text, question.answer, question.meta)
        )
    return drawn


def score(item: Item, text: str) -> dict[str, float]:
    """Judge a generated answer. 'score' is the task's metric in [0, 1]; other keys are details."""
    return lookup(item.task).score(item, text)
