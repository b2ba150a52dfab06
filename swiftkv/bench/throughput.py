"""Throughput of every arm against the base, interleaved, with its limit, KV capacity and unloaded latency.

Protocol: one live engine per arm with the same flags and KV memory, random weights, fixed lengths, end-of-sequence
ignored, prefix caching off unless a point has a `prefix_share`. In each repeat every workload is run by all arms in
turn, each time with the same requests; the speed-up is taken within a repeat. Load and clock are those of
`vllm bench throughput`. Combined throughput is prompt plus generated tokens per second, as on the published model
cards; prompt tokens that a cache holds count.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from swiftkv import costmodel, files, stats
from swiftkv.bench import late_tokens, latency
from swiftkv.bench.plan import CAPACITY, PlannedPoint, ThroughputPlan, throughput_plan
from swiftkv.bench.rounds import Rounds, fingerprint
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.engines.arms import BatchResult, LiveEngines, VLLMEngine
from swiftkv.engines.settings import BLOCK, Arm, Batch
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import names

DRIFT = 0.10  # where the baselines of the repeats differ by more than this, the one furthest off is measured again
MAX_REDONE = 2  # per workload
TIMES = ("ttft_s", "tpot_s")  # of every request of a measurement
FILES = names("throughput")


def run(config: RunConfig, out_dir: Path, work: Path, factory: Callable = VLLMEngine) -> None:
    """Measure throughput, KV capacity and latency; write FILES, each with its provenance, to `out_dir`.

    Measurements are kept in `work` and reused by a rerun with the same engines, loads, versions and machine (see
    `rounds`): repeats can be added, and points that ask no more of the engines. `factory(arm, settings, directory)`
    starts an engine. Raises UserError for no points, failed requests or token counts other than those asked for.
    """
    plan, out_dir, work = throughput_plan(config), Path(out_dir), Path(work)
    decisive = plan.decisive | late_tokens.decisive(plan)
    rounds = Rounds(work, fingerprint(plan.variants, plan.seed), [arm.name for arm in plan.arms], decisive)
    counted = []
    with Provenance("throughput", config, out=[out_dir / name for name in FILES], weights="dummy") as record:
        for engine_set in plan.engine_sets:
            single_len, models = plan.latency.input_len, work / "models"
            with LiveEngines(plan.arms, engine_set.settings, single_len, models, factory) as engines:
                counted += late_tokens.count(plan, engine_set, rounds, engines)  # before anything is timed
                measure(plan, engine_set.points, rounds, engines)
                if engine_set is plan.engine_sets[0]:  # the one with the default flags
                    capacity = kv_capacity(plan, rounds, engines)
                    latency_rows = latency.measure(plan, rounds, engines)
        record.record["redone_rounds"] = [row for point in plan.points for row in redone(plan, point, rounds)]
        record.record["measured"] = rounds.span()
        rows = [row for point in plan.points for row in read_point(plan, point, rounds)]
        costmodel.write_compute(config, out_dir / "compute.csv")
        write_csv(out_dir / "late_tokens.csv", counted)
        write_results(plan, out_dir, rows, latency_rows, capacity)
        for name in FILES:
            record.save(out_dir / name)


def write_results(plan: ThroughputPlan, out_dir: Path, rows: list, latency_rows: list, capacity: list) -> None:
    """Write what was measured and its summaries, that of the throughput last."""
    files.write_jsonl(out_dir / "measurements.jsonl", [without(row, TIMES) for row in rows])
    files.write_jsonl(out_dir / "requests.jsonl.gz", [request for row in rows for request in request_rows(row)])
    files.write_jsonl(out_dir / "latency.jsonl", latency_rows)
    write_csv(out_dir / "kv_capacity.csv", capacity)
    write_csv(out_dir / "latency.csv", latency.summarise(latency_rows, plan.seed))
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


def measure(plan: ThroughputPlan, points: Sequence[PlannedPoint], rounds: Rounds, engines: LiveEngines) -> None:
    """Measure every round that is not there yet, repeat by repeat, then those whose baseline drifted."""
    for repeat in range(plan.repeats):
        for point in points:
            if not rounds.attempts(point.name, repeat):
                measure_round(plan, point, repeat, rounds, engines)
    for point in points:
        while (repeat := drifted(plan, point, rounds)) is not None:
            print(f"throughput {point.name}: repeat {repeat} again, its baseline drifted", flush=True)
            measure_round(plan, point, repeat, rounds, engines)


def measure_round(plan: ThroughputPlan, point: PlannedPoint, repeat: int, rounds: Rounds, engines: LiveEngines) -> None:
    """Run one workload once on every arm, each with the same requests."""

    def measure_arm(arm: str) -> dict:
        result = engines[arm].run(point.batch, seed=plan.request_seed(repeat))
        row = to_row(point, arm, repeat, result)
        short = f", too short: {row['elapsed_s']:.3g} s" if too_short(plan, row) else ""
        rate = f"{row['total_tokens_per_s']:.0f} tokens/s{short}"
        print(f"throughput {point.name} repeat {repeat} {arm}: {rate}", flush=True)
        return row

    rounds.measure(point.name, repeat, measure_arm)


def too_short(plan: ThroughputPlan, row: dict) -> bool:
    """Whether a measurement is shorter than `throughput.min_seconds`."""
    return row["elapsed_s"] < plan.min_seconds


def check_result(where: str, batch: Batch, result: BatchResult) -> None:
    """Raise UserError unless every request ran, generated what was asked for and found the common prefix cached."""
    count = batch.num_requests
    if result.failed:
        raise UserError(f"{where}: {result.failed} of {count} requests failed; allowed is 0")
    for name, expected, actual in (
        ("prompt", count * batch.input_len, result.prompt_tokens),
        ("output", count * batch.output_len, result.output_tokens),
    ):
        if actual != expected:
            raise UserError(f"{where}: {actual} {name} tokens instead of {expected}; arms would not be comparable")
    cached = count * (batch.prefix_len // BLOCK * BLOCK)  # vLLM caches whole blocks
    if result.cached_tokens < cached:
        raise UserError(f"{where}: {result.cached_tokens} prompt tokens were cached instead of {cached}")


def to_row(point: PlannedPoint, arm: str, repeat: int, result: BatchResult) -> dict:
    """A row of measurements.jsonl, with the TIMES of its requests as lists. Raises UserError as `check_result`."""
    check_result(f"throughput {point.name}, arm {arm}, repeat {repeat}", point.batch, result)
    return {
        "point": point.name,
        "arm": arm,
        "repeat": repeat,
        "input_len": point.batch.input_len,
        "output_len": point.batch.output_len,
        "num_requests": point.batch.num_requests,
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


def read_point(plan: ThroughputPlan, point: PlannedPoint, rounds: Rounds) -> list[dict]:
    """Every counted row of a workload; `attempt` is 0 where the repeat was measured once."""
    rows = []
    for repeat in range(plan.repeats):
        attempt = rounds.attempts(point.name, repeat) - 1
        rows += [row | {"attempt": attempt} for row in rounds.read(point.name, repeat)]
    return rows


def spread(rates: list[float]) -> float:
    """How much faster the fastest is than the slowest, as a share."""
    return max(rates) / min(rates) - 1


def drifted(plan: ThroughputPlan, point: PlannedPoint, rounds: Rounds) -> int | None:
    """The repeat whose baseline is furthest from their median, if they spread by more than DRIFT and the workload may
    still redo a round."""
    repeats = range(plan.repeats)
    redone_rounds = sum(rounds.attempts(point.name, repeat) - 1 for repeat in repeats)
    rows = read_point(plan, point, rounds)
    rates = [row["total_tokens_per_s"] for row in rows if row["arm"] == BASE_ARM]  # one per repeat
    if spread(rates) <= DRIFT or redone_rounds >= MAX_REDONE:
        return None
    return max(repeats, key=lambda repeat: abs(rates[repeat] - median(rates)))


def redone(plan: ThroughputPlan, point: PlannedPoint, rounds: Rounds) -> list[dict]:
    """The rounds that were measured again, with every arm's tokens/s of the attempt that does not count."""
    rows = []
    for repeat in range(plan.repeats):
        for attempt in range(rounds.attempts(point.name, repeat) - 1):
            measured = rounds.read(point.name, repeat, attempt)
            rates = {row["arm"]: row["total_tokens_per_s"] for row in measured}
            rows.append({"point": point.name, "repeat": repeat, "attempt": attempt, "total_tokens_per_s": rates})
    return rows


def kv_capacity(plan: ThroughputPlan, rounds: Rounds, engines: LiveEngines) -> list[dict]:
    """Rows of kv_capacity.csv: what each engine reports at equal KV memory, against L / (l + (L - l) / n)."""
    if not rounds.attempts(CAPACITY, 0):
        rounds.measure(CAPACITY, 0, lambda arm: {"arm": arm} | engines[arm].kv())
    reported = {row["arm"]: without(row, ["position"]) for row in rounds.read(CAPACITY, 0)}
    base_tokens = reported[BASE_ARM]["capacity_tokens"]
    return [
        reported[arm.name]
        | {
            "ratio_to_base": reported[arm.name]["capacity_tokens"] / base_tokens,
            "formula_ratio": costmodel.kv_capacity_ratio(plan.settings.shape, arm.cut, arm.group),
        }
        for arm in plan.arms
    ]


def summarise(plan: ThroughputPlan, rows: list[dict]) -> list[dict]:
    """Rows of summary.csv: per workload and arm the speed-up within a repeat, its interval and its limit."""
    return [
        summary_row(plan, point, arm, [row for row in rows if row["point"] == point.name])
        for point in plan.points
        for arm in plan.arms
    ]


def summary_row(plan: ThroughputPlan, point: PlannedPoint, arm: Arm, rows: list[dict]) -> dict:
    """One row of summary.csv from all `rows` of the workload. `limit` is the FLOPs model's (`costmodel`); `repeated`
    and `too_short` count attempts that were measured again and measurements below `throughput.min_seconds`."""
    batch, arm_rows = point.batch, [row for row in rows if row["arm"] == arm.name]
    rates = [row["total_tokens_per_s"] for row in arm_rows]
    base_rates = [row["total_tokens_per_s"] for row in rows if row["arm"] == BASE_ARM]
    speedup, ci_low, ci_high = stats.ratio_ci(rates, base_rates, plan.seed)
    # Rows of runs from before prefix caching have no such column.
    cached_len = rows[0].get("cached_tokens", 0) // batch.num_requests
    limit = costmodel.workload_speedup_limit(
        point.settings.shape, arm.cut, arm.group, batch.input_len, batch.output_len, cached_len
    )
    drift = spread(base_rates)
    return {
        "point": point.name,
        "arm": arm.name,
        "input_len": batch.input_len,
        "output_len": batch.output_len,
        "num_requests": batch.num_requests,
        "repeats": len(rates),
        "cached_len": cached_len,
        "kv_tokens": point.kv_tokens,
        "total_tokens_per_s_median": median(rates),
        "speedup": speedup,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "limit": limit,
        "share_of_limit": speedup / limit,
        "ttft_p50_s": median(row["ttft_p50_s"] for row in arm_rows),
        "unit": "tokens/s",
        "weights": "dummy",
        "repeated": sum(row.get("attempt", 0) for row in arm_rows),
        "too_short": sum(too_short(plan, row) for row in arm_rows),
        "notes": f"baseline moved {drift:.0%} between repeats" if drift > DRIFT else "",
    }
