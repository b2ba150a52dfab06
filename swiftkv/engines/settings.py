"""What the workloads ask of the engines: lengths, KV memory, its number format, prefix caching.

Points that ask for other engine flags than the rest are measured on engines of their own, one set of engines per flags.
"""

import math
from dataclasses import dataclass

from swiftkv import costmodel
from swiftkv.config import BASE_ARM
from swiftkv.config.measuring import Point
from swiftkv.errors import UserError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK = 128  # vLLM's KV block size on CPUs, and a multiple of the one on GPUs


@dataclass(frozen=True)
class Arm:
    """One model of a comparison: cut l (= L for the base) and AcrossKV group n."""

    name: str
    cut: int
    group: int


def arms(config) -> list[Arm]:
    """The base, then every variant, cut for the benchmark model. Raises UserError for a cut that does not fit it."""
    layers = config.shape["num_hidden_layers"]
    variants = [Arm(v.name, v.num_key_value_layers(layers), v.key_value_group_size) for v in config.variants]
    return [Arm(BASE_ARM, layers, 1), *variants]


@dataclass(frozen=True)
class Flags:
    """Engine flags that a point may ask for: prefix caching (its `prefix_share`), how many tokens of the base the KV
    cache holds in the model's own number format (its `kv_tokens`; None: all requests of every point), and the format
    of the cache (its `kv_cache_dtype`, as vLLM names it)."""

    prefix_caching: bool = False
    kv_tokens: int | None = None
    kv_cache_dtype: str = "auto"


DEFAULT = Flags()


def flags(point: Point) -> Flags:
    """The engine flags of a point."""
    return Flags(point.prefix_share is not None, point.kv_tokens, point.kv_cache_dtype)


def by_flags(points: list[Point]) -> dict[Flags, list[Point]]:
    """Points per engine flags; the default flags are there and first, even without points."""
    found: dict[Flags, list[Point]] = {DEFAULT: []}
    for point in points:
        found.setdefault(flags(point), []).append(point)
    return found


def load(point: Point) -> dict[str, int]:
    """What an engine is asked to run; `prefix_len` is the start that all prompts have in common."""
    lengths = {"input_len": point.input_len, "output_len": point.output_len, "num_requests": point.num_requests}
    if point.prefix_share:
        lengths["prefix_len"] = round(point.prefix_share * point.input_len)
    return lengths


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


def engine_settings(config, wanted: Flags = DEFAULT) -> EngineSettings:
    """Settings that fit every point of `config` with the flags `wanted` (the default ones: the latency requests, too)
    without preemption, or with the KV memory that the points ask for. Raises UserError if that holds no request."""
    section = config.throughput
    loads = by_flags(section.points)[wanted]
    if wanted == DEFAULT:
        alone = section.latency
        loads = [*loads, Point(name="latency", input_len=alone.input_len, output_len=alone.output_len, num_requests=1)]
    return EngineSettings(
        shape=config.shape,
        max_model_len=BLOCK * max(blocks(one) for one in loads),
        max_num_seqs=max(one.num_requests for one in loads),
        max_num_batched_tokens=section.max_num_batched_tokens,
        kv_memory_bytes=_kv_memory(config.shape, arms(config), loads, wanted.kv_tokens),
        prefix_caching=wanted.prefix_caching,
        kv_cache_dtype=wanted.kv_cache_dtype,
        seed=config.seed,
        tensor_parallel_size=config.tensor_parallel_size,
    )


def blocks(asked: Point) -> int:
    """KV blocks of one request."""
    return math.ceil((asked.input_len + asked.output_len) / BLOCK)


def _kv_memory(shape: dict, fleet: list[Arm], loads: list[Point], kv_tokens: int | None) -> int:
    """Bytes that hold `kv_tokens` (None: every load) in the base's KV cache."""
    held = 1 + max(one.num_requests * blocks(one) for one in loads)  # vLLM keeps one block for itself
    if kv_tokens is not None:
        held = math.ceil(kv_tokens / BLOCK)
        for one in loads:
            if held < 1 + blocks(one):
                least = BLOCK * (1 + blocks(one))
                raise UserError(f"throughput.points.{one.name}.kv_tokens: {kv_tokens}; allowed is {least} or more")
    return kv_memory(shape, fleet, held)


def kv_memory(shape: dict, fleet: list[Arm], held: int) -> int:
    """Bytes of `held` blocks of the base's KV cache, rounded up so that they are a whole number of blocks in every arm:
    only then is the engine's capacity ratio exactly L / (l + (L - l) / n)."""
    layers, page = shape["num_hidden_layers"], _page(shape)
    unit = page * math.lcm(*(costmodel.kv_caches(shape, arm.cut, arm.group) for arm in fleet))
    return unit * math.ceil(held * layers * page / unit)


def _page(shape: dict) -> int:
    """Bytes of a KV block in one layer."""
    layers = shape["num_hidden_layers"]
    return BLOCK * costmodel.kv_bytes_per_token(shape, layers, 1, DTYPE_BYTES[shape["dtype"]]) // layers


def held_at_once(config, arm: Arm, point: Point) -> int:
    """Requests of a point that an arm's KV cache holds at once, each with its whole output."""
    settings = engine_settings(config, flags(point))
    caches = costmodel.kv_caches(settings.shape, arm.cut, arm.group)
    usable = settings.kv_memory_bytes // (_page(settings.shape) * caches) - 1
    return min(point.num_requests, usable // blocks(point))
