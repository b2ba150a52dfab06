"""The arms of the speed measurements: model directories without weights, and one live vLLM engine per arm.

All engines live in one process and take turns, so that a comparison never crosses processes, threads are bound
alike, and switching arms costs nothing. Measured on 2 cores: an engine takes 2-3 s after the first and adds its weights
and its KV cache to memory (0.5 GiB each for the 180M-parameter benchmark model); one process per engine would add
the 0.8 GiB of an imported vLLM each time.
"""

import contextlib
import gc
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from swiftkv.config import BASE_ARM
from swiftkv.engines import counting
from swiftkv.engines.settings import WARM_UP_TOKENS, Arm, Batch, EngineSettings
from swiftkv.errors import UserError


@dataclass(frozen=True)
class BatchResult:
    """What one batch of requests did. Times in seconds, one entry per request; `failed` requests did not finish.

    TTFT runs from a request's arrival to its first token, queueing included. TPOT = (latency - TTFT) /
    (output_len - 1); requests of one output token have none. `cached_tokens`: prompt tokens found in the prefix cache.
    """

    elapsed_s: float
    prompt_tokens: int
    output_tokens: int
    failed: int
    ttft_s: list[float]
    tpot_s: list[float] = field(default_factory=list)
    cached_tokens: int = 0


def joined(results: Sequence[BatchResult]) -> BatchResult:
    """What batches that ran one after the other did together."""
    return BatchResult(
        elapsed_s=sum(one.elapsed_s for one in results),
        prompt_tokens=sum(one.prompt_tokens for one in results),
        output_tokens=sum(one.output_tokens for one in results),
        failed=sum(one.failed for one in results),
        ttft_s=[seconds for one in results for seconds in one.ttft_s],
        tpot_s=[seconds for one in results for seconds in one.tpot_s],
        cached_tokens=sum(one.cached_tokens for one in results),
    )


def write_model(arm: Arm, settings: EngineSettings, directory: Path) -> Path:
    """A model directory that holds config.json alone: `load_format="dummy"` draws the weights. Returns `directory`."""
    from transformers import LlamaConfig

    from swiftkv.modeling import LlamaSwiftKVConfig

    shape = settings.shape | {"max_position_embeddings": settings.max_model_len, "tie_word_embeddings": False}
    if arm.name == BASE_ARM:
        model = LlamaConfig(**shape, architectures=["LlamaForCausalLM"])
    else:
        cut = {"num_key_value_layers": arm.cut, "key_value_group_size": arm.group}
        model = LlamaSwiftKVConfig(**shape, **cut, architectures=["LlamaSwiftKVForCausalLM"])
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    return directory


def word_tokenizer(vocab_size: int):
    """A tokenizer of the words t0, t1, ...: text and token ids of a benchmark model are one-to-one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)


@lru_cache(maxsize=2)  # all arms of a round ask for the same, and 100 requests of 2,000 tokens take a second to make
def random_requests(vocab_size: int, batch: Batch, seed: int) -> tuple:
    """The requests of `batch` from vLLM's own RandomDataset, of exactly its lengths, as token ids."""
    from vllm.benchmarks.datasets import RandomDataset

    tokenizer = word_tokenizer(vocab_size)
    requests = RandomDataset(random_seed=seed).sample(
        tokenizer,
        batch.num_requests,
        prefix_len=batch.prefix_len,
        input_len=batch.input_len - batch.prefix_len,
        output_len=batch.output_len,
    )
    for request in requests:
        request.prompt = {"prompt_token_ids": tokenizer.encode(request.prompt, add_special_tokens=False)}
    return tuple(requests)


def read_outputs(elapsed_s: float, outputs: list) -> BatchResult:
    """A BatchResult from vLLM's RequestOutputs and the metrics they carry."""
    done = [out for out in outputs if out.finished and out.outputs and out.outputs[0].finish_reason == "length"]
    lengths = [len(out.outputs[0].token_ids) for out in done]
    return BatchResult(
        elapsed_s=elapsed_s,
        prompt_tokens=sum(len(out.prompt_token_ids) for out in done),
        output_tokens=sum(lengths),
        failed=len(outputs) - len(done),
        ttft_s=[out.metrics.first_token_latency for out in done],
        tpot_s=[
            (out.metrics.last_token_ts - out.metrics.first_token_ts) / (length - 1)
            for out, length in zip(done, lengths, strict=True)
            if length > 1
        ],
        cached_tokens=sum(out.num_cached_tokens or 0 for out in done),
    )


class VLLMEngine:
    """One live vLLM engine with random weights, driven by vLLM's own throughput benchmark."""

    def __init__(self, arm: Arm, settings: EngineSettings, directory: Path):
        try:
            from swiftkv.engines.engine import make_engine
        except ImportError as error:
            raise UserError(f"throughput: no vLLM engine here ({error}); run `make env` to install it") from None
        self.settings = settings
        self.llm = make_engine(
            write_model(arm, settings, directory),
            dtype=settings.shape["dtype"],
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            enable_prefix_caching=settings.prefix_caching,
            seed=settings.seed,
            load_format="dummy",
            in_process=True,
            tensor_parallel_size=settings.tensor_parallel_size,
            kv_cache_memory_bytes=settings.kv_memory_bytes // settings.tensor_parallel_size,  # vLLM's is per GPU
            kv_cache_dtype=settings.kv_cache_dtype,
            disable_log_stats=False,
        )

    def run(self, batch: Batch, seed: int) -> BatchResult:
        """Send the requests of `batch` at once and wait for all of them; each generates exactly `output_len` tokens.

        With prefix caching, the common prefix of the prompts is in the cache, and nothing else is.
        """
        requests = random_requests(self.settings.shape["vocab_size"], batch, seed)
        if self.settings.prefix_caching:
            self.llm.reset_prefix_cache()
        if length := batch.prefix_len:
            prompt = {"prompt_token_ids": requests[0].prompt["prompt_token_ids"][:length]}
            self._serve([replace(requests[0], prompt=prompt, prompt_len=length, expected_output_len=1)])
        gc.collect()  # here, not within what is timed
        elapsed_s, outputs = self._serve(requests)
        return read_outputs(elapsed_s, outputs)

    def _serve(self, requests: Sequence) -> tuple[float, list]:
        """Seconds and vLLM's outputs."""
        # vLLM keeps this function to itself; `vllm bench throughput` around it would start an engine per call.
        from vllm.benchmarks.throughput import _run_vllm_requests

        flags = {
            "do_profile": False,
            "disable_detokenize": True,
            "prequeue_requests": False,
            "enable_lora": False,
        }
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return _run_vllm_requests(self.llm, list(requests), n=1, **flags)

    def count_tokens(self, batch: Batch, seed: int) -> counting.TokenCounts:
        """Run a batch as `run` does, and count the tokens that its steps ran early and late layers for."""
        return counting.count(self.llm, lambda: self.run(batch, seed))

    def kv(self) -> dict:
        """What the engine reports: kv_caches (layers that own one), kv_bytes_per_token (of all its GPUs),
        capacity_tokens."""
        specs = self.llm.collective_rpc("get_kv_cache_spec")[0].values()
        cache, ranks = self.llm.llm_engine.vllm_config.cache_config, self.settings.tensor_parallel_size
        return {
            "kv_caches": len(specs),
            "kv_bytes_per_token": sum(spec.page_size_bytes // spec.block_size for spec in specs) * ranks,
            "capacity_tokens": cache.num_gpu_blocks * cache.block_size,
        }

    def close(self) -> None:
        """Free the engine's memory."""
        from swiftkv.engines.engine import close_engine

        close_engine(self.llm)


class LiveEngines:
    """The live engines of all arms by name, started and warmed up together when the first one is asked for. An arm that
    `runs_on` another has that one's.

    `single_len`: prompt tokens of the requests that will run alone. A rerun that finds everything measured starts no
    engine. Use as a context manager; leaving it closes the engines.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        settings: EngineSettings,
        single_len: int,
        directory: Path,
        factory: Callable = VLLMEngine,
    ):
        self.arms, self.settings, self.single_len = [arm for arm in arms if not arm.runs_on], settings, single_len
        self.runs_on = {arm.name: arm.runs_on for arm in arms if arm.runs_on}
        self.directory, self.factory = directory, factory
        self.engines: dict[str, VLLMEngine] = {}

    def __enter__(self) -> "LiveEngines":
        return self

    def __exit__(self, *error) -> None:
        for engine in self.engines.values():
            engine.close()
        gc.unfreeze()

    def __getitem__(self, arm: str) -> VLLMEngine:
        self.ready()
        return self.engines[self.runs_on.get(arm, arm)]

    def ready(self) -> None:
        """Start the engines if they are not there, so that what follows does not count their start."""
        if not self.engines:
            self.start()

    def start(self) -> None:
        """Start every engine, then run one prefill step and a few decode steps on each; nothing of it is kept."""
        for arm in self.arms:
            print(f"throughput: starting engine {arm.name}", flush=True)
            self.engines[arm.name] = self.factory(arm, self.settings, self.directory / arm.name)
        alone = Batch(min(self.settings.longest_warm_up, self.single_len), WARM_UP_TOKENS, 1)
        for engine in self.engines.values():
            engine.run(self.settings.warm_up, seed=0)
            engine.run(alone, seed=0)
        # What is alive now lives until the engines close: the collections between measurements need not look at it.
        gc.collect()
        gc.freeze()
        print("throughput: engines are warm", flush=True)
