"""`swiftkv plan`: GPUs and cost of serving a trace within latency limits, with and without SwiftKV. Predictions, all.

The smallest fleet is found by doubling and bisection on an hour of traffic, then confirmed on the whole time.
A fleet of more than CELL replicas is simulated as CELL of them at their share of the traffic (see `traffic`, `fleet`).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv import costmodel, files
from swiftkv.config import BASE_ARM
from swiftkv.engines.settings import Arm
from swiftkv.errors import UserError
from swiftkv.markup import pipe_table
from swiftkv.modeling.checkpoint import BASE_TYPES, read_shape
from swiftkv.planning import fleet, roofline
from swiftkv.planning.roofline import Machine
from swiftkv.planning.simulator import Cost, step_parts
from swiftkv.provenance import Provenance
from swiftkv.workloads import traffic
from swiftkv.workloads.downloads import mirror_of
from swiftkv.workloads.traffic import Requests, Traffic

USABLE_MEMORY = 0.9  # of a GPU's, for weights and KV cache: vLLM's default
STEP = 0.01  # of the fleet: how closely the smallest is sought
SEARCH_HOURS = 1.0
ALONE_S = 1e6  # between requests that never meet


@dataclass(frozen=True)
class Scenario:
    """What is asked for: traffic, limits, replica. Seconds, US dollars, and shares from 0 to 1; `gpus` of a replica
    share its matrices. Raises UserError for a number that is not finite, or steps that cannot hold the sequences."""

    scale: float = 1000.0
    hours: float = 24.0
    slo_ttft: float = 2.0
    slo_tpot: float = 0.1
    attainment: float = 0.99
    price: float | None = None
    gpus: int = 1
    step_tokens: int = 2048
    sequences: int = 256

    def __post_init__(self):
        # The command's bounds let NaN and infinity through.
        numbers = [self.scale, self.hours, self.slo_ttft, self.slo_tpot, self.attainment, self.price or 0.0]
        if not np.isfinite(numbers).all():
            raise UserError(f"plan: scale, hours, limits, attainment and price must be finite, got {numbers}")
        if self.step_tokens < self.sequences:
            raise UserError(f"--step-tokens {self.step_tokens}: allowed is --sequences ({self.sequences}) or more")


@dataclass(frozen=True)
class Case:
    """One model on one replica under one trace."""

    cost: Cost
    limits: fleet.Limits
    traffic: Traffic
    scenario: Scenario
    seed: int = 0

    def serve(self, replicas: int, hours: float) -> tuple[Requests, fleet.ServedTimes]:
        """What the cell that stands for `replicas` does in `hours`."""
        cell = min(replicas, fleet.CELL)
        requests = traffic.scaled(self.traffic, hours, self.scenario.scale * cell / replicas, self.seed)
        if not len(requests.arrival):
            raise UserError(
                f"--scale {self.scenario.scale:g}: no request is left for {replicas} replicas in {hours:g} h"
            )
        return requests, fleet.simulate(self.cost, self.limits, requests, cell)

    def meets(self, replicas: int, hours: float) -> bool:
        """Whether enough requests keep both limits."""
        return self.attained(*self.serve(replicas, hours)) >= self.scenario.attainment

    def attained(self, requests: Requests, served: fleet.ServedTimes) -> float:
        """Share of requests within both limits."""
        return fleet.attainment(requests, served, self.scenario.slo_ttft, self.scenario.slo_tpot)

    def alone(self) -> float:
        """Share of the trace's requests that keep both limits on an idle replica: no fleet does better."""
        trace = self.traffic.requests
        apart = trace._replace(arrival=ALONE_S * np.arange(len(trace.arrival)))
        return self.attained(apart, fleet.simulate(self.cost, self.limits, apart, 1))

    def fewest(self) -> int:
        """Replicas that the traffic's FLOPs alone keep busy: no fleet is smaller."""
        prompt, output = self.traffic.requests.prompt, self.traffic.requests.output
        tokens = prompt + output - 1
        seen, late_seen = costmodel.positions(0, tokens), costmodel.positions(prompt - 1, output)
        # `py_func`: the function before compilation takes whole arrays, a request an entry.
        flops = sum(part.sum() for part in step_parts.py_func(self.cost, tokens, output, seen, late_seen))
        rate = flops * self.scenario.scale / self.traffic.span_s
        return max(1, int(rate / self.cost.curve_flops.max()))


def smallest(meets: Callable[[int], bool], low: int) -> int:
    """The smallest count from `low` up that `meets`, to STEP; it must hold for all counts that are large enough."""
    if meets(low):
        return low
    # Doubling costs as many simulations as the answer has bits; the largest of them is twice the answer at most.
    high = 2 * low
    while not meets(high):
        low, high = high, 2 * high
    while high - low > max(1, int(STEP * high)):
        half = (low + high) // 2
        low, high = (low, half) if meets(half) else (half, high)
    return high


def confirmed(case: Case) -> tuple[int, Requests, fleet.ServedTimes]:
    """The smallest fleet of an hour, enlarged until the whole time keeps the limits too, and what it does in it."""
    replicas = smallest(lambda count: case.meets(count, min(SEARCH_HOURS, case.scenario.hours)), case.fewest())
    while True:  # an hour may be quieter than the day
        requests, served = case.serve(replicas, case.scenario.hours)
        if case.attained(requests, served) >= case.scenario.attainment:
            return replicas, requests, served
        replicas += max(1, int(STEP * replicas))


def limits(shape: Mapping, cut: int, group: int, machine: Machine, scenario: Scenario) -> fleet.Limits:
    """Of one replica. Raises UserError if its weights leave no room for a KV cache."""
    room = USABLE_MEMORY * machine.memory - roofline.weight_bytes(shape, cut, group)
    tokens = int(room / costmodel.kv_bytes_per_token(shape, cut, group))
    if tokens < 1:
        needed = roofline.weight_bytes(shape, cut, group) / 1e9
        raise UserError(
            f"plan: weights of {needed:.0f} GB do not fit {USABLE_MEMORY:.0%} of {machine.memory / 1e9:.0f} GB "
            f"({machine.name}); give a larger --gpu or more --gpus-per-replica"
        )
    return fleet.Limits(scenario.step_tokens, scenario.sequences, tokens)


def plan_row(shape: Mapping, arm: Arm, machine: Machine, load: Traffic, scenario: Scenario) -> dict:
    """One row of plan.csv; its answer is printed."""
    replica = machine.times(scenario.gpus)
    held = limits(shape, arm.cut, arm.group, replica, scenario)
    case = Case(roofline.cost(shape, arm.cut, arm.group, replica), held, load, scenario)
    alone = case.alone()
    within_reach = alone >= scenario.attainment
    answer = fleet_of(case) if within_reach else {"attainment": alone}
    print(f"plan: {arm.name}: {answer.get('gpus', 'no number of')} GPUs (predicted)", flush=True)
    return {
        "kind": roofline.PREDICTED,
        "arm": arm.name,
        "cut": arm.cut,
        "group": arm.group,
        "kv_tokens": held.kv_tokens,
        **answer,
        "note": "" if within_reach else "out of reach: on an idle replica no more keep the limits",
    }


def fleet_of(case: Case) -> dict:
    """GPUs, cost and latencies of the smallest fleet."""
    scenario, (replicas, requests, served) = case.scenario, confirmed(case)
    tokens = float(requests.prompt.sum() + requests.output.sum())
    # Of the replicas that were simulated, which stand for all of them.
    per_gpu_s = tokens / (3600 * scenario.hours * len(served.busy) * scenario.gpus)
    ttft, tpot = fleet.ttft(requests, served), fleet.tpot(requests, served)
    return {
        "gpus": replicas * scenario.gpus,
        "tokens_per_s_per_gpu": per_gpu_s,
        "usd_per_million_tokens": None if scenario.price is None else scenario.price / 3600 / per_gpu_s * 1e6,
        "attainment": case.attained(requests, served),
        "ttft_p50_s": percentile(ttft, 50),
        "ttft_p99_s": percentile(ttft, 99),
        "tpot_p50_s": percentile(tpot, 50),
        "tpot_p99_s": percentile(tpot, 99),
        "refused": float(np.mean(np.isinf(served.end))),
        "simulated_requests": len(requests.arrival),
    }


def percentile(values: np.ndarray, q: int) -> float:
    """One of the values, never between two: a refused request's is infinite."""
    return float(np.percentile(values, q, method="inverted_cdf"))


def model_shape(model: str) -> Mapping:
    """A published shape by name, or that of a base model's directory. Raises UserError for neither."""
    if model in costmodel.PUBLISHED_SHAPES:
        return costmodel.PUBLISHED_SHAPES[model]
    if not Path(model).is_dir():
        raise UserError(
            f"--model {model!r}: no such directory; published shapes are {', '.join(costmodel.PUBLISHED_SHAPES)}"
        )
    return read_shape(Path(model), BASE_TYPES)


def assumptions(model: str, machine: Machine, load: Traffic, scenario: Scenario, left_out: list[str]) -> list[str]:
    """Everything the numbers rest on, a line each."""
    requests, rate = load.requests, len(load.requests.arrival) / load.span_s
    return [
        "Every number is a prediction of a roofline model and a simulation; no fleet was measured.",
        f"Model: {model}, {roofline.BFLOAT16_BYTES} bytes a weight and a KV number; their quality is not judged.",
        f"Replica: {scenario.gpus} x {machine.name} ({machine.kind} rates), each with {machine.flops[-1] / 1e12:.4g} "
        f"TFLOP/s, {machine.bandwidth / 1e12:.4g} TB/s, {machine.memory / 1e9:.4g} GB; communication not counted.",
        f"A step costs {1e3 * machine.overhead_s:.3g} ms beyond its roofline and holds {scenario.step_tokens} tokens, "
        f"{scenario.sequences} sequences at most.",
        f"KV cache: {USABLE_MEMORY:.0%} of memory less weights, no prefix caching. Room for prompt and output is "
        "reserved on admission, so nothing is preempted; a request that can never fit is refused, a miss.",
        f"Traffic: {load.name} from {load.source}. {load.span_s:.0f} s, {rate:.3g} requests/s, on average "
        f"{requests.prompt.mean():.0f} prompt and {requests.output.mean():.0f} output tokens.",
        f"The trace is repeated to {scenario.hours:g} h, so without a daily rhythm, and scaled {scenario.scale:g} "
        f"times by Poisson copies within {traffic.JITTER_S:.0f} s of the original.",
        f"A request goes to the replica with the fewest unfinished ones; {fleet.CELL} replicas at their share of the "
        "traffic stand for a larger fleet. Nothing fails, no GPU is spare.",
        f"Limits: {scenario.attainment:.1%} of requests with TTFT at most {scenario.slo_ttft:g} s and mean TPOT at "
        f"most {scenario.slo_tpot:g} s; the fleet is sought on the first {min(SEARCH_HOURS, scenario.hours):g} h to "
        f"{STEP:.0%} and confirmed on the whole time.",
        "Cost: GPU hours alone, per million prompt and output tokens. Energy: not measured.",
        *(f"Left out: {name}, which does not fit the model's layers." for name in left_out),
    ]


def run(
    config, model: str, machine: Machine, trace: str, scenario: Scenario, out: Path, mirror: Path | None = None
) -> pd.DataFrame:
    """Plan for the base and every variant of `config` that fits; write plan.csv and plan.md with provenance to `out`
    and print the latter. Raises UserError as its parts do."""
    shape, load = model_shape(model), traffic.read(trace, mirror_of(mirror), config.seed)
    layers = shape["num_hidden_layers"]
    variants = costmodel.fitting(config.variants, layers, model)
    left_out = sorted({variant.name for variant in config.variants} - {name for name, *_ in variants})
    lines = assumptions(model, machine, load, scenario, left_out)
    arms = [Arm(BASE_ARM, layers, 1), *(Arm(name, cut, group) for name, _, cut, group in variants)]
    written = [out / "plan.csv", out / "plan.md"]
    with Provenance("plan", config, out=written, kind=roofline.PREDICTED, assumptions=lines) as provenance:
        # Compiled code runs outside Python's lock, so threads are enough.
        with ThreadPoolExecutor(provenance.record["hardware"]["cores"]) as pool:
            table = pd.DataFrame(pool.map(lambda arm: plan_row(shape, arm, machine, load, scenario), arms))
        if "gpus" in table:
            table.insert(table.columns.get_loc("gpus") + 1, "gpus_to_base", table["gpus"] / table["gpus"].iloc[0])
        provenance.save(out / "plan.csv")
        files.write_text(out / "plan.csv", table.to_csv(index=False))
        files.write_text(out / "plan.md", report(table, lines))
    print(report(table, lines), end="")
    return table


def report(table: pd.DataFrame, lines: list[str]) -> str:
    """plan.md: the table and what it rests on."""
    shown = table.drop(columns=["cut", "group", "simulated_requests"], errors="ignore").dropna(axis=1, how="all")
    rows = [[_cell(value) for value in line] for line in shown.astype(object).itertuples(index=False)]
    body = pipe_table(list(shown.columns), rows, ["---"] * shown.shape[1])
    return f"# Predicted fleet\n\n{body}\n\nAssumptions:\n\n" + "".join(f"- {line}\n" for line in lines)


def _cell(value) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return str(value)
