"""The generated tasks as chats: a context with its first question, then further questions on it."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from random import Random

from swiftkv.errors import UserError
from swiftkv.workloads import tasks

TURNS = 4  # questions on one context, at most


def chat(context: tasks.Context, turns: int) -> list[dict]:
    """The messages of a context with its first `turns` questions."""
    messages = []
    for number, question in enumerate(context.questions[:turns]):
        asked = question.text if number else context.text + question.text
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": question.answer.strip()}]
    return messages


def rows(names: list[str] | None, settings: Mapping[str, dict], rng: Random) -> Iterator[dict]:
    """Chats of the named tasks, or all of `settings`, in turn and without end. Raises UserError for an unknown task."""
    for name in names or ():
        if name not in settings:
            raise UserError(f"distill.data.mix: {name!r} is not under tasks; allowed are {', '.join(settings)}")
    for name in cycle(names or settings):
        context = tasks.context(name, "train", rng, settings[name])
        yield {"messages": chat(context, rng.randint(1, TURNS))}
