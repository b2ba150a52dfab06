"""Thousands of requests with random cancellation through `vllm serve`: no hang, no wrong token, flat memory.

    python benchmarks/soak.py --model MODEL --out results/soak.json [--requests 2000] [--concurrency 16]

Prompts come from a pool whose greedy answers Transformers gave beforehand; every streamed token is held against them.
Cancelled requests stop listening after a random number of tokens. Resident memory of the server and its processes is
sampled as requests finish; after the first quarter (warm-up) it must not grow by more than 2%.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated

import psutil
import typer

from swiftkv import files
from swiftkv.cli import end_in_one_line
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import check_checkpoint, weight_files
from swiftkv.provenance import Provenance

POOL, LONGEST, ANSWER = 64, 600, 32
CANCELLED = 0.25  # share of the requests
TIMEOUT_S = 120  # for one request: far above what any takes, so that passing it means a hang
GROWTH = 0.02
FLAGS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"),
    *("--max-num-batched-tokens", "193", "--enable-prefix-caching"),
)


@dataclass
class Tally:
    """What has been seen so far. `memory` holds (finished requests, front end's MiB, engine's MiB)."""

    finished: int = 0
    cancelled: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)


def pool(model_dir: Path, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Random prompts of 1 to 600 tokens and Transformers' greedy answers of 32."""
    import torch
    from transformers import AutoModelForCausalLM

    import swiftkv.modeling  # noqa: F401 - registers the SwiftKV classes

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64).eval()
    rng, made = random.Random(0), []
    for _ in range(POOL):
        prompt = [rng.randrange(vocabulary) for _ in range(int(LONGEST ** rng.random()))]
        with torch.inference_mode():
            ids = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),  # or it would hide padding ids in the prompt
                max_new_tokens=ANSWER,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        made.append((prompt, ids[0, len(prompt) :].tolist()))
    return made


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory in MiB: of the front end, and of all processes it started."""
    front = psutil.Process(pid)
    return front.memory_info().rss / 2**20, sum(p.memory_info().rss for p in front.children(recursive=True)) / 2**20


async def ask(client, model: str, prompt: list[int], expected: list[int], rng: random.Random, tally: Tally) -> None:
    """One streamed request, a quarter of them cancelled midway; compares every token that arrived."""
    stop_after = rng.randint(1, ANSWER - 1) if rng.random() < CANCELLED else None
    extra = {"ignore_eos": True, "return_token_ids": True}
    got: list[int] = []
    stream = await client.completions.create(
        model=model, prompt=prompt, temperature=0, max_tokens=ANSWER, stream=True, extra_body=extra
    )
    async with stream:
        async for chunk in stream:
            got += chunk.choices[0].token_ids or []
            if stop_after is not None and len(got) >= stop_after:
                break
    whole = len(got) == ANSWER or stop_after is not None
    if got != expected[: len(got)] or not whole:
        tally.wrong.append(f"prompt of {len(prompt)} tokens: {got} instead of {expected}")
    tally.cancelled += stop_after is not None
    tally.tokens += len(got)


async def soak(server, known: list, requests: int, concurrency: int) -> Tally:
    """Run the requests, at most `concurrency` at once. Raises UserError for one that hangs."""
    from openai import AsyncOpenAI

    client, tally, rng = AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0), Tally(), random.Random(1)
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            try:
                await asyncio.wait_for(ask(client, server.model, *rng.choice(known), rng, tally), TIMEOUT_S)
            except TimeoutError:
                raise UserError(f"soak: request {number} hung for {TIMEOUT_S} s") from None
            tally.finished += 1
            if tally.finished % max(1, requests // 40) == 0:
                tally.memory.append((tally.finished, *memory_mib(server.pid)))
                front, engine = tally.memory[-1][1:]
                print(f"soak: {tally.finished} of {requests}, {front:.0f} + {engine:.0f} MiB", flush=True)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return tally


def growth(memory: list[tuple[int, float, float]], requests: int) -> float:
    """Mean memory of the last quarter of the requests over that of the second quarter, less 1."""
    second = [sum(used) for finished, *used in memory if requests // 4 < finished <= requests // 2]
    last = [sum(used) for finished, *used in memory if finished > 3 * requests // 4]
    return mean(last) / mean(second) - 1


def main(
    model: Annotated[Path, typer.Option(help="Directory of a student.")],
    out: Path = Path("results/soak.json"),
    requests: int = 2000,
    concurrency: int = 16,
) -> None:
    """Soak a student. Ends with code 2 and one line if anything was wrong."""
    from swiftkv.engines.server import server

    config, begun = check_checkpoint(model), time.monotonic()
    known = pool(model, config.vocab_size)
    with (
        Provenance(
            "soak", inputs=weight_files(model), requests=requests, concurrency=concurrency, out=[out]
        ) as provenance,
        server(model, log=out.with_suffix(".log"), kv_cache_gib=0.25, arguments=FLAGS) as running,
    ):
        tally = asyncio.run(soak(running, known, requests, concurrency))
        grown = growth(tally.memory, requests)
        result = {"requests": tally.finished, "cancelled": tally.cancelled, "tokens": tally.tokens}
        result |= {"wrong": tally.wrong, "memory_growth": grown, "memory_mib": tally.memory}
        files.write_json(out, result | {"seconds": round(time.monotonic() - begun, 1)})
        provenance.save(out)
    if tally.wrong or grown > GROWTH:
        raise UserError(f"soak: {len(tally.wrong)} wrong answers, memory grew by {grown:.1%}; see {out}")
    print(f"soak: {tally.finished} requests right, {tally.cancelled} of them cancelled; memory {grown:+.2%}")


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
