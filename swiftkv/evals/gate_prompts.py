"""What the gates ask: held-out texts, tokens drawn at random, and the longest prompt that fits the model.

Where a trained model has nothing to say, it amplifies rounding (the embedded base in Transformers alone, float32
against float64: up to 2e-3 on random tokens, 2e-4 on its tasks), and more of it gathers in a long context. So texts,
random tokens and the longest prompts are judged apart, each by the base's error on the same kind.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from swiftkv.config import RunConfig
from swiftkv.modeling.checkpoint import read_shape
from swiftkv.workloads import tasks
from swiftkv.workloads.stream import segments
from swiftkv.workloads.tokens import load_tokenizer

TEXT, RANDOM, LONGEST = "text", "random", "longest"
KINDS = (TEXT, RANDOM, LONGEST)


@dataclass(frozen=True)
class Prompt:
    """Token ids, and those of a question to ask after the answer."""

    kind: str
    tokens: list[int]
    question: list[int]


def prompts(config: RunConfig, base_dir: Path) -> list[Prompt]:
    """Of every length of `verify.prompt_lengths` one text per task and one of random tokens, and of the longest length
    that fits one text and one of random tokens."""
    tokenizer, vocabulary = load_tokenizer(base_dir), read_shape(base_dir)["vocab_size"]
    lengths, names = config.verify.prompt_lengths, list(tasks.TASKS)
    texts = [text(config, tokenizer, task, length) for length, task in itertools.product(lengths, names)]
    drawn = [random(config, vocabulary, length) for length in lengths]
    longest = longest_prompt(config, base_dir, [*texts, *drawn])
    whole = [text(config, tokenizer, names[0], longest), random(config, vocabulary, longest)]
    return [*texts, *drawn, *(replace(prompt, kind=LONGEST) for prompt in whole)]


def longest_prompt(config: RunConfig, base_dir: Path, others: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt: with two answers and a question it fills the model's context, or is as long as
    `verify.longest_prompt` allows."""
    context = read_shape(base_dir).get("max_position_embeddings", config.verify.longest_prompt)
    after = 2 * config.verify.generate + max(len(prompt.question) for prompt in others)
    return min(config.verify.longest_prompt, context - after)


def text(config: RunConfig, tokenizer, task: str, length: int) -> Prompt:
    """A context of a task with its questions, asked again and again up to `length` tokens."""
    seeded = Random(f"verify/{task}/{config.seed}/{length}")
    context = tasks.context(task, "test", seeded, config.tasks[task])
    whole, *turns = (tokenizer(part)["input_ids"] for part, _ in segments(context, tokenizer.eos_token))
    again = itertools.chain.from_iterable(itertools.cycle(turns))
    found = list(itertools.islice(itertools.chain(whole, again), length))
    return Prompt(TEXT, found, [tokenizer.eos_token_id, *turns[0]])


def random(config: RunConfig, vocabulary: int, length: int) -> Prompt:
    """Token ids drawn from the whole vocabulary, and a question of such."""
    seeded = Random(f"verify/random/{config.seed}/{length}")
    question = [seeded.randrange(vocabulary) for _ in range(8)]
    return Prompt(RANDOM, [seeded.randrange(vocabulary) for _ in range(length)], question)
