"""Arms of a comparison, what their engines have in common and are asked to run, and the arithmetic of KV memory."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from swiftkv import costmodel
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.config.measuring import BASE_AGAIN, L_EQUALS_L

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK = 128  # vLLM's KV block size on CPUs, and a multiple of the one on GPUs
WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Arm:
    """One model of a comparison: cut l (= L for the base) and AcrossKV group n. `runs_on`: the arm whose engine it is
    measured on, where it has none of its own."""

    name: str
    cut: int
    group: int
    runs_on: str | None = None


def benchmark_arms(config: RunConfig, names: Container[str] | None = None) -> list[Arm]:
    """The base and every variant, cut for the benchmark model, in the order of the configuration; of these the ones in
    `names`, if given. Raises UserError for a variant whose cut does not fit the benchmark model."""
    layers = config.shape["num_hidden_layers"]
    variants = [Arm(v.name, v.num_key_value_layers(layers), v.key_value_group_size) for v in config.variants]
    return [arm for arm in [Arm(BASE_ARM, layers, 1), *variants] if names is None or arm.name in names]


def control_arms(config: RunConfig) -> list[Arm]:
    """The controls of `throughput.controls`: the base once more, on its own engine, and a student with l = L."""
    layers, asked = config.shape["num_hidden_layers"], config.throughput.controls
    controls = [Arm(BASE_AGAIN, layers, 1, runs_on=BASE_ARM), Arm(L_EQUALS_L, layers, 1)]
    return [arm for arm in controls if arm.name in asked]


@dataclass(frozen=True)
class Batch:
    """Equal requests that are sent at once, lengths in tokens. The first `prefix_len` tokens of all prompts are the
    same and lie in the prefix cache."""

    input_len: int
    output_len: int
    num_requests: int
    prefix_len: int = 0

    @property
    def blocks(self) -> int:
        """KV blocks of one request."""
        return math.ceil((self.input_len + self.output_len) / BLOCK)

    @property
    def cached_len(self) -> int:
        """Prompt tokens of a request that lie in the prefix cache: vLLM caches whole blocks."""
        return self.prefix_len // BLOCK * BLOCK


@dataclass(frozen=True)
class EngineSettings:
    """What all arms share: the same flags and the same KV memory (that of all GPUs of an engine), so that nothing but
    the model differs."""

    shape: dict
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_memory_bytes: int
    prefix_caching: bool
    kv_cache_dtype: str
    seed: int
    tensor_parallel_size: int = 1

    @property
    def longest_warm_up(self) -> int:
        """Prompt tokens that fit beside the generated ones of a warm-up."""
        return self.max_model_len - WARM_UP_TOKENS

    @property
    def warm_up(self) -> Batch:
        """A batch at full concurrency that fills one scheduler step with prompt tokens, then decodes for a few."""
        step = self.max_num_batched_tokens // self.max_num_seqs
        return Batch(max(1, min(self.longest_warm_up, step)), WARM_UP_TOKENS, self.max_num_seqs)


def kv_memory(shape: dict, arms: Sequence[Arm], blocks: int) -> int:
    """Bytes of `blocks` blocks of the base's KV cache, rounded up so that they are a whole number of blocks in every
    arm: only then is the engine's capacity ratio exactly L / (l + (L - l) / n)."""
    layers, layer_bytes = shape["num_hidden_layers"], _block_bytes(shape)
    unit = layer_bytes * math.lcm(*(costmodel.kv_caches(shape, arm.cut, arm.group) for arm in arms))
    return unit * math.ceil(blocks * layers * layer_bytes / unit)


def _block_bytes(shape: dict) -> int:
    """Bytes of a KV block in one layer."""
    layers = shape["num_hidden_layers"]
    return BLOCK * costmodel.kv_bytes_per_token(shape, layers, 1, DTYPE_BYTES[shape["dtype"]]) // layers


def held_at_once(settings: EngineSettings, arm: Arm, batch: Batch) -> int:
    """Requests of a batch that an arm's KV cache holds at once, each with its whole output."""
    caches = costmodel.kv_caches(settings.shape, arm.cut, arm.group)
    usable = settings.kv_memory_bytes // (_block_bytes(settings.shape) * caches) - 1  # vLLM keeps one block for itself
    return min(batch.num_requests, usable // batch.blocks)
