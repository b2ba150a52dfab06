"""What the stage `serve-load` measures, derived once from the configuration; everything further in takes this plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftkv.bench.served.loads import Load, loads_of
from swiftkv.config import RunConfig
from swiftkv.config.measuring import Slo, Timeouts
from swiftkv.engines.settings import BLOCK, Arm, EngineSettings, benchmark_arms, kv_memory
from swiftkv.errors import UserError


@dataclass(frozen=True)
class ServedPlan:
    """Arms, the base first; loads in the order of the configuration; the servers' settings without prefix caching.
    `variants` are as the configuration writes them."""

    variants: list[dict]
    arms: tuple[Arm, ...]
    loads: tuple[Load, ...]
    settings: EngineSettings
    rounds: int
    seed: int
    slo: Slo
    timeouts: Timeouts

    def request_seed(self, number: int) -> int:
        """Of the requests of round `number`, the same for all arms."""
        return self.seed + number


def served_plan(config: RunConfig, mirror: Path | None = None) -> ServedPlan:
    """The plan of a configuration. Raises UserError if it has no `served` section, if a variant does not fit the
    benchmark model, and as `loads_of`."""
    section = config.served
    if section is None:
        raise UserError(f"{config.path}: no key 'served'; config/served.yaml has one")
    loads = loads_of(section.points, mirror, config.seed)
    return ServedPlan(
        variants=config.raw["variants"],
        arms=tuple(benchmark_arms(config, config.served_arms)),
        loads=tuple(loads),
        settings=engine_settings(config, loads),
        rounds=section.rounds,
        seed=config.seed,
        slo=section.slo,
        timeouts=section.timeouts,
    )


def engine_settings(config: RunConfig, loads: Sequence[Load]) -> EngineSettings:
    """Settings that take every request of `loads`. The KV cache holds `kv_tokens` of the base, by default the longest
    request as many times as run at once."""
    section = config.served
    blocks = -(-max(load.longest for load in loads) // BLOCK)
    room = blocks * section.max_num_seqs if section.kv_tokens is None else -(-section.kv_tokens // BLOCK)
    return EngineSettings(
        shape=config.shape,
        max_model_len=blocks * BLOCK,
        max_num_seqs=section.max_num_seqs,
        max_num_batched_tokens=config.throughput.max_num_batched_tokens,
        # Whole blocks in every variant, served or not, so that the choice of arms leaves the settings as they are; one
        # block more than is used, which vLLM keeps for itself.
        kv_memory_bytes=kv_memory(config.shape, benchmark_arms(config), 1 + max(room, blocks)),
        prefix_caching=False,
        kv_cache_dtype="auto",
        seed=config.seed,
        tensor_parallel_size=config.tensor_parallel_size,
    )
