"""Random traffic on random students: however vLLM schedules it, the greedy answers are Transformers' own.

A case is a batch of requests with lengths, shared beginnings, answer lengths and arrival times drawn from a seed; an
engine (cut, group, chunk budget, prefix cache on or off, requests at a time) serves many cases in a row, so that later
ones find the caches of earlier ones. 204 cases in all.
"""

from dataclasses import dataclass
from random import Random

import pytest

from swiftkv.modeling.convert import convert
from tests.helpers.vllm_helpers import RAW

pytestmark = pytest.mark.vllm
ENGINES, CASES = 12, 17
LONGEST, ANSWER, VOCABULARY = 1500, 6, 300
BUDGETS = (61, 97, 128, 129, 257, 512, 2048)  # tokens per step: primes, and around the KV block of 128


@dataclass(frozen=True)
class Request:
    """A prompt, how many tokens to answer, and the step before which it arrives."""

    prompt: list[int]
    answer: int
    arrival: int


def draw_engine(rng: Random) -> tuple[tuple[int, int], dict]:
    """(cut, group) of a student with 8 layers, and engine settings."""
    cut = rng.randint(1, 7)
    group = rng.choice([n for n in range(1, 9) if (8 - cut) % n == 0])
    settings = {
        "max_num_batched_tokens": rng.choice(BUDGETS),
        "enable_prefix_caching": rng.random() < 0.6,
        "max_num_seqs": rng.choice((1, 3, 8)),
    }
    return (cut, group), settings


def draw_prompt(rng: Random, earlier: list[list[int]]) -> list[int]:
    """1 to 1500 tokens, short ones as likely as long ones; a third go on from the beginning of an earlier prompt."""
    length = min(LONGEST, int(LONGEST ** rng.random() * rng.uniform(1, 1.5)))
    fresh = [rng.randrange(VOCABULARY) for _ in range(length)]
    long = [prompt for prompt in earlier if len(prompt) > 128]
    if not long or rng.random() < 2 / 3:
        return fresh
    start = rng.choice(long)
    return (start[: rng.randint(1, len(start))] + fresh)[:LONGEST]


def draw_case(rng: Random, earlier: list[list[int]]) -> list[Request]:
    """One to five requests in order of arrival; their prompts are added to `earlier`."""
    requests, step = [], 0
    for _ in range(rng.randint(1, 5)):
        prompt, step = draw_prompt(rng, earlier), step + rng.choice((0, 0, 1, 4))
        earlier.append(prompt)
        requests.append(Request(prompt, rng.randint(1, ANSWER), step))
    return requests


def serve(engine, requests: list[Request], name: str) -> list:
    """Step the engine by hand, adding each request when its time has come; outputs in the order of the requests."""
    from vllm import SamplingParams

    core, waiting, done, step = engine.llm_engine, list(enumerate(requests)), {}, 0
    while waiting or core.has_unfinished_requests():
        while waiting and (waiting[0][1].arrival <= step or not core.has_unfinished_requests()):
            number, request = waiting.pop(0)
            wanted = SamplingParams(temperature=0, max_tokens=request.answer, ignore_eos=True, logprobs=5)
            core.add_request(f"{name}-{number}", {"prompt_token_ids": request.prompt}, wanted)
        finished = [output for output in core.step() if output.finished]
        done |= {int(output.request_id.split("-")[1]): output for output in finished}
        step += 1
    return [done[number] for number in range(len(requests))]


@pytest.mark.parametrize("seed", range(ENGINES))
def test_random_traffic_is_answered_as_by_transformers(tiny_base, tmp_path, seed):
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import Reference, answer_of

    rng = Random(seed)
    (cut, group), settings = draw_engine(rng)
    convert(tiny_base, tmp_path / "student", cut, group)
    reference, earlier, cached = Reference(tmp_path / "student"), [], 0
    with engine(tmp_path / "student", max_model_len=LONGEST + 8, kv_cache_gib=0.05, **settings, **RAW) as opened:
        for case in range(CASES):
            requests = draw_case(rng, earlier)
            answers = [answer_of(output) for output in serve(opened, requests, str(case))]
            found, drawn = reference.compare(answers), f"cut {cut}, group {group}, {settings}, case {case}: {requests}"
            assert [len(answer.tokens) for answer in answers] == [request.answer for request in requests], drawn
            assert found.mismatches == 0 and found.delta < 1e-3, drawn
            cached += sum(answer.cached for answer in answers)
    assert (cached > 0) == settings["enable_prefix_caching"]
