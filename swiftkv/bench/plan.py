"""What the throughput stage measures, derived once from the configuration; everything further in takes this plan.

Points that ask for other engine flags than the rest are measured on engines of their own, one set of engines per flags.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.config.measuring import L_EQUALS_L, Point
from swiftkv.engines.settings import BLOCK, Arm, Batch, EngineSettings, benchmark_arms, control_arms, kv_memory
from swiftkv.errors import UserError

CAPACITY, LATENCY = "kv-capacity", "latency"  # of the rounds in the work directory, beside the points' names
BATCH_STRIDE = 1_000_003  # between the seeds of a measurement's batches: more than there are rounds


@dataclass(frozen=True)
class Flags:
    """Engine flags that a point may ask for: prefix caching (its `prefix_share`), how many tokens of the base the KV
    cache holds in the model's own number format (its `kv_tokens`; None: all requests of every point), and the format
    of the cache (its `kv_cache_dtype`, as vLLM names it)."""

    prefix_caching: bool = False
    kv_tokens: int | None = None
    kv_cache_dtype: str = "auto"


DEFAULT = Flags()


@dataclass(frozen=True)
class PlannedPoint:
    """One workload: the batch that every arm runs in a repeat, as often as `min_seconds` takes, and the settings of the
    engines that run it. `kv_tokens` is what the configuration says."""

    name: str
    batch: Batch
    settings: EngineSettings
    kv_tokens: int | None


@dataclass(frozen=True)
class EngineSet:
    """The points that are measured on the same engines, one per arm, all with these settings."""

    settings: EngineSettings
    points: tuple[PlannedPoint, ...]


@dataclass(frozen=True)
class ThroughputPlan:
    """The throughput stage: the base, the variants, the controls; points in the order of the configuration.

    The first of `engine_sets` has the default flags and is there even without points: KV capacity and latency are
    measured on it. `latency` is a single request. `variants` are as the configuration writes them. `repeats` are the
    least rounds of a workload, dealt to `restarts` processes; `precision` and `max_seconds` say when the last process
    adds more (None: never).
    """

    variants: list[dict]
    arms: tuple[Arm, ...]
    points: tuple[PlannedPoint, ...]
    engine_sets: tuple[EngineSet, ...]
    repeats: int
    restarts: int
    precision: float | None
    max_seconds: float | None
    min_seconds: float
    latency: Batch
    latency_rounds: int
    seed: int

    @property
    def settings(self) -> EngineSettings:
        """Of the engines with the default flags."""
        return self.engine_sets[0].settings

    @property
    def names(self) -> list[str]:
        """Of the arms."""
        return [arm.name for arm in self.arms]

    @property
    def judged(self) -> list[str]:
        """The arms whose intervals decide whether rounds are added: the students, and the A/A control."""
        return [name for name in self.names if name not in (BASE_ARM, L_EQUALS_L)]

    @property
    def last_restart(self) -> int:
        return self.restarts - 1

    def dealt(self, restart: int, rounds: int) -> range:
        """Which of so many rounds process `restart` measures."""
        return range(restart, rounds, self.restarts)

    def restart_of(self, number: int) -> int:
        """The process, counted from 0, that measures round `number` of a workload."""
        return number % self.restarts if number < self.repeats else self.last_restart

    def request_seed(self, number: int, batch: int = 0) -> int:
        """Of the requests of batch `batch` of repeat or latency round `number`, the same for all arms."""
        return self.seed + number + BATCH_STRIDE * batch

    def decisive(self, batches: Mapping[str, int]) -> dict[str, dict]:
        """By name of a workload what decides its measurements, beside what decides all of them (`rounds.fingerprint`):
        the engines' settings, what they are asked to run, and in how many `batches` where that is known. Repeats,
        rounds and what else leaves the batches as they are may change."""
        engine, alone = asdict(self.settings), self.latency
        workloads = {
            CAPACITY: {"engine": engine},
            LATENCY: {"engine": engine, "load": {"input_len": alone.input_len, "output_len": alone.output_len}},
        }
        for point in self.points:
            load = {key: number for key, number in asdict(point.batch).items() if number}  # no prefix_len of 0
            repeated = {"batches": batches[point.name]} if point.name in batches else {}
            workloads[point.name] = {"engine": asdict(point.settings), "load": load | repeated}
        return workloads


def throughput_plan(config: RunConfig) -> ThroughputPlan:
    """The plan of a configuration. Raises UserError if points share a name or have one that is taken, if a variant does
    not fit the benchmark model, and if KV memory does not hold one request."""
    section, arms = config.throughput, [*benchmark_arms(config), *control_arms(config)]
    names, taken = [point.name for point in section.points], (LATENCY, CAPACITY)
    if len(set(names)) < len(names) or {*taken} & {*names}:
        raise UserError(f"throughput.points: names must be unique and not {' or '.join(taken)}, got {names}")
    by_flags: dict[Flags, list[Point]] = {DEFAULT: []}
    for point in section.points:
        flags = Flags(point.prefix_share is not None, point.kv_tokens, point.kv_cache_dtype)
        by_flags.setdefault(flags, []).append(point)
    latency = Batch(section.latency.input_len, section.latency.output_len, num_requests=1)
    engine_sets = [
        engine_set(config, arms, flags, points, [latency] if flags == DEFAULT else [])
        for flags, points in by_flags.items()
    ]
    planned = {point.name: point for engines in engine_sets for point in engines.points}
    return ThroughputPlan(
        variants=config.raw["variants"],
        arms=tuple(arms),
        points=tuple(planned[name] for name in names),
        engine_sets=tuple(engine_sets),
        repeats=section.repeats,
        restarts=section.restarts,
        precision=section.precision,
        max_seconds=None if section.max_minutes is None else 60 * section.max_minutes,
        min_seconds=section.min_seconds,
        latency=latency,
        latency_rounds=section.latency.rounds,
        seed=config.seed,
    )


def engine_set(config: RunConfig, arms: list[Arm], flags: Flags, points: list[Point], more: list[Batch]) -> EngineSet:
    """Engines with settings that fit each of `points` and `more` without preemption, or with the KV memory that the
    points ask for. Raises UserError if that does not hold one request of each."""
    batches = [batch_of(point) for point in points]
    settings = EngineSettings(
        shape=config.shape,
        max_model_len=BLOCK * max(batch.blocks for batch in [*batches, *more]),
        max_num_seqs=max(batch.num_requests for batch in [*batches, *more]),
        max_num_batched_tokens=config.throughput.max_num_batched_tokens,
        kv_memory_bytes=kv_memory(config.shape, arms, blocks_held(points, [*batches, *more], flags.kv_tokens)),
        prefix_caching=flags.prefix_caching,
        kv_cache_dtype=flags.kv_cache_dtype,
        seed=config.seed,
        tensor_parallel_size=config.tensor_parallel_size,
    )
    planned = zip(points, batches, strict=True)
    return EngineSet(settings, tuple(PlannedPoint(p.name, batch, settings, p.kv_tokens) for p, batch in planned))


def batch_of(point: Point) -> Batch:
    """What a point asks an engine to run."""
    prefix_len = round((point.prefix_share or 0) * point.input_len)
    return Batch(point.input_len, point.output_len, point.num_requests, prefix_len)


def blocks_held(points: list[Point], batches: list[Batch], kv_tokens: int | None) -> int:
    """Blocks of the base's KV cache: those of `kv_tokens`, by default those of any one batch without preemption. Raises
    UserError if `kv_tokens` does not hold one request of every point."""
    if kv_tokens is None:
        return 1 + max(batch.num_requests * batch.blocks for batch in batches)  # vLLM keeps one block for itself
    blocks = math.ceil(kv_tokens / BLOCK)
    for point in points:
        least = 1 + batch_of(point).blocks
        if blocks < least:
            where = f"throughput.points.{point.name}.kv_tokens"
            raise UserError(f"{where}: {kv_tokens}; allowed is {BLOCK * least} or more")
    return blocks
