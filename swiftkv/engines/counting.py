"""How many tokens run the late layers of a live engine, counted step by step, whatever CUDA graphs do.

A step that vLLM replays from a full CUDA graph runs no Python of the model's, so the model's own counter
(`EarlyExitModel.token_counts`) misses it. The model runner's `execute_model` is called for every step: it is wrapped
while counting. A step in which the model counted nothing (a replayed graph, a base model, a student with l = L) gathers
no rows, so all of its tokens ran every layer. Padding for CUDA graphs is no token.

Needed are as many as tokens are sampled from: one per request and step, but none where a step ends inside a prompt.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

KEPT = "_swiftkv_token_counts"  # attribute of a model runner while its steps are counted


@dataclass(frozen=True)
class TokenCounts:
    """Tokens that ran the early layers, that ran the late layers, and whose logits were needed, in `steps` steps."""

    steps: int
    early: int
    late: int
    needed: int


def late_tokens(tokens: int, counted: Counter) -> int:
    """Of the `tokens` of a step those that ran the late layers, by what the model counted in it."""
    reduced = counted["late"] < counted["early"]
    return counted["late"] if reduced else tokens


def decoder_of(worker):
    """The decoder stack of a worker's model; None if it has no counter, as a base has none."""
    decoder = getattr(worker.get_model(), "model", None)
    return decoder if hasattr(decoder, "token_counts") else None


class Prompts:
    """How long the prompts of the requests are that an engine runs, learned from the steps in which they start."""

    def __init__(self):
        self.lengths: dict[str, int] = {}

    def answered(self, scheduled) -> int:
        """How many requests of a step (vLLM's SchedulerOutput) have their whole prompt behind them at its end."""
        new, old = scheduled.scheduled_new_reqs, scheduled.scheduled_cached_reqs
        computed = {one.req_id: one.num_computed_tokens for one in new}
        computed |= zip(old.req_ids, old.num_computed_tokens, strict=True)
        self.lengths |= {one.req_id: len(one.prompt_token_ids) for one in new}
        ends = {name: computed[name] + tokens for name, tokens in scheduled.num_scheduled_tokens.items()}
        return sum(end >= self.lengths.get(name, 0) for name, end in ends.items())  # one from before has answered


def start(worker) -> None:
    """Count from now on, on an engine that runs nothing. Runs in every rank's process, so it has a name that can be
    sent there, as `stop` has."""
    runner, decoder, counts = worker.model_runner, decoder_of(worker), Counter()
    execute, prompts = runner.execute_model, Prompts()

    def counting(scheduler_output, *args, **kwargs):
        if decoder is not None:
            decoder.token_counts = Counter()
        result = execute(scheduler_output, *args, **kwargs)
        if tokens := scheduler_output.total_num_scheduled_tokens:
            counted = decoder.token_counts if decoder is not None else Counter()
            needed = prompts.answered(scheduler_output)
            counts.update(steps=1, early=tokens, late=late_tokens(tokens, counted), needed=needed)
        return result

    setattr(runner, KEPT, counts)
    runner.execute_model = counting


def stop(worker) -> dict[str, int]:
    """The counts since `start`; the runner is as it was before."""
    runner, decoder = worker.model_runner, decoder_of(worker)
    counts = runner.__dict__.pop(KEPT)
    del runner.execute_model  # the class has the runner's own
    if decoder is not None:
        decoder.token_counts = None
    return dict(counts)


class CountingWorker:
    """What a server's workers have beside vLLM's methods (`--worker-extension-cls`), to be called by name."""

    def start_token_counts(self) -> None:
        start(self)

    def stop_token_counts(self) -> dict[str, int]:
        return stop(self)


WORKER = f"{__name__}.{CountingWorker.__name__}"


def of_numbers(counted: dict[str, int]) -> TokenCounts:
    """What `stop` returned, which lacks what was never counted."""
    return TokenCounts(**{field.name: counted.get(field.name, 0) for field in fields(TokenCounts)})


def count(engine, work: Callable[[], object]) -> TokenCounts:
    """What the engine (`vllm.LLM` in this process) runs during `work`, of one tensor-parallel rank, for all count the
    same. Servers: `engines.server.count_tokens`."""
    engine.collective_rpc(start)
    try:
        work()
    finally:
        counted = engine.collective_rpc(stop)[0]
    return of_numbers(counted)
