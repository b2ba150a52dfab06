"""Late-layer tokens of a live engine, step by step: with a stand-in for what CUDA graphs do, which no CPU has."""

from collections import Counter
from types import SimpleNamespace

import pytest

from swiftkv.engines import counting


class Runner:
    """A model runner whose model counts as EarlyExitModel does, and not where a full CUDA graph is replayed."""

    def __init__(self, decoder, late_of):
        self.decoder, self.late_of = decoder, late_of

    def execute_model(self, step, intermediate=None):
        tokens, requests = step.total_num_scheduled_tokens, len(step.num_scheduled_tokens)
        if tokens and step.graph != "full" and getattr(self.decoder, "token_counts", None) is not None:
            rows = step.padded or tokens
            self.decoder.token_counts.update(early=rows, late=self.late_of(rows, requests))
        return "output"


class Engine:
    """One rank; functions are sent to it as to vLLM's."""

    def __init__(self, late_of=None, base=False):
        decoder = SimpleNamespace() if base else SimpleNamespace(token_counts=None)
        self.runner = Runner(decoder, late_of)
        model = SimpleNamespace(model=decoder)
        self.worker = SimpleNamespace(model_runner=self.runner, get_model=lambda: model)

    def collective_rpc(self, function):
        return [function(self.worker)]

    def steps(self, *steps):
        return [self.worker.model_runner.execute_model(step) for step in steps]


def step(*tokens: int, graph="piecewise", padded=0, before=None, prompts=None):
    """A step as the scheduler gives it to the runner. Requests of one token decode; others start with as many, or
    have run `before` and have prompts of `prompts` tokens."""
    numbers = {str(request): count for request, count in enumerate(tokens)}
    starting = {name: count for name, count in numbers.items() if count > 1 and not before}
    going_on = [name for name in numbers if name not in starting]
    lengths = {name: prompts or count for name, count in starting.items()}
    new = [
        SimpleNamespace(req_id=name, num_computed_tokens=0, prompt_token_ids=[0] * size)
        for name, size in lengths.items()
    ]
    return SimpleNamespace(
        num_scheduled_tokens=numbers,
        total_num_scheduled_tokens=sum(tokens),
        scheduled_new_reqs=new,
        scheduled_cached_reqs=SimpleNamespace(req_ids=going_on, num_computed_tokens=[before or 200] * len(going_on)),
        graph=graph,
        padded=padded or 0,
    )


PREFILL, DECODE = step(100, 50, 30), step(1, 1, 1, graph="full")
MIXED, PADDED = step(1, 1, 40, padded=48), step(1, 1, 1, padded=8)


def early_exit(rows: int, requests: int) -> int:
    return requests if rows != 8 else rows  # a step of decoding alone runs all rows, padding included


def test_early_exit_runs_the_late_layers_for_the_tokens_whose_logits_are_needed():
    engine = Engine(early_exit)
    counts = counting.count(engine, lambda: engine.steps(PREFILL, MIXED, DECODE, PADDED, step()))
    assert counts == counting.TokenCounts(steps=4, early=180 + 42 + 3 + 3, late=12, needed=12)


def test_a_step_that_ends_inside_a_prompt_needs_no_logits():
    engine = Engine(lambda rows, requests: 1 if rows == 20 else 0)
    chunks = step(40, prompts=100), step(40, before=40), step(20, before=80)
    counts = counting.count(engine, lambda: engine.steps(*chunks))
    assert counts == counting.TokenCounts(steps=3, early=100, late=1, needed=1)


def test_whoever_runs_every_layer_is_seen():
    """Full prefill, a base, and a graph captured without early exit that is replayed for a prefill."""
    whole = Engine(lambda rows, requests: rows)
    counts = counting.count(whole, lambda: whole.steps(PREFILL, DECODE))
    assert (counts.late, counts.needed) == (183, 6)
    base = Engine(base=True)
    assert counting.count(base, lambda: base.steps(PREFILL)).late == 180
    replayed = Engine(early_exit)
    assert counting.count(replayed, lambda: replayed.steps(step(100, 50, graph="full"))).late == 150


def test_an_engine_is_left_as_it_was():
    """Also after an error; steps before and after are not counted, and a step's result is the runner's."""
    engine = Engine(early_exit)
    engine.steps(PREFILL)
    assert counting.count(engine, lambda: engine.steps(DECODE)).steps == 1
    with pytest.raises(ZeroDivisionError):
        counting.count(engine, lambda: 1 / 0)
    assert engine.runner.execute_model.__func__ is Runner.execute_model
    assert engine.runner.decoder.token_counts is None and counting.KEPT not in vars(engine.runner)
    assert engine.steps(DECODE) == ["output"]


def test_tokens_of_a_step_by_what_its_model_counted():
    assert counting.late_tokens(5, Counter(early=8, late=2)) == 2
    assert counting.late_tokens(5, Counter(early=8, late=8)) == 5
    assert counting.late_tokens(5, Counter()) == 5
