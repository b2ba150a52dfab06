"""The engines of the gates: what each is asked, alone in this process or several in processes of their own.

Whatever is judged afterwards is an Observation: plain numbers, which a process can hand over.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from swiftkv.engines import counting
from swiftkv.engines.processes import pool, with_extras
from swiftkv.evals.gate_prompts import Prompt
from swiftkv.evals.reference import (
    RAW_LOGITS,
    TOP,
    Answer,
    capacity,
    generate,
    own_logits,
    read_answer,
    read_by,
    request,
)


class Setting(StrEnum):
    """How an engine prefills."""

    PLAIN = "whole prompts"
    CHUNKED = "chunks and prefix cache"
    FULL = "full prefill"


@dataclass(frozen=True)
class Questions:
    """What every engine of a run is asked: greedy answers of `generate` tokens, prompts in chunks of `chunk` tokens
    where chunks are asked for; its KV cache in bytes, on `ranks` GPUs."""

    prompts: tuple[Prompt, ...]
    generate: int
    chunk: int
    kv_bytes: int
    ranks: int

    @property
    def tokens(self) -> list[list[int]]:
        return [prompt.tokens for prompt in self.prompts]

    @property
    def max_len(self) -> int:
        """Tokens of the longest conversation: prompt, answer, question, answer."""
        return max(len(p.tokens) + len(p.question) for p in self.prompts) + 2 * self.generate

    def engine(self, directory: Path, **settings):
        """An engine with raw logits; by default every prompt fits into one step."""
        from swiftkv.engines.engine import GIB, engine

        whole = {"max_num_batched_tokens": max(self.max_len, sum(map(len, self.tokens)) + len(self.prompts))}
        fixed = RAW_LOGITS | {"kv_cache_gib": self.kv_bytes / self.ranks / GIB, "tensor_parallel_size": self.ranks}
        return engine(
            directory, max_model_len=self.max_len, max_num_seqs=len(self.prompts), **fixed, **whole | settings
        )


@dataclass(frozen=True)
class Session:
    """One engine and what is looked at: of a `student` also what early exit changes; where another model's `answers`
    are given, what this one says of them, in place of all else."""

    variant: str
    directory: Path
    setting: Setting
    student: bool
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What an engine said. `again`: answers to the longer prompts that find the first ones in the prefix cache;
    `prompt_logits`: per prompt the logits of its own tokens after the first; `refused`: requests for prompt log-probs
    that were refused by an engine that then still answered, of 2."""

    answers: list[Answer] = field(default_factory=list)
    again: list[Answer] = field(default_factory=list)
    prompt_logits: list[list[float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    capacity: int = 0


def observe(asked: Questions, session: Session) -> Observation:
    """Start the engine of a session, ask it, and close it."""
    began = time.monotonic()
    found = (read if session.answers else LOOKS[session.setting])(asked, session)
    what = f"{session.setting}, a student's answers" if session.answers else session.setting
    print(f"verify: {session.variant}, {what}: {time.monotonic() - began:.0f} s", flush=True)
    return found


def plain(asked: Questions, session: Session) -> Observation:
    """Whole prompts in one step; the base, which has them, also gives the logits of its prompts."""
    with asked.engine(session.directory) as engine:
        counts, refused, own = {}, 0, []
        if session.student:
            counts = asdict(counting.count(engine, partial(request, engine, asked.tokens, 1)))
            refused = refusals(engine, asked.tokens[:1])
        else:
            own = prompt_logits(engine, asked.tokens)
        answers = generate(engine, asked.tokens, asked.generate)
        return Observation(answers, prompt_logits=own, counts=counts, refused=refused, capacity=capacity(engine))


def chunked(asked: Questions, session: Session) -> Observation:
    """Chunked prefill on an empty prefix cache; then longer prompts that find the first ones' tokens in it."""
    settings = {"max_num_batched_tokens": asked.chunk, "enable_prefix_caching": True}
    with asked.engine(session.directory, **settings) as engine:
        first = generate(engine, asked.tokens, asked.generate)
        longer = [a.prompt + a.tokens + p.question for a, p in zip(first, asked.prompts, strict=True)]
        return Observation(first, again=generate(engine, longer, asked.generate))


def full(asked: Questions, session: Session) -> Observation:
    """The logits of the prompts' own tokens from a student in full-prefill mode."""
    with asked.engine(session.directory, full_prefill=True) as engine:
        return Observation(prompt_logits=prompt_logits(engine, asked.tokens))


def read(asked: Questions, session: Session) -> Observation:
    """The logits that a base gives where another model's answers were chosen."""
    steps = {"max_num_batched_tokens": asked.chunk}
    if session.setting is Setting.PLAIN:
        steps = {"max_num_batched_tokens": sum(len(read_by(answer)) for answer in session.answers)}
    with asked.engine(session.directory, **steps) as engine:
        outputs = request(engine, list(map(read_by, session.answers)), 1, logprobs=TOP, prompt_logprobs=TOP)
        return Observation(list(map(read_answer, session.answers, outputs)))


LOOKS = {Setting.PLAIN: plain, Setting.CHUNKED: chunked, Setting.FULL: full}


def prompt_logits(engine, prompts: Sequence[list[int]]) -> list[list[float]]:
    outputs = request(engine, prompts, 1, prompt_logprobs=0)
    return [own_logits(output.prompt_token_ids, output.prompt_logprobs) for output in outputs]


def refusals(engine, prompts: Sequence[list[int]]) -> int:
    """How many of two requests for prompt log-probabilities were refused; none if the engine does not go on."""
    from vllm.exceptions import VLLMValidationError

    refused = 0
    for wanted in (0, 1):
        try:
            request(engine, prompts, 1, prompt_logprobs=wanted)
        except VLLMValidationError:
            refused += 1
    return refused if len(request(engine, prompts, 1)) == len(prompts) else 0


@contextmanager
def observers(asked: Questions, jobs: int) -> Iterator[Callable[[Session], Callable[[], Observation]]]:
    """What takes a session and returns a function that gives its observation: of one job, made when it is called; of
    several, made side by side from the start on, in processes that go on to the next session."""
    if jobs == 1:
        yield lambda session: partial(observe, asked, session)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))  # of each process
    with pool(jobs) as side_by_side:
        yield lambda session: side_by_side.submit(with_extras, observe, asked, session).result
