"""Throughput of every arm against the base, interleaved, with its limit, KV capacity and unloaded latency.

Protocol: one live engine per arm with the same flags and KV memory, random weights, fixed lengths, end-of-sequence
ignored, prefix caching off unless a point has a `prefix_share`. Repeats are dealt to `restarts` processes. In each of
them every workload is run by all arms in a balanced order (`order`), each time with the same requests; the speed-up is
taken within a repeat. Controls are arms like the students. Nothing that was measured is left out (`pace` says how much
is measured). Load and clock are those of `vllm bench throughput`. Combined throughput is prompt plus generated tokens
per second, as on the published model cards; prompt tokens that a cache holds count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from swiftkv import costmodel, files, outputs, stats
from swiftkv.bench import late_tokens, latency, pace
from swiftkv.bench.conditions import noise
from swiftkv.bench.plan import CAPACITY, EngineSet, PlannedPoint, ThroughputPlan, throughput_plan
from swiftkv.bench.rounds import Rounds, count_processes, fingerprint, processes
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.engines.arms import BatchResult, LiveEngines, VLLMEngine, joined
from swiftkv.engines.processes import in_new_process
from swiftkv.engines.settings import Arm, Batch
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import names

TIMES = ("ttft_s", "tpot_s")  # of every request of a measurement
KV = ("arm", "kv_caches", "kv_bytes_per_token", "capacity_tokens")  # of what an engine reports
FILES = names("throughput")


def run(config: RunConfig, out_dir: Path, work: Path, factory: Callable = VLLMEngine) -> None:
    """Measure throughput, KV capacity and latency; write FILES, each with its provenance, to `out_dir`.

    Measurements are kept in `work` and reused by a rerun with the same engines, loads, versions and machine (see
    `rounds`): repeats can be added, and points that ask no more of the engines. `factory(arm, settings, directory)`
    starts an engine. Raises UserError for no points, failed requests, token counts other than those asked for, and a
    `work` in which another run measures.
    """
    plan, out_dir, work = throughput_plan(config), Path(out_dir), Path(work)
    with (
        outputs.alone(work),
        Provenance("throughput", config, out=[out_dir / name for name in FILES], weights="dummy") as record,
    ):
        for restart in range(plan.last_restart):
            print(f"throughput: process {restart + 1} of {plan.restarts}", flush=True)
            in_new_process(measure_restart, config, work, restart, factory)
        found = measure_restart(config, work, plan.last_restart, factory)
        record.record["measured"] = found.span
        rows = [row for point in plan.points for row in found.rows if row["point"] == point.name]
        costmodel.write_compute(config, out_dir / "compute.csv")
        write_csv(out_dir / "late_tokens.csv", found.late_tokens)
        write_results(plan, out_dir, rows, found.latency_rows, found.capacity)
        for name in FILES:
            record.save(out_dir / name)


@dataclass
class Found:
    """All measurements, once the last process has made its own: rows of measurements.jsonl, late_tokens.csv,
    latency.jsonl and kv_capacity.csv; when the first and the last of them were made."""

    rows: list[dict] = field(default_factory=list)
    late_tokens: list[dict] = field(default_factory=list)
    latency_rows: list[dict] = field(default_factory=list)
    capacity: list[dict] = field(default_factory=list)
    span: list[str] = field(default_factory=list)


def measure_restart(config: RunConfig, work: Path, restart: int, factory: Callable) -> Found:
    """Measure the rounds of one process with engines of its own, and keep them in `work`. The last process also adds
    rounds where intervals are wide, and returns what all have measured."""
    plan, found = throughput_plan(config), Found()
    key = fingerprint(plan.variants, plan.seed, controls=config.throughput.controls)
    batches: dict[str, int] = {}
    last = restart == plan.last_restart
    for engine_set in plan.engine_sets:
        single_len, models = plan.latency.input_len, work / "models"
        with LiveEngines(plan.arms, engine_set.settings, single_len, models, factory) as engines:
            # Before anything is timed. What an earlier process has counted is there.
            so_far = range(restart + 1) if last else [restart]
            counted = [late_tokens.count(plan, engine_set, work, key, engines, each) for each in so_far]
            alone = Rounds(work, key, [BASE_ARM], plan.seed, plan.decisive({}))
            batches |= {point.name: pace.batches(plan, point, alone, engines) for point in engine_set.points}
            rounds = Rounds(work, key, plan.names, plan.seed, plan.decisive(batches))
            need = partial(need_round, plan, batches, rounds, engines)
            for repeat in plan.dealt(restart, plan.repeats):
                for point in engine_set.points:
                    need(point, repeat)
            default_flags = engine_set is plan.engine_sets[0]
            if default_flags:
                latency.measure(plan, rounds, engines, restart)
            if not last:
                continue
            left_s = time_left(plan, engine_set, found.rows)
            found.rows += measure(plan, engine_set.points, rounds, need, left_s)
            found.late_tokens += late_tokens.summed(counted)
            if default_flags:
                found.capacity, found.latency_rows = kv_capacity(plan, rounds, engines), latency.read(plan, rounds)
            found.span = rounds.span()
    return found


def write_results(plan: ThroughputPlan, out_dir: Path, rows: list, latency_rows: list, capacity: list) -> None:
    """Write what was measured and its summaries, that of the throughput last."""
    files.write_jsonl(out_dir / "measurements.jsonl", [without(row, TIMES) for row in rows])
    files.write_jsonl(out_dir / "requests.jsonl.gz", [request for row in rows for request in request_rows(row)])
    files.write_jsonl(out_dir / "latency.jsonl", latency_rows)
    write_csv(out_dir / "kv_capacity.csv", capacity)
    write_csv(out_dir / "latency.csv", latency.summarise(latency_rows, plan.names, plan.seed))
    write_csv(out_dir / "summary.csv", summarise(plan, rows))


def without(row: dict, keys: Sequence[str]) -> dict:
    """`row` without `keys`."""
    return {key: value for key, value in row.items() if key not in keys}


def request_rows(row: dict) -> list[dict]:
    """Rows of requests.jsonl.gz of one measurement; a request of one output token has no TPOT."""
    tpot_s = row["tpot_s"] or [None] * len(row["ttft_s"])
    return [
        {
            "point": row["point"],
            "arm": row["arm"],
            "repeat": row["repeat"],
            "request": number,
            "ttft_s": ttft,
            "tpot_s": tpot,
            "output_tokens": row["output_len"],
        }
        for number, (ttft, tpot) in enumerate(zip(row["ttft_s"], tpot_s, strict=True))
    ]


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV, atomically; what could not be computed (NaN) is an empty cell."""
    import pandas as pd

    files.write_text(path, pd.DataFrame(rows).to_csv(index=False))


def time_left(plan: ThroughputPlan, engine_set: EngineSet, rows: Sequence[dict]) -> float:
    """Seconds of measuring after which these engines add no round: `max_minutes` are shared by number of points, and
    what earlier engines left over of theirs goes to the later ones. `rows` are those of the earlier ones."""
    if plan.max_seconds is None:
        return 0.0
    place = plan.engine_sets.index(engine_set) + 1
    share = sum(len(each.points) for each in plan.engine_sets[:place]) / len(plan.points)
    return share * plan.max_seconds - sum(row["wall_s"] for row in rows)


def measure(
    plan: ThroughputPlan,
    points: Sequence[PlannedPoint],
    rounds: Rounds,
    need: Callable[[PlannedPoint, int], None],
    left_s: float,
) -> list[dict]:
    """Measure every round that is not there yet (`need`), repeat by repeat; rows of `points`, in the order of their
    rounds."""

    def read(point: PlannedPoint, count: int) -> list[dict]:
        return [row for repeat in range(count) for row in rounds.read(point.name, repeat)]

    counts = pace.add_rounds(plan, points, read, need, left_s)
    return [row for point in points for row in read(point, counts[point.name])]


def need_round(
    plan: ThroughputPlan,
    batches: Mapping[str, int],
    rounds: Rounds,
    engines: LiveEngines,
    point: PlannedPoint,
    repeat: int,
) -> None:
    """Measure a round if it is not there yet."""
    if not rounds.has(point.name, repeat):
        measure_round(plan, point, batches[point.name], repeat, rounds, engines)


def measure_round(
    plan: ThroughputPlan, point: PlannedPoint, batches: int, repeat: int, rounds: Rounds, engines: LiveEngines
) -> None:
    """Run the batches of one workload on every arm, each with the same requests."""
    engines.ready()

    def measure_arm(arm: str) -> dict:
        seeds = [plan.request_seed(repeat, number) for number in range(batches)]
        result = joined([engines[arm].run(point.batch, seed=seed) for seed in seeds])
        row = to_row(point, arm, repeat, batches, result) | {"restart": plan.restart_of(repeat)}
        print(f"throughput {point.name} repeat {repeat} {arm}: {row['total_tokens_per_s']:.0f} tokens/s", flush=True)
        return row

    rounds.measure(point.name, repeat, measure_arm)


def check_result(where: str, batch: Batch, batches: int, result: BatchResult) -> None:
    """Raise UserError unless every request ran, generated what was asked for and found the common prefix cached."""
    count = batches * batch.num_requests
    if result.failed:
        raise UserError(f"{where}: {result.failed} of {count} requests failed; allowed is 0")
    for name, expected, actual in (
        ("prompt", count * batch.input_len, result.prompt_tokens),
        ("output", count * batch.output_len, result.output_tokens),
    ):
        if actual != expected:
            raise UserError(f"{where}: {actual} {name} tokens instead of {expected}; arms would not be comparable")
    cached = count * batch.cached_len
    if result.cached_tokens < cached:
        raise UserError(f"{where}: {result.cached_tokens} prompt tokens were cached instead of {cached}")


def to_row(point: PlannedPoint, arm: str, repeat: int, batches: int, result: BatchResult) -> dict:
    """A row of measurements.jsonl, with the TIMES of its requests as lists. Raises UserError as `check_result`."""
    check_result(f"throughput {point.name}, arm {arm}, repeat {repeat}", point.batch, batches, result)
    return {
        "point": point.name,
        "arm": arm,
        "repeat": repeat,
        "input_len": point.batch.input_len,
        "output_len": point.batch.output_len,
        "num_requests": point.batch.num_requests,
        "batches": batches,
        "cached_tokens": result.cached_tokens,
        "prompt_tokens": result.prompt_tokens,
        "output_tokens": result.output_tokens,
        "elapsed_s": result.elapsed_s,
        "total_tokens_per_s": (result.prompt_tokens + result.output_tokens) / result.elapsed_s,
        "ttft_p50_s": median(result.ttft_s),
        "failed": result.failed,
        "ttft_s": result.ttft_s,
        "tpot_s": result.tpot_s,
    }


def spread(rates: list[float]) -> float:
    """How much faster the fastest is than the slowest, as a share."""
    return max(rates) / min(rates) - 1


def kv_capacity(plan: ThroughputPlan, rounds: Rounds, engines: LiveEngines) -> list[dict]:
    """Rows of kv_capacity.csv: what each engine reports at equal KV memory, against L / (l + (L - l) / n)."""
    if not rounds.has(CAPACITY, 0):
        rounds.measure(CAPACITY, 0, lambda arm: {"arm": arm} | engines[arm].kv())
    reported = {row["arm"]: {key: row[key] for key in KV} for row in rounds.read(CAPACITY, 0)}
    base_tokens = reported[BASE_ARM]["capacity_tokens"]
    return [
        reported[arm.name]
        | {
            "ratio_to_base": reported[arm.name]["capacity_tokens"] / base_tokens,
            "formula_ratio": costmodel.kv_capacity_ratio(plan.settings.shape, arm.cut, arm.group),
        }
        for arm in plan.arms
        if not arm.runs_on
    ]


def summarise(plan: ThroughputPlan, rows: list[dict], interval: str | None = stats.T_OF_LOGS) -> list[dict]:
    """Rows of summary.csv: per workload and arm that was measured the speed-up within a repeat, its interval (one of
    `stats.RATIO_INTERVALS`) and its limit."""
    measured = {(row["point"], row["arm"]) for row in rows}
    return [
        summary_row(plan, point, arm, [row for row in rows if row["point"] == point.name], interval)
        for point in plan.points
        for arm in plan.arms
        if (point.name, arm.name) in measured
    ]


def summary_row(plan: ThroughputPlan, point: PlannedPoint, arm: Arm, rows: list[dict], interval: str | None) -> dict:
    """One row of summary.csv from all `rows` of the workload. `limit` is the FLOPs model's (`costmodel`), `shortest_s`
    the arm's shortest measurement, `base_drift` how much faster the base's fastest repeat is than its slowest."""
    batch, arm_rows = point.batch, [row for row in rows if row["arm"] == arm.name]
    rates = [row["total_tokens_per_s"] for row in arm_rows]
    base_rates = [row["total_tokens_per_s"] for row in rows if row["arm"] == BASE_ARM]
    groups = processes(arm_rows, arm.name)
    speedup, ci_low, ci_high = stats.RATIO_INTERVALS[interval](rates, base_rates, plan.seed, groups)
    batches = rows[0].get("batches", 1)
    # Rows of runs from before prefix caching have no such column.
    cached_len = rows[0].get("cached_tokens", 0) // (batches * batch.num_requests)
    limit = costmodel.workload_speedup_limit(
        point.settings.shape, arm.cut, arm.group, batch.input_len, batch.output_len, cached_len
    )
    return {
        "point": point.name,
        "arm": arm.name,
        "input_len": batch.input_len,
        "output_len": batch.output_len,
        "num_requests": batch.num_requests,
        "repeats": len(rates),
        "restarts": count_processes(arm_rows),
        "batches": batches,
        "cached_len": cached_len,
        "kv_tokens": point.kv_tokens,
        "total_tokens_per_s_median": median(rates),
        "speedup": speedup,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "interval": interval,
        "limit": limit,
        "share_of_limit": speedup / limit,
        "ttft_p50_s": median(row["ttft_p50_s"] for row in arm_rows),
        "shortest_s": min(row["elapsed_s"] for row in arm_rows),
        "base_drift": spread(base_rates),
        **noise(rows),
        "unit": "tokens/s",
        "weights": "dummy",
    }
