"""What the real sets share: a published example, and the prompt that a given model gets of it."""

from collections.abc import Callable
from dataclasses import dataclass

from swiftkv.errors import UserError
from swiftkv.workloads.fim import fim_marks, fim_prompt
from swiftkv.workloads.tasks.base import Item
from swiftkv.workloads.tokens import bos_text


@dataclass(frozen=True)
class Example:
    """One example of a published set.

    A model goes on from `instruction` + `lead`; under a chat template the instruction is the user's turn and the
    lead begins the model's own. `hole` is code before and after a gap, for models that fill in the middle.
    """

    id: str
    instruction: str
    lead: str
    answer: str
    meta: dict
    hole: tuple[str, str] | None = None


@dataclass(frozen=True)
class RealTask:
    """A published set: `examples(settings)` reads it, `score(item, text)` judges an answer as a Task's does.

    `metrics` names what `score` returns, `stop` the texts that end an answer, `files` the published
    files, or folders of them, that are read.
    """

    name: str
    examples: Callable[[dict], list[Example]]
    score: Callable[[Item, str], dict[str, float]]
    metrics: tuple[str, ...]
    stop: tuple[str, ...]
    max_new_tokens: int
    files: tuple[str, ...]


def chat_prompt(example: Example, tokenizer) -> str:
    """The chat template's text, up to the lead. Raises UserError if the tokenizer has no template."""
    if tokenizer.chat_template is None:
        raise UserError("accuracy.chat_template: true, but the model's tokenizer has no chat template; set it to false")
    turn = [{"role": "user", "content": example.instruction.strip()}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + example.lead


def prompt_of(example: Example, tokenizer, chat: bool, fim: bool) -> str:
    """What the model reads, special tokens written out: accuracy adds none. Raises UserError as `chat_prompt`."""
    if chat:
        return chat_prompt(example, tokenizer)
    # A base model reads the BOS that it was trained with: where the tokenizer adds one by itself.
    start = bos_text(tokenizer)
    marks = fim_marks(tokenizer) if fim and example.hole else None
    return start + (fim_prompt(marks, *example.hole) if marks else example.instruction + example.lead)
