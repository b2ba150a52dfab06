"""The enterprise tasks on real data, for models that are too good for the generated ones (docs/accuracy.md)."""

from random import Random

from swiftkv.errors import UserError
from swiftkv.workloads.real import defog, humaneval, infilling, nq_open, qmsum
from swiftkv.workloads.real.base import prompt_of
from swiftkv.workloads.tasks.base import Item

SETS = {task.name: task for task in (infilling.TASK, humaneval.TASK, defog.TASK, qmsum.TASK, nq_open.TASK)}

__all__ = ["SETS", "items", "max_new_tokens"]


def items(name: str, settings: dict, seed: int, tokenizer, chat: bool) -> list[Item]:
    """`settings["items"]` examples of a set, drawn by the seed, with the prompts that suit the model.

    The same arguments give the same items; more items begin with those. Raises UserError if the set has fewer, cannot
    be had, or the tokenizer lacks a chat template that is asked for.
    """
    examples, count = SETS[name].examples(settings), settings["items"]
    if count > len(examples):
        raise UserError(f"accuracy.real.{name}.items: {count}; the set has {len(examples)}")
    Random(f"{name}/{seed}").shuffle(examples)
    prompts = [prompt_of(example, tokenizer, chat, settings.get("fim", True)) for example in examples[:count]]
    return [Item(e.id, name, prompt, e.answer, e.meta) for e, prompt in zip(examples, prompts, strict=False)]


def max_new_tokens(name: str, settings: dict) -> int:
    """The generation limit of a set."""
    return settings.get("max_new_tokens", SETS[name].max_new_tokens)
