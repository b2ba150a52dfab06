"""Throughput of every arm against the base, interleaved, with its limit, KV capacity and unloaded latency.

Protocol: one live engine per arm with the same flags and KV memory, random weights, fixed lengths, end-of-sequence
ignored, prefix caching off unless a point has a `prefix_share`. In each repeat every workload is run by all arms in
turn, each time with the same requests; the speed-up is taken within a repeat. Load and clock are those of
`vllm bench throughput`. Combined throughput is prompt plus generated tokens per second, as on the published model
cards; prompt tokens that a cache holds count.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from swiftkv import costmodel, files, stats
from swiftkv.bench import latency
from swiftkv.bench.rounds import Rounds, fingerprint
from swiftkv.config import BASE_ARM
from swiftkv.config.measuring import Point
from swiftkv.engines.arms import Fleet, Run, VLLMEngine
from swiftkv.engines.settings import BLOCK, DEFAULT, Arm, arms, by_flags, engine_settings, flags, load
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import names

DRIFT = 0.10  # where the baselines of the repeats differ by more than this, the one furthest off is measured again
MAX_REDONE = 2  # per workload
TIMES = ("ttft_s", "tpot_s")  # of every request of a measurement
CAPACITY = "kv-capacity"  # of the round in the work directory
FILES = names("throughput")


def run(config, out_dir: Path, work: Path, factory: Callable = VLLMEngine) -> None:
    """Measure throughput, KV capacity and latency; write FILES, each with its provenance, to `out_dir`.

    Measurements are kept in `work` and reused by a rerun with the same engines, loads, versions and machine (see
    `rounds`): repeats can be added, and points that ask no more of the engines. `factory(arm, settings, directory)`
    starts an engine. Raises UserError for no points, failed requests or token counts other than those asked for.
    """
    points, out_dir, work = check_points(config), Path(out_dir), Path(work)
    rounds = Rounds(work, fingerprint(config), [arm.name for arm in arms(config)], decisive(config))
    with Provenance("throughput", config, out=[out_dir / name for name in FILES], weights="dummy") as record:
        for wanted, group in by_flags(points).items():
            with Fleet(config, work / "models", factory, wanted) as fleet:
                measure(config, group, rounds, fleet)
                if wanted == DEFAULT:
                    capacity = kv_capacity(config, rounds, fleet)
                    latency_rows = latency.measure(config, rounds, fleet)
        record.record["redone_rounds"] = [row for point in points for row in redone(config, point, rounds)]
        record.record["measured"] = rounds.span()
        rows = [row for point in points for row in read_point(config, point, rounds)]
        write_results(config, out_dir, record, rows, latency_rows, capacity)


def decisive(config) -> dict[str, dict]:
    """By name of a workload: the engines' settings and the load they are put under."""
    plain = asdict(engine_settings(config))
    found = {CAPACITY: {"engine": plain}, latency.NAME: {"engine": plain, "load": latency.lengths(config)}}
    for point in config.throughput.points:
        found[point.name] = {"engine": asdict(engine_settings(config, flags(point))), "load": load(point)}
    return found


def write_results(config, out_dir: Path, record: Provenance, rows: list, latency_rows: list, capacity: list) -> None:
    """Write every result file, the summary last, then the provenance of each."""
    files.write_jsonl(out_dir / "measurements.jsonl", [without(row, TIMES) for row in rows])
    files.write_jsonl(out_dir / "requests.jsonl.gz", [request for row in rows for request in requests(row)])
    files.write_jsonl(out_dir / "latency.jsonl", latency_rows)
    costmodel.write_compute(config, out_dir / "compute.csv")
    write_csv(out_dir / "kv_capacity.csv", capacity)
    write_csv(out_dir / "latency.csv", latency.summarise(latency_rows, config.seed))
    write_csv(out_dir / "summary.csv", summarise(config, rows))
    for name in FILES:
        record.save(out_dir / name)


def without(row: dict, keys: Sequence[str]) -> dict:
    """`row` without `keys`."""
    return {key: value for key, value in row.items() if key not in keys}


def requests(row: dict) -> list[dict]:
    """Rows of requests.jsonl.gz of one measurement; a request of one output token has no TPOT."""
    of = {key: row[key] for key in ("point", "arm", "repeat")}
    tpot = row["tpot_s"] or [None] * len(row["ttft_s"])
    return [
        of | {"request": number, "ttft_s": first, "tpot_s": then, "output_tokens": row["output_len"]}
        for number, (first, then) in enumerate(zip(row["ttft_s"], tpot, strict=True))
    ]


def check_points(config) -> list[Point]:
    """The workloads of the configuration. Raises UserError if two share a name, or one that is taken."""
    points = config.throughput.points
    names, taken = [point.name for point in points], (latency.NAME, CAPACITY)
    if len(set(names)) < len(names) or {*taken} & {*names}:
        raise UserError(f"throughput.points: names must be unique and not {' or '.join(taken)}, got {names}")
    return points


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV, atomically; what could not be computed (NaN) is an empty cell."""
    import pandas as pd

    files.write_text(path, pd.DataFrame(rows).to_csv(index=False))


def measure(config, points: list[Point], rounds: Rounds, fleet) -> None:
    """Measure every round that is not there yet, repeat by repeat, then those whose baseline drifted."""
    for repeat in range(config.throughput.repeats):
        for point in points:
            if not rounds.attempts(point.name, repeat):
                measure_round(config, point, repeat, rounds, fleet)
    for point in points:
        while (repeat := drifted(config, point, rounds)) is not None:
            print(f"throughput {point.name}: repeat {repeat} again, its baseline drifted", flush=True)
            measure_round(config, point, repeat, rounds, fleet)


def measure_round(config, point: Point, repeat: int, rounds: Rounds, fleet) -> None:
    """Run one workload once on every arm, each with the same requests."""
    asked = load(point)

    def measure_arm(arm: str) -> dict:
        row = to_row(point.name, arm, repeat, asked, fleet[arm].run(**asked, seed=config.seed + repeat))
        short = f", too short: {row['elapsed_s']:.3g} s" if too_short(config, row) else ""
        rate = f"{row['total_tokens_per_s']:.0f} tokens/s{short}"
        print(f"throughput {point.name} repeat {repeat} {arm}: {rate}", flush=True)
        return row

    rounds.measure(point.name, repeat, measure_arm)


def too_short(config, row: dict) -> bool:
    """Whether a measurement is shorter than `throughput.min_seconds`."""
    return row["elapsed_s"] < config.throughput.min_seconds


def check_run(where: str, asked: dict, run: Run) -> None:
    """Raise UserError unless every request ran, generated what was asked for and found the common prefix cached."""
    if run.failed:
        raise UserError(f"{where}: {run.failed} of {asked['num_requests']} requests failed; allowed is 0")
    for name, length in (("prompt", asked["input_len"]), ("output", asked["output_len"])):
        wanted, got = length * asked["num_requests"], getattr(run, f"{name}_tokens")
        if got != wanted:
            raise UserError(f"{where}: {got} {name} tokens instead of {wanted}; arms would not be comparable")
    cached = asked["num_requests"] * (asked.get("prefix_len", 0) // BLOCK * BLOCK)
    if run.cached_tokens < cached:
        raise UserError(f"{where}: {run.cached_tokens} prompt tokens were cached instead of {cached}")


def to_row(point: str, arm: str, repeat: int, asked: dict, run: Run) -> dict:
    """A row of measurements.jsonl, with the TIMES of its requests as lists. Raises UserError as `check_run`."""
    check_run(f"throughput {point}, arm {arm}, repeat {repeat}", asked, run)
    lengths = without(asked, ["prefix_len"])
    tokens = run.prompt_tokens + run.output_tokens
    return {
        **{"point": point, "arm": arm, "repeat": repeat, **lengths, "cached_tokens": run.cached_tokens},
        **{"prompt_tokens": run.prompt_tokens, "output_tokens": run.output_tokens, "elapsed_s": run.elapsed_s},
        **{"total_tokens_per_s": tokens / run.elapsed_s, "ttft_p50_s": median(run.ttft_s), "failed": run.failed},
        **{"ttft_s": run.ttft_s, "tpot_s": run.tpot_s},
    }


def read_point(config, point: Point, rounds: Rounds) -> list[dict]:
    """Every counted row of a workload; `attempt` is 0 where the repeat was measured once."""
    name, rows = point.name, []
    for repeat in range(config.throughput.repeats):
        attempt = rounds.attempts(name, repeat) - 1
        rows += [row | {"attempt": attempt} for row in rounds.read(name, repeat)]
    return rows


def baselines(config, point: Point, rounds: Rounds) -> list[float]:
    """Base tokens/s of each repeat."""
    return [row["total_tokens_per_s"] for row in read_point(config, point, rounds) if row["arm"] == BASE_ARM]


def spread(rates: list[float]) -> float:
    """How much faster the fastest is than the slowest, as a share."""
    return max(rates) / min(rates) - 1


def drifted(config, point: Point, rounds: Rounds) -> int | None:
    """The repeat whose baseline is furthest from their median, if they spread by more than DRIFT and the workload may
    still redo a round."""
    repeats = range(config.throughput.repeats)
    spent = sum(rounds.attempts(point.name, repeat) - 1 for repeat in repeats)
    rates = baselines(config, point, rounds)
    if spread(rates) <= DRIFT or spent >= MAX_REDONE:
        return None
    return max(repeats, key=lambda repeat: abs(rates[repeat] - median(rates)))


def redone(config, point: Point, rounds: Rounds) -> list[dict]:
    """The rounds that were measured again, with every arm's tokens/s of the attempt that does not count."""
    found = []
    for repeat in range(config.throughput.repeats):
        for attempt in range(rounds.attempts(point.name, repeat) - 1):
            rows = rounds.read(point.name, repeat, attempt)
            rates = {row["arm"]: row["total_tokens_per_s"] for row in rows}
            found.append({"point": point.name, "repeat": repeat, "attempt": attempt, "total_tokens_per_s": rates})
    return found


def kv_capacity(config, rounds: Rounds, fleet) -> list[dict]:
    """Rows of kv_capacity.csv: what each engine reports at equal KV memory, against L / (l + (L - l) / n)."""
    if not rounds.attempts(CAPACITY, 0):
        rounds.measure(CAPACITY, 0, lambda arm: {"arm": arm} | fleet[arm].kv())
    reported = {row["arm"]: row for row in rounds.read(CAPACITY, 0)}
    shape, base = config.shape, reported[BASE_ARM]["capacity_tokens"]
    rows = []
    for arm in arms(config):
        row = {key: value for key, value in reported[arm.name].items() if key != "position"}
        row["ratio_to_base"] = row["capacity_tokens"] / base
        rows.append(row | {"formula_ratio": costmodel.kv_capacity_ratio(shape, arm.cut, arm.group)})
    return rows


def summarise(config, rows: list[dict]) -> list[dict]:
    """Rows of summary.csv: per workload and arm the speed-up within a repeat, its interval and its limit."""
    return [
        summary_row(config, point, arm, [row for row in rows if row["point"] == point.name])
        for point in config.throughput.points
        for arm in arms(config)
    ]


def summary_row(config, point: Point, arm: Arm, rows: list[dict]) -> dict:
    """One row of summary.csv from all `rows` of the workload. `limit` is the FLOPs model's (`costmodel`); `repeated`
    and `too_short` count attempts that were measured again and measurements below `throughput.min_seconds`."""
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in (arm.name, BASE_ARM)}
    rates = {name: [row["total_tokens_per_s"] for row in found] for name, found in by_arm.items()}
    speedup, low, high = stats.ratio_ci(rates[arm.name], rates[BASE_ARM], config.seed)
    cached = rows[0].get("cached_tokens", 0) // point.num_requests
    lengths = (point.input_len, point.output_len)
    limit = costmodel.workload_speedup_limit(config.shape, arm.cut, arm.group, *lengths, cached)
    drift = spread(rates[BASE_ARM])
    return {
        **{"point": point.name, "arm": arm.name, "input_len": lengths[0], "output_len": lengths[1]},
        **{"num_requests": point.num_requests, "repeats": len(rates[arm.name])},
        **{"cached_len": cached, "kv_tokens": point.kv_tokens},
        **{"total_tokens_per_s_median": median(rates[arm.name]), "speedup": speedup, "ci_low": low, "ci_high": high},
        **{"limit": limit, "share_of_limit": speedup / limit},
        **{"ttft_p50_s": median(row["ttft_p50_s"] for row in by_arm[arm.name]), "unit": "tokens/s", "weights": "dummy"},
        "repeated": sum(row.get("attempt", 0) for row in by_arm[arm.name]),
        "too_short": sum(too_short(config, row) for row in by_arm[arm.name]),
        "notes": f"baseline moved {drift:.0%} between repeats" if drift > DRIFT else "",
    }
