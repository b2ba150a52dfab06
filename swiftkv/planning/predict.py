"""Predicted times of a workload, and the machine that they are predicted for.

A workload is what the throughput stage sends: equal requests, all at once. `fit` learns a machine from the base arm's
measured times alone; the variants' speed-ups are then predictions that the fit has not seen (`checked` holds them
against what was measured).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from swiftkv.costmodel import workload_flops
from swiftkv.planning import fleet, roofline
from swiftkv.planning.roofline import Machine
from swiftkv.workloads.traffic import Requests

START_OVERHEAD_S = 5e-3
FEW, MANY = 16.0, 256.0  # tokens of a step whose matrix products are narrow and wide
OUTLIER = 0.05  # an error of the logarithm from which a time counts less
# How hard the logarithm of each of `adjusted`'s factors is pulled towards 0, in units of the logarithm of a time.
PULL = np.array([0, 0.02, 0.02, 0.005, 0.005])
UNLIMITED = 2**40


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
