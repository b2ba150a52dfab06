"""The simulator against measured replays: exact where the simulator was what was measured, close elsewhere."""

import copy

import numpy as np
import pytest

from swiftkv import files
from swiftkv.audit.verify_results import config_of_run
from swiftkv.bench.served import metrics, summary
from swiftkv.bench.throughput import write_csv
from swiftkv.config import ROOT, RunConfig, load_config
from swiftkv.engines.settings import DTYPE_BYTES, benchmark_arms
from swiftkv.errors import UserError
from swiftkv.planning import fleet, predict, roofline, served
from swiftkv.results import Results
from swiftkv.workloads.traffic import Requests

REFERENCE = ROOT / "results" / "reference" / "epyc-2-cores"
CONFIG = load_config(ROOT / "config" / "served.yaml")
MACHINE = roofline.Machine("test", (16.0, 256.0), (5e10, 1e11), 1e11, 1e10, 1e10, 5e-3, roofline.MEASURED)


def measurement(arm, load: float, number: int, overhead_s: float = 0.0, kind: str = "rate") -> dict:
    """What a client would see of a server that behaves as the simulator says."""
    shape, section = CONFIG.shape, CONFIG.raw["served"]
    rng = np.random.default_rng([number, int(load)])
    arrival = np.cumsum(rng.exponential(1 / load, 12))
    arrival -= arrival[0]
    requests = Requests(arrival, np.full(12, 200), np.full(12, 20))
    machine = roofline.Machine(**{**MACHINE.__dict__, "overhead_s": MACHINE.overhead_s + overhead_s})
    limits = fleet.Limits(CONFIG.throughput.max_num_batched_tokens, section["max_num_seqs"], predict.UNLIMITED)
    cost = roofline.cost(shape, arm.cut, arm.group, machine, DTYPE_BYTES[shape["dtype"]])
    served = fleet.simulate(cost, limits, requests, 1)
    ttft, gap = fleet.ttft(requests, served), (served.end - served.first) / 19
    return {
        **{"point": kind, "kind": kind, "load": load, "arm": arm.name, "round": number, "position": 0},
        **dict.fromkeys(("burstiness", "time_scale", "length_scale", "source", "reusable")),
        **{"duration_s": float(served.end.max()), "start_s": arrival.tolist(), "ttft_s": ttft.tolist()},
        **{"e2el_s": (served.end - arrival).tolist(), "itl_s": [[one] * 19 for one in gap]},
        **{"prompt_tokens": [200] * 12, "output_tokens": [20] * 12, "cache_queries": 0, "cache_hits": 0},
    }


@pytest.fixture
def results(tmp_path) -> Results:
    arms = benchmark_arms(CONFIG, CONFIG.served_arms)
    made = [measurement(arm, load, n) for load in (1, 4) for arm in arms for n in range(3)]
    rows = [metrics.row(one, CONFIG.served.slo) for one in made]
    folder = tmp_path / CONFIG.scale / "served"
    files.write_jsonl(folder / "served.jsonl", rows)
    files.write_jsonl(folder / "requests.jsonl.gz", [row for one in made for row in metrics.requests(one)])
    write_csv(folder / "summary.csv", summary.summarise(rows, CONFIG.served_arms, CONFIG.seed))
    return Results(CONFIG.scale, tmp_path / CONFIG.scale)


def test_a_server_that_is_the_simulator_is_predicted_exactly(results):
    found = served.compare(CONFIG, MACHINE, results)
    assert set(found.quantity) == {*served.QUANTITIES, "ttft_p50_ratio", "e2el_p50_ratio"}
    assert len(found) == 2 * 2 * 3 + 2 * 2
    assert np.allclose(found.error, 0, atol=1e-9)
    assert found.measured[found.quantity == "ttft_p50_ratio"].between(0.1, 0.9).all(), "the student is faster"


def test_what_a_server_adds_to_a_step_is_learned_from_the_base(tmp_path):
    """One client, one request at a time: 4 ms more per token than the engine alone."""
    raw = copy.deepcopy(CONFIG.raw)
    raw["served"]["points"] = [{"name": "concurrency", "kind": "concurrency", "loads": [1], "input_len": 200}]
    raw["served"]["points"][0] |= {"output_len": 20, "requests_per_client": 12}
    config = RunConfig(raw, "(test)")
    base = benchmark_arms(config)[0]
    made = measurement(base, 1e-3, 0, overhead_s=4e-3, kind="concurrency") | {"load": 1}
    rows = [metrics.row(made, config.served.slo)]
    folder = tmp_path / config.scale / "served"
    write_csv(folder / "summary.csv", summary.summarise(rows, config.served_arms, config.seed))
    found = served.server_overhead(config, MACHINE, Results(config.scale, tmp_path / config.scale))
    assert found == pytest.approx(4e-3, rel=1e-6)


def test_another_model_or_machine_is_refused(results):
    other = copy.deepcopy(CONFIG.raw)
    other["throughput"]["model"]["hidden_size"] *= 2
    fit = REFERENCE / "cpu"
    with pytest.raises(UserError, match=r"--fit .*cpu: has another throughput\.model"):
        served.machine_of(CONFIG, fit, RunConfig(other, "(test)"), results)
    with pytest.raises(
        UserError,
        match=r"cpu: was measured on AMD EPYC.*, the served run on hardware unknown; allowed is the same",
    ):
        served.machine_of(CONFIG, fit, config_of_run(fit, None), results)


def test_the_committed_replays_are_predicted():
    """What docs/results/costmodel.md says of them."""
    directory = REFERENCE / "cpu-served"
    config, results = config_of_run(directory, None), Results("cpu-served", directory)
    machine = served.machine_of(config, REFERENCE / "cpu", config_of_run(REFERENCE / "cpu", None), results)
    off = served.compare(config, machine, results).assign(off=lambda rows: rows.error.abs())
    median = off.groupby("quantity").off.median()
    assert median["ttft_p50_s"] <= 0.05 and median["e2el_p50_s"] <= 0.05 and median["e2el_p50_ratio"] <= 0.09
    attainment = off[off.quantity == "attainment"].off
    assert len(attainment) == 30 and (attainment > 0.07).sum() <= 4
