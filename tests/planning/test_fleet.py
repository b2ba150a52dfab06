"""The fleet: its schedule by hand, laws of a queue, the cell that stands for a fleet, and the plan made from it."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import costmodel
from swiftkv.config import load_config
from swiftkv.errors import UserError
from swiftkv.planning import capacity, fleet, roofline, simulator
from swiftkv.planning.simulator import Limits
from swiftkv.workloads import downloads, traces, traffic
from swiftkv.workloads.traffic import Requests

MACHINE = roofline.gpu("H100")
COST = roofline.cost(costmodel.LLAMA_8B, 32, 1, MACHINE)
ROOMY = Limits(2048, 256, 10**9)


def requests(arrival, prompt, output) -> Requests:
    return Requests(np.array(arrival, dtype=float), np.array(prompt), np.array(output))


def stream(count: int, rate: float, seed: int = 0) -> Requests:
    """Poisson arrivals of conversation-like lengths."""
    rng = np.random.default_rng(seed)
    times = rng.exponential(1 / rate, count).cumsum()
    return Requests(times, rng.integers(1, 2500, count), rng.integers(1, 400, count))


def decode_seconds(context: int) -> float:
    """A step in which one sequence generates a token that attends to `context` positions."""
    return simulator.step_seconds(COST, 1, 1, *[context] * 4)


def prefill_seconds(prompt: int) -> float:
    """A prompt in one step, its last token's logits included."""
    return simulator.step_seconds(COST, prompt, 1, costmodel.positions(0, prompt), prompt, prompt, prompt)


def test_one_request_by_hand():
    """A prompt in two chunks, then one step per further token."""
    one = requests([5.0], [3000], [4])
    served = fleet.simulate(COST, ROOMY, one, 1)
    first = simulator.step_seconds(COST, 2048, 0, costmodel.positions(0, 2048), 0, 2048, 0)
    first += simulator.step_seconds(COST, 952, 1, costmodel.positions(2048, 952), 3000, 3000, 3000)
    decoding = sum(decode_seconds(3000 + i) for i in (1, 2, 3))
    assert fleet.ttft(one, served)[0] == pytest.approx(first)
    assert served.end[0] == pytest.approx(5 + first + decoding)
    assert fleet.tpot(one, served)[0] == pytest.approx(decoding / 3)


def test_a_prompt_joins_a_running_batch():
    """Decoding goes on in the steps that prefill another prompt: one token of the first beside 2,047 of the second."""
    two = requests([0, 0], [10, 2047], [3, 1])
    served = fleet.simulate(COST, Limits(2048, 256, 10**9), two, 1)
    start = simulator.step_seconds(
        COST, 2048, 1, costmodel.positions(0, 10) + costmodel.positions(0, 2038), 10, 2048, 10
    )
    second = simulator.step_seconds(COST, 10, 2, 11 + costmodel.positions(2038, 9), 11 + 2047, 11 + 2047, 11 + 2047)
    assert served.first.tolist() == pytest.approx([start, start + second])
    assert served.end[0] == pytest.approx(start + second + decode_seconds(12))


def test_kv_room_makes_requests_wait():
    """Room for one request at a time: the second starts when the first has ended; one that cannot fit is refused."""
    three = requests([0, 0, 0], [100, 100, 5000], [10, 10, 10])
    served = fleet.simulate(COST, Limits(2048, 256, 150), three, 1)
    assert served.first[1] >= served.end[0]
    assert np.isinf([served.first[2], served.end[2]]).all()
    assert fleet.attainment(three, served, 1e9, 1e9) == pytest.approx(2 / 3)
    assert fleet.simulate(COST, Limits(2048, 256, 10**6), three, 1).first[1] < served.first[1]


def test_cached_tokens_are_not_run():
    """Of 3,000 tokens 2,500 are cached: one step runs the other 500, which attend to all before them."""
    one = requests([0], [3000], [1])
    served = fleet.simulate(COST, ROOMY, one, 1, np.array([2500]))
    step = simulator.step_seconds(COST, 500, 1, costmodel.positions(2500, 500), 3000, 3000, 3000)
    assert served.first[0] == pytest.approx(step)


def test_sequences_are_limited():
    both = requests([0, 0], [10, 10], [50, 50])
    served = fleet.simulate(COST, Limits(2048, 1, 10**9), both, 1)
    assert served.first[1] >= served.end[0]


@settings(max_examples=20)
@given(st.integers(1, 200), st.floats(0.5, 60), st.integers(1, 6), st.integers(0, 99))
def test_laws_of_the_queue(count, rate, engines, seed):
    """Everyone is served, none before an idle engine could, and no engine works longer than the time there is."""
    load = stream(count, rate, seed)
    served = fleet.simulate(COST, ROOMY, load, engines)
    alone = [prefill_seconds(int(prompt)) for prompt in load.prompt]
    assert np.isfinite(served.end).all() and (served.end >= served.first).all()
    assert (fleet.ttft(load, served) >= 0.99 * np.array(alone)).all()
    assert served.busy.max() <= served.end.max() - load.arrival.min() + 1e-6


def test_shortest_queue_beats_one_engine_and_more_engines_help():
    load = stream(3000, 40)
    waits = [fleet.ttft(load, fleet.simulate(COST, ROOMY, load, engines)).mean() for engines in (2, 4, 8)]
    assert waits[0] > waits[1] > waits[2]


@pytest.mark.parametrize("rate", [7.0, 10.0])
def test_a_cell_stands_for_the_fleet(rate):
    """CELL engines at their share of the traffic against an exact simulation of 16, at ease and near saturation."""
    engines = 16
    hour = traffic.Traffic("made", "here", stream(4000, 1.0), 4000.0)
    exact = traffic.scaled(hour, 0.5, rate * engines, seed=1)
    part = traffic.scaled(hour, 0.5, rate * fleet.CELL, seed=2)
    whole, cell = fleet.simulate(COST, ROOMY, exact, engines), fleet.simulate(COST, ROOMY, part, fleet.CELL)
    for measure in (fleet.ttft, fleet.tpot):
        all_of, some_of = (np.percentile(measure(*pair), [50, 90]) for pair in ((exact, whole), (part, cell)))
        assert some_of == pytest.approx(all_of, rel=0.10)
    kept = [fleet.attainment(*pair, 0.3, 0.03) for pair in ((exact, whole), (part, cell))]
    assert kept[1] == pytest.approx(kept[0], abs=0.03)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_smallest_is_within_a_hundredth(low, wanted):
    found = capacity.smallest(lambda count: count >= wanted, low)
    assert max(low, wanted) <= found <= max(low, wanted) + max(1, int(capacity.STEP * 2 * found))


def test_scaled_traffic_keeps_rate_and_lengths():
    hour = traffic.Traffic("made", "here", stream(2000, 1.0), 2000.0)
    day = traffic.scaled(hour, 2.0, 3.0)
    assert len(day.arrival) == pytest.approx(3 * 7200, rel=0.05)
    assert (np.diff(day.arrival) >= 0).all() and day.arrival[-1] < 7200
    assert day.prompt.mean() == pytest.approx(hour.requests.prompt.mean(), rel=0.03)


def test_published_traces_without_a_mirror():
    found = traffic.read("azure2023_conv")
    assert "quantiles" in found.source
    assert found.requests.prompt.mean() == pytest.approx(1154.7, rel=0.03)
    assert all(trace.time_field and float(trace.span_s) > 0 for trace in traces.known_traces().values())


def test_mirrored_trace(tmp_path, monkeypatch):
    """Azure's dates, Mooncake's milliseconds."""
    (tmp_path / "traces").mkdir()
    monkeypatch.setattr(downloads.Pinned, "verify", lambda *_: None)
    azure = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,48,10\n2023-11-16 18:18:04.4799600,3,0\n"
    )
    mooncake = [{"timestamp": time, "input_length": 7, "output_length": 5} for time in (0, 1500)]
    known = traces.known_traces()
    (tmp_path / "traces" / known["azure2023_code"].file).write_text(azure)
    (tmp_path / "traces" / known["mooncake_conversation"].file).write_text("\n".join(map(json.dumps, mooncake)))
    code, conversation = (traffic.read(name, tmp_path) for name in ("azure2023_code", "mooncake_conversation"))
    assert code.span_s == pytest.approx(60.5) and code.requests.output.tolist() == [10]
    assert conversation.requests.arrival.tolist() == [0, 1.5]
    with pytest.raises(UserError, match=r"No such file.* trace 'azure2023_conv' needs"):
        traffic.read("azure2023_conv", tmp_path)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("", "empty trace"),
        ("0,5,5\n", "at once"),
        ("0,5,5\nsoon,5,5\n", "3: arrival_s is 'soon'"),
        ("0,5,5\nnan,5,5\n", "'nan'"),
        ("0,5,5\n,5,5\n", "arrival_s is ''"),
        ("0,5,5\n1,-5,5\n", "prompt_tokens"),
    ],
)
def test_bad_trace_file(tmp_path, rows, match):
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    with pytest.raises(UserError, match=match):
        traffic.read(str(path))


@pytest.fixture
def trace_file(tmp_path):
    load = stream(200, 1.0)
    path = tmp_path / "mine.csv"
    columns = {"arrival_s": load.arrival, "prompt_tokens": load.prompt, "output_tokens": load.output}
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def test_plan(tmp_path, trace_file, capsys):
    """SwiftKV needs fewer GPUs and costs less in proportion; every row says that it is predicted."""
    options = capacity.Scenario(scale=300, hours=0.05, price=3.0)
    table = capacity.run(load_config(), "Llama-3.1-8B", MACHINE, trace_file, options, tmp_path)
    assert set(table["kind"]) == {"predicted"} and table["arm"].iloc[0] == "base"
    assert (table["attainment"] >= 0.99).all()
    by_arm = table.set_index("arm")
    assert by_arm.loc["skip62", "gpus"] < by_arm.loc["skip25", "gpus"] < by_arm.loc["base", "gpus"]
    assert by_arm.loc["skip50", "usd_per_million_tokens"] < by_arm.loc["base", "usd_per_million_tokens"]
    assert by_arm.loc["skip50-across4", "kv_tokens"] == pytest.approx(1.6 * by_arm.loc["base", "kv_tokens"], rel=0.02)
    text = (tmp_path / "plan.md").read_text()
    assert "Energy: not measured" in text and "prediction" in text and text in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.csv.provenance.json").read_text())["assumptions"]


def test_limits_out_of_reach_are_said(tmp_path, trace_file):
    options = capacity.Scenario(scale=10, hours=0.05, slo_ttft=0.001)
    table = capacity.run(load_config(), "Llama-3.1-8B", MACHINE, trace_file, options, tmp_path)
    assert table["note"].str.contains("out of reach").all() and "gpus" not in table


def test_a_model_that_does_not_fit(tmp_path, trace_file):
    with pytest.raises(UserError, match="gpus-per-replica"):
        capacity.run(load_config(), "Llama-3.1-70B", MACHINE, trace_file, capacity.Scenario(), tmp_path)
    four = capacity.limits(costmodel.LLAMA_70B, 80, 1, MACHINE.times(4), capacity.Scenario())
    assert four.kv_tokens == pytest.approx((0.9 * 4 * 80e9 - 141e9) / 327680, rel=0.01)


@pytest.mark.parametrize("change", [{"scale": float("nan")}, {"hours": float("inf")}, {"step_tokens": 10}])
def test_bad_options(change):
    with pytest.raises(UserError):
        capacity.Scenario(**change)


def test_unknown_model():
    with pytest.raises(UserError, match=r"Llama-3\.1-70B"):
        capacity.model_shape("GPT-9")
