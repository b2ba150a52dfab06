"""Predicted times and speed-ups of a workload, and how far they are from what was measured.

A workload is what the throughput stage sends: equal requests, all at once. `fit` learns a machine from the base arm's
measured times alone; the variants' speed-ups are then predictions that the fit has not seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from swiftkv.bench.plan import throughput_plan
from swiftkv.config import BASE_ARM
from swiftkv.config.measuring import CONTROLS
from swiftkv.costmodel import workload_flops
from swiftkv.engines.settings import DTYPE_BYTES, Arm, benchmark_arms, held_at_once
from swiftkv.errors import UserError
from swiftkv.planning import fleet, roofline
from swiftkv.planning.roofline import Machine
from swiftkv.workloads.traffic import Requests

START_OVERHEAD_S = 5e-3
FEW, MANY = 16.0, 256.0  # tokens of a step whose matrix products are narrow and wide
OUTLIER = 0.05  # an error of the logarithm from which a time counts less
# How hard the logarithm of each of `adjusted`'s factors is pulled towards 0, in units of the logarithm of a time.
PULL = np.array([0, 0.02, 0.02, 0.005, 0.005])
UNLIMITED = 2**40
ALONE = "latency"  # the request that latency.csv is about
COLUMNS = {
    "summary.csv": set("point arm input_len output_len num_requests total_tokens_per_s_median speedup".split()),
    "latency.csv": set("arm ttft_median_s tpot_median_s ttft_ratio tpot_ratio".split()),
}
RATIOS = {"speedup": "speedup", "ttft_ratio": "ttft_s", "tpot_ratio": "tpot_s"}


@dataclass(frozen=True)
class Workload:
    """`num_requests` prompts of `input_len` tokens that arrive together, `output_len` generated each, on an engine
    whose steps hold `step_tokens` and whose KV cache holds `at_once` requests (None: all). The first `cached_len`
    tokens of each prompt lie in the prefix cache."""

    input_len: int
    output_len: int
    num_requests: int = 1
    step_tokens: int = 8192
    at_once: int | None = None
    cached_len: int = 0


@dataclass(frozen=True)
class Prediction:
    """Seconds: of the whole workload, and the median request's to its first token and per further token."""

    elapsed_s: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Observation:
    """A measured time of the base: `quantity` is a field of Prediction."""

    workload: Workload
    quantity: str
    seconds: float


def predict(shape: Mapping, cut: int, group: int, workload: Workload, machine: Machine,
            dtype_bytes: int = roofline.BFLOAT16_BYTES) -> Prediction:  # fmt: skip
    """What `workload` takes on one engine. Raises UserError for an impossible cut or lengths below 1."""
    workload_flops(shape, cut, group, workload.input_len, workload.output_len, workload.cached_len)  # its checks
    count = workload.num_requests
    prompt, output, cached = (
        np.full(count, tokens, dtype=np.int64)
        for tokens in (workload.input_len, workload.output_len, workload.cached_len)
    )
    requests = Requests(arrival=np.zeros(count), prompt=prompt, output=output)
    # `at_once` is counted in requests, which all are alike, so the KV cache itself has no limit here.
    limits = fleet.Limits(workload.step_tokens, workload.at_once or count, UNLIMITED)
    served = fleet.simulate(roofline.cost(shape, cut, group, machine, dtype_bytes), limits, requests, 1, cached)
    per_token = fleet.tpot(requests, served)
    return Prediction(float(served.end.max()), float(np.median(served.first)), float(np.median(per_token)))


def fit(shape: Mapping, observations: list[Observation], dtype_bytes: int = roofline.BFLOAT16_BYTES,
        machine: Machine | None = None) -> Machine:  # fmt: skip
    """The machine on which the base takes the observed times, a `tpot_s` among them: least squares of log ratios, from
    a calibrated `machine` or one of a constant rate. See `adjusted` for what is fitted; what the times cannot tell
    stays as it was."""
    layers = shape["num_hidden_layers"]
    start = machine or _constant(_rate(shape, observations), _bandwidth(shape, observations, dtype_bytes))
    start = replace(start, overhead_s=start.overhead_s or START_OVERHEAD_S)

    # Logarithms of the factors: they stay above 0, and twice as fast is as far off as half as fast.
    def errors(logs: np.ndarray) -> np.ndarray:
        trial = adjusted(start, *np.exp(logs))
        predictions = [predict(shape, layers, 1, seen.workload, trial, dtype_bytes) for seen in observations]
        pairs = zip(predictions, observations, strict=True)
        return np.concatenate([[np.log(getattr(p, o.quantity) / o.seconds) for p, o in pairs], PULL * logs])

    best = least_squares(errors, np.zeros(5), x_scale=0.1, diff_step=1e-3, loss="soft_l1", f_scale=OUTLIER)
    return adjusted(start, *np.exp(best.x))


def adjusted(machine: Machine, rate: float, few: float, attention: float, bandwidth: float, overhead: float) -> Machine:
    """`machine` with five factors: on every rate, on the rate of steps of up to FEW tokens (fading by the logarithm of
    the count until MANY), on that of attention, on memory bandwidth and on the overhead per step."""
    # 1 up to FEW tokens, 0 from MANY on, linear in the logarithm between.
    narrow = 1 - np.clip(np.log(np.array(machine.tokens) / FEW) / np.log(MANY / FEW), 0, 1)
    flops = tuple(float(one) for one in rate * np.array(machine.flops) * few**narrow)
    return replace(
        machine,
        flops=flops,
        attention=attention * rate * (machine.attention or machine.flops[-1]),
        bandwidth=bandwidth * machine.bandwidth,
        overhead_s=overhead * machine.overhead_s,
    )


def _constant(rate: float, bandwidth: float) -> Machine:
    """Before the fit: one rate for every count of tokens."""
    return Machine(
        "fitted to the base",
        tokens=(FEW, MANY),
        flops=(rate, rate),
        bandwidth=bandwidth,
        write_bandwidth=np.inf,
        memory=np.inf,
        overhead_s=START_OVERHEAD_S,
        kind=roofline.MEASURED,
    )


def _rate(shape: Mapping, observations: list[Observation]) -> float:
    """FLOP/s of the longest observation."""
    longest = max(observations, key=lambda seen: seen.seconds)
    load, layers = longest.workload, shape["num_hidden_layers"]
    flops = workload_flops(shape, layers, 1, load.input_len, load.output_len, load.cached_len)["total"]
    return load.num_requests * flops / longest.seconds


def _bandwidth(shape: Mapping, observations: list[Observation], dtype_bytes: int) -> float:
    """Bytes/s at which the weights alone take the shortest observed time per token."""
    layers, times = shape["num_hidden_layers"], [seen.seconds for seen in observations if seen.quantity == "tpot_s"]
    return roofline.weight_bytes(shape, layers, 1, dtype_bytes) / min(times)


def check(config, directory: Path, machine: Machine | None = None) -> tuple[pd.DataFrame, Machine]:
    """Predicted against measured ratios of every point and arm in `directory`/throughput, and the machine used.

    `config` is the configuration they were measured with. Columns: point, arm, quantity, predicted, measured, ci_low,
    ci_high, error (predicted / measured - 1). Raises UserError if results are missing or are of other arms.
    """
    shape = config.shape
    dtype_bytes = DTYPE_BYTES[shape["dtype"]]
    summary, latency = (_read(directory / "throughput" / name) for name in ("summary.csv", "latency.csv"))
    arms = benchmark_arms(config)
    loads = {(arm.name, name): load for arm in arms for name, load in workloads(config, arm, summary).items()}
    machine = fit(shape, _observations(summary, latency, loads), dtype_bytes, machine)
    predictions = {
        (arm.name, point): predict(shape, arm.cut, arm.group, load, machine, dtype_bytes)
        for arm in arms
        for (name, point), load in loads.items()
        if name == arm.name
    }
    measured = [*_measured(summary, ("speedup",)), *_measured(latency, ("ttft_ratio", "tpot_ratio"))]
    return _compare(predictions, measured), machine


def workloads(config, arm: Arm, summary: pd.DataFrame) -> dict[str, Workload]:
    """What an arm was asked at every point of `summary`, and alone (ALONE). Raises UserError for a point that the
    configuration does not have."""
    plan = throughput_plan(config)
    points, loads = {point.name: point for point in plan.points}, {}
    for row in summary[summary["arm"] == BASE_ARM].to_dict("records"):
        if (point := points.get(row["point"])) is None:
            raise UserError(f"predict: point {row['point']!r} is not in the configuration; give the one of that run")
        loads[row["point"]] = Workload(
            input_len=row["input_len"],
            output_len=row["output_len"],
            num_requests=row["num_requests"],
            step_tokens=point.settings.max_num_batched_tokens,
            at_once=held_at_once(point.settings, arm, point.batch),
            cached_len=int(row.get("cached_len", 0)),
        )
    return loads | {ALONE: Workload(plan.latency.input_len, plan.latency.output_len)}


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted is the directory of a run, which holds throughput/")
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a table ({error})") from None
    if missing := sorted(COLUMNS[path.name] - set(table.columns)):
        raise UserError(f"{path}: columns are missing: {', '.join(missing)}")
    if BASE_ARM not in set(table["arm"]):
        raise UserError(f"{path}: no row of the arm {BASE_ARM!r}")
    return table


def _observations(summary: pd.DataFrame, latency: pd.DataFrame, loads: dict) -> list[Observation]:
    """The base's times: of every point, and of the request alone."""
    seen = []
    for row in summary[summary["arm"] == BASE_ARM].itertuples():
        tokens = row.num_requests * (row.input_len + row.output_len)
        seen.append(Observation(loads[BASE_ARM, row.point], "elapsed_s", tokens / row.total_tokens_per_s_median))
    row, alone = next(latency[latency["arm"] == BASE_ARM].itertuples()), loads[BASE_ARM, ALONE]
    return [*seen, Observation(alone, "ttft_s", row.ttft_median_s), Observation(alone, "tpot_s", row.tpot_median_s)]


def _measured(table: pd.DataFrame, quantities: tuple[str, ...]) -> list[dict]:
    """Rows of every variant's measured ratios with their intervals."""
    prefix = {"speedup": "", "tpot_ratio": "", "ttft_ratio": "ttft_"}  # of the interval's columns
    return [
        {
            "point": row.get("point", ALONE),
            "arm": row["arm"],
            "quantity": quantity,
            "measured": row[quantity],
            "ci_low": row.get(f"{prefix[quantity]}ci_low"),
            "ci_high": row.get(f"{prefix[quantity]}ci_high"),
        }
        for row in table.to_dict("records")
        for quantity in quantities
        if row["arm"] not in (BASE_ARM, *CONTROLS)
    ]


def _compare(predictions: dict, rows: list[dict]) -> pd.DataFrame:
    for row in rows:
        if (row["arm"], row["point"]) not in predictions:
            raise UserError(f"predict: arm {row['arm']!r} is not in the configuration; give the one it was run with")
        arm, base = predictions[row["arm"], row["point"]], predictions[BASE_ARM, row["point"]]
        field = RATIOS[row["quantity"]]
        ratio = base.elapsed_s / arm.elapsed_s if field == "speedup" else getattr(arm, field) / getattr(base, field)
        row |= {"predicted": ratio, "error": ratio / row["measured"] - 1, "kind": roofline.PREDICTED}
    columns = ["point", "arm", "quantity", "predicted", "measured", "ci_low", "ci_high", "error", "kind"]
    return pd.DataFrame(rows)[columns]


def check_report(table: pd.DataFrame, machine: Machine) -> str:
    """The table, the fitted machine, and the median and worst absolute error of each quantity and of all."""
    shown = table.drop(columns="kind").to_string(index=False, float_format=lambda value: f"{value:.3f}")
    rates = (
        f"{machine.flops[-1]:.3g} FLOP/s ({machine.flops[0]:.3g} in narrow steps, {machine.attention:.3g} attention)"
    )
    speed = f"{machine.bandwidth:.3g} bytes/s, {1e3 * machine.overhead_s:.3g} ms a step"
    groups = [*table.groupby("quantity", sort=False), ("all", table)]
    return "\n".join([shown, f"machine: {machine.name}, {rates}, {speed}", *error_lines(groups, "ratios")])


def error_lines(groups: Iterable[tuple[str, pd.DataFrame]], what: str) -> list[str]:
    """A line per named group of rows: how many of `what` they are, their median and worst absolute error."""
    off = {name: rows["error"].abs() for name, rows in groups}
    return [
        f"{name}: {len(each)} {what}, error {each.median():.1%} in the median, {each.max():.1%} at worst"
        for name, each in off.items()
    ]
