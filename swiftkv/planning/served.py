"""The engine simulator held against measured replays (`swiftkv predict-served`): what `plan` builds on.

The machine is learned from the base's times in a throughput run of the same benchmark model on the same hardware, and
what a server and its client add to a step (on a small machine they share the engine's cores) from the base's time per
token with one client. Then every open-loop measurement is simulated with the arrivals and lengths that the client
recorded, the student's as well as the base's. Closed loops are left out: there answers set the pace.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.engines.settings import DTYPE_BYTES, Arm, benchmark_arms
from swiftkv.errors import UserError
from swiftkv.planning import checked, fleet, predict, roofline
from swiftkv.planning.roofline import Machine
from swiftkv.provenance import Provenance
from swiftkv.registry import FILES
from swiftkv.results import Results
from swiftkv.workloads.traffic import Requests

KEYS = ["point", "load", "arm"]
TIMES = ["ttft_p50_s", "e2el_p50_s"]
QUANTITIES = [*TIMES, "attainment"]
OPEN = ("rate", "trace")
REQUESTS = FILES["served_requests"].path
NAME = FILES["served_predictions"].file


def machine_of(config: RunConfig, fit: Path, fit_config: RunConfig, served: Results) -> Machine:
    """The machine as the base's times in `fit` have it. Raises UserError unless it is that of the served run, with the
    same benchmark model."""
    if fit_config.shape != config.shape:
        raise UserError(f"--fit {fit}: has another throughput.model than the served run; allowed is the same one")
    # The benchmark model has random weights: its shape is all that the two runs have to share beside the machine.
    here, there = served.origin("served").hardware, Results(fit_config.scale, fit).origin("throughput").hardware
    if here != there:
        raise UserError(f"--fit {fit}: was measured on {there}, the served run on {here}; allowed is the same machine")
    machine = checked.check(fit_config, fit)[1]
    return replace(machine, overhead_s=machine.overhead_s + server_overhead(config, machine, served))


def server_overhead(config: RunConfig, machine: Machine, served: Results) -> float:
    """Seconds that server and client add to a step: what the base's time per token with one client lies above that of
    the engine alone; 0 where no load has one client."""
    alone = served.frame("served").query("kind == 'concurrency' and load == 1 and arm == @BASE_ARM")
    if alone.empty:
        return 0.0
    point = next(one for one in config.served.points if one.name == alone.point.iloc[0])
    shape = config.shape
    load = predict.Workload(point.input_len, point.output_len, 1, config.throughput.max_num_batched_tokens)
    layers, dtype_bytes = shape["num_hidden_layers"], DTYPE_BYTES[shape["dtype"]]
    engine = predict.predict(shape, layers, 1, load, machine, dtype_bytes).tpot_s
    return max(0.0, float(alone.tpot_p50_s.iloc[0]) - engine)


def simulate(config: RunConfig, arm: Arm, machine: Machine, rows: pd.DataFrame, cached_share: float) -> dict:
    """One measurement, simulated: median TTFT and E2EL in seconds, and the share of requests within the SLO.

    `rows` are its requests; `cached_share` of each prompt counts as found in the prefix cache.
    """
    rows = rows.sort_values("start_s")
    arrival, prompt, output = (rows[name].to_numpy() for name in ("start_s", "prompt_tokens", "output_tokens"))
    requests = Requests(arrival.astype(float), prompt.astype(np.int64), output.astype(np.int64))
    shape, section = config.shape, config.served
    limits = fleet.Limits(config.throughput.max_num_batched_tokens, section.max_num_seqs, predict.UNLIMITED)
    cost = roofline.cost(shape, arm.cut, arm.group, machine, DTYPE_BYTES[shape["dtype"]])
    served = fleet.simulate(cost, limits, requests, 1, (cached_share * prompt).astype(np.int64))
    return {
        "ttft_p50_s": float(np.median(fleet.ttft(requests, served))),
        "e2el_p50_s": float(np.median(served.end - requests.arrival)),
        "attainment": fleet.attainment(requests, served, section.slo.ttft_s, section.slo.tpot_s),
    }


def simulated(config: RunConfig, machine: Machine, results: Results) -> pd.DataFrame:
    """Medians over the rounds of every open-loop load and arm: KEYS, QUANTITIES."""
    rounds, requests = results.frame("served_rounds"), files.read_jsonl(results.directory / REQUESTS)
    frame = pd.DataFrame(requests)
    arms = {arm.name: arm for arm in benchmark_arms(config, config.served_arms)}
    shares = rounds.set_index([*KEYS, "round"]).cache_hit_share.fillna(0.0)
    rows = [
        dict(zip([*KEYS, "round"], key, strict=True)) | simulate(config, arms[key[2]], machine, served, shares[key])
        for key, served in frame[frame.kind.isin(OPEN)].groupby([*KEYS, "round"], sort=False)
    ]
    return pd.DataFrame(rows).groupby(KEYS, sort=False)[QUANTITIES].median().reset_index()


def with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Long rows (KEYS, quantity, value): QUANTITIES, and TIMES of a student relative to the base's."""
    base = frame[frame.arm == BASE_ARM].set_index(["point", "load"])
    ratios = frame[frame.arm != BASE_ARM].copy()
    for name in TIMES:
        ratios[f"{name.removesuffix('_s')}_ratio"] = (
            ratios[name].to_numpy() / base[name].loc[pd.MultiIndex.from_frame(ratios[["point", "load"]])].to_numpy()
        )
    names = [f"{name.removesuffix('_s')}_ratio" for name in TIMES]
    long = [frame.melt(KEYS, QUANTITIES, "quantity", "value"), ratios.melt(KEYS, names, "quantity", "value")]
    return pd.concat(long, ignore_index=True)


def compare(config: RunConfig, machine: Machine, results: Results) -> pd.DataFrame:
    """KEYS, quantity, predicted, measured (medians over the rounds), error: relative, of attainment the difference."""
    predicted = with_ratios(simulated(config, machine, results)).rename(columns={"value": "predicted"})
    measured = with_ratios(results.frame("served").query("kind in @OPEN")).rename(columns={"value": "measured"})
    frame = predicted.merge(measured, on=[*KEYS, "quantity"], validate="one_to_one")
    difference = frame.predicted - frame.measured
    return frame.assign(error=difference.where(frame.quantity == "attainment", difference / frame.measured))


def report(frame: pd.DataFrame) -> str:
    """The table, and the median and worst absolute error of each quantity."""
    shown = frame.to_string(index=False, float_format=lambda value: f"{value:.3f}")
    return "\n".join([shown, *checked.error_lines(frame.groupby("quantity", sort=False), "values")])


def run(config: RunConfig, directory: Path, fit: Path, fit_config: RunConfig, out: Path) -> None:
    """Write NAME to `out` and print the report. Raises UserError for missing results or runs that do not compare."""
    results = Results(config.scale, directory)
    results.must_exist(results.path("served"))
    inputs = [results.path("served"), directory / REQUESTS, fit / "throughput" / "summary.csv"]
    with Provenance("predict-served", config, inputs=inputs, out=[out / NAME], kind=roofline.PREDICTED) as record:
        frame = compare(config, machine_of(config, fit, fit_config, results), results)
        files.write_text(out / NAME, frame.to_csv(index=False, float_format="%.6g"))
        record.save(out / NAME)
    print(report(frame))
