"""Students and prompts for the vLLM tests, and a front end that serves one and is then killed."""

import asyncio
import os
import sys

SETTINGS = {"max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 1024, "kv_cache_gib": 0.02}
RAW = {"logprobs_mode": "raw_logits", "max_logprobs": 20}
LENGTHS = (1, 7, 64, 129, 200, 333)


def prompts(lengths=LENGTHS, seed: int = 0) -> list[list[int]]:
    """Random prompts in the vocabulary of the `tiny_base` fixture."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(300, (length,), generator=generator).tolist() for length in lengths]


def answers_of(directory, lengths=LENGTHS, **settings) -> tuple[list, int]:
    """Greedy answers with raw logits, and the KV capacity in tokens."""
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import capacity, generate

    with engine(directory, **SETTINGS | RAW | settings) as opened:
        return generate(opened, prompts(lengths), 12), capacity(opened)


def assert_equal_answers(ours, theirs) -> None:
    """The same tokens, and the same largest logits within rounding."""
    assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a.logits, b.logits, strict=True)]
    assert max(abs(x[token] - y[token]) for x, y in pairs for token in x.keys() & y.keys()) < 1e-3


async def ask(engine, name: str, **sampling) -> str:
    """Serve one request; the error's class name and text, or "ok"."""
    from vllm import SamplingParams

    try:
        wanted = SamplingParams(temperature=0, max_tokens=3, **sampling)
        async for _ in engine.generate({"prompt_token_ids": [1, 2, 3]}, wanted, name):
            pass
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


async def serve(directory: str) -> None:
    """Ask a served engine for prompt log-probabilities, then normally; print the answers; wait to be killed."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    settings = {k: v for k, v in SETTINGS.items() if k != "kv_cache_gib"}
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(directory, enforce_eager=True, kv_cache_memory_bytes=1 << 25, **settings)
    )
    for number, sampling in enumerate(({"prompt_logprobs": 0}, {"prompt_logprobs": 1}, {})):
        print("ANSWER", await ask(engine, str(number), **sampling), flush=True)
    print("READY", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    from swiftkv.engines.engine import prepare_environment

    prepare_environment(in_process=False)
    os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
    asyncio.run(serve(sys.argv[1]))
