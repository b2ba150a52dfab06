"""Served load: failures, resuming and results on stand-in servers, driven by vLLM's client; one measurement on vLLM."""

import json
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest

from swiftkv import files
from swiftkv.bench import served
from swiftkv.bench.served import client, metrics, servers
from swiftkv.bench.served.loads import Load
from swiftkv.bench.served.plan import engine_settings
from swiftkv.bench.served.replay import Replay
from swiftkv.cli import app
from swiftkv.config import RunConfig
from swiftkv.engines import server as vllm_server
from swiftkv.engines.server import count_tokens
from swiftkv.engines.settings import benchmark_arms
from swiftkv.errors import UserError
from tests.helpers import fake_vllm
from tests.helpers.config import make_config

pytestmark = pytest.mark.vllm
FAKE = fake_vllm.__file__
ARMS = ["base", "skip50"]
WARM_UP = 4  # requests
POINTS = [
    {"name": "open", "kind": "rate", "loads": [40, 80], "input_len": 20, "output_len": 5, "duration_s": 0.2},
    {"name": "closed", "kind": "concurrency", "loads": [2], "input_len": 9, "output_len": 1, "requests_per_client": 3},
]

ONE_LOAD = [POINTS[0] | {"loads": [40]}]


def served_config(points=POINTS, **changes) -> RunConfig:
    """Two arms of a tiny shape, three rounds."""
    raw = make_config(of="served").raw
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    raw["throughput"]["model"] |= shape | {"num_key_value_heads": 2, "vocab_size": 512}
    raw["served"] |= {
        "max_num_seqs": WARM_UP,
        "rounds": 3,
        "points": points,
        "timeouts": {"start_s": 200, "measurement_s": 60},
    }
    raw["served"] |= changes
    return RunConfig(raw, "(test)")


@pytest.fixture
def fake(monkeypatch):
    """A function that sets the faults of each arm's stand-in server."""
    faults: dict[str, dict] = {}

    def command(model_dir, port, kv_cache_gib, arguments):
        return [sys.executable, FAKE, str(port), json.dumps(faults.get(model_dir.name, {}))]

    monkeypatch.setattr(vllm_server, "command", command)
    monkeypatch.setattr(vllm_server, "POLL_S", 0.05)
    monkeypatch.setattr(vllm_server, "STOP_S", 0.5)
    monkeypatch.setattr(client, "POLL_S", 0.05)
    monkeypatch.setattr(client, "DEATH_S", 0.5)
    monkeypatch.setattr(servers, "SETTLE_S", 0)
    return faults


def run(config, path, **options):
    served.run(config, path / "out", path / "work", **options)
    return path / "out"


def no_server(*_):
    raise AssertionError("a server was started")


def own_trace(path) -> dict:
    """A point that replays a file of one's own at twice its pace, with half its tokens."""
    requests = [(0, 8, 2), (0.2, 30, 6), (0.3, 6, 1), (9, 1, 1)]
    frame = pd.DataFrame(requests, columns=["arrival_s", "prompt_tokens", "output_tokens"])
    frame.to_csv(path / "own.csv", index=False)
    return {
        "name": "own",
        "kind": "trace",
        "trace": str(path / "own.csv"),
        "loads": [2],
        "length_scale": 0.5,
        "duration_s": 1,
    }


def test_results(fake, tmp_path):
    config = served_config([*POINTS, own_trace(tmp_path)])
    out = run(config, tmp_path)
    rows = pd.DataFrame(files.read_jsonl(out / "served.jsonl"))
    assert len(rows) == 4 * 2 * 3  # loads, arms, rounds
    assert rows[rows.point == "open"].groupby("load").requests.unique().map(list).to_dict() == {40: [8], 80: [16]}
    first = rows[rows.position == 0].groupby("round").arm.unique().map(list)
    assert first.to_dict() == {0: ["base"], 1: ["skip50"], 2: ["base"]}  # the arms take turns in going first
    own = rows[rows.point == "own"]
    assert (own.requests == 3).all()
    assert (own.prompt_tokens == 4 + 15 + 3).all() and (own.output_tokens == 1 + 3 + 1).all()
    assert (own.time_scale == 2).all() and (own.length_scale == 0.5).all() and own.source.str.contains("file").all()
    counts = pd.read_csv(out / "late_tokens.csv").set_index(["points", "arm"])
    assert list(counts.index) == [(points, arm) for points in ("open-40 open-80 closed-2", "own-2") for arm in ARMS]
    assert counts.expected_late_tokens.tolist() == [80, 16] * 2 and (counts.late_tokens == 16).all()
    sent = files.read_jsonl(tmp_path / "work" / "traces" / "own-2.jsonl")
    assert [request["timestamp"] for request in sent] == pytest.approx([0, 0.1, 0.15])
    summary = pd.read_csv(out / "summary.csv").set_index(["point", "load", "arm"])
    base = summary.loc["open", 40, "base"]
    assert (base.ttft_p50_ratio, base.rounds, base.attainment) == (1, 3, 1)
    median = rows.query("point == 'open' and load == 40 and arm == 'skip50'").e2el_p99_s.median()
    assert summary.loc["open", 40, "skip50"].e2el_p99_s == pytest.approx(median)
    assert np.isnan(summary.loc["closed", 2, "base"].tpot_p50_s)  # one output token has no TPOT
    limits = pd.read_csv(out / "saturation.csv").set_index(["point", "arm"])
    assert limits.loc["open", "base"].highest_within == 80 and np.isnan(limits.loc["open", "base"].saturation)
    assert all((out / f"{name}.provenance.json").is_file() for name in served.FILES)


def test_requests_give_the_rows_again_by_vllms_formulae(fake, tmp_path):
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
    from vllm.benchmarks.serve import calculate_metrics

    config = served_config(rounds=1, slo={"ttft_s": 0.004, "tpot_s": 0.002, "attainment": 0.9})
    out = run(config, tmp_path)
    requests = pd.DataFrame(files.read_jsonl(out / "requests.jsonl.gz"))
    for row in files.read_jsonl(out / "served.jsonl"):
        mine = requests[
            (requests.point == row["point"]) & (requests.load == row["load"]) & (requests.arm == row["arm"])
        ]
        outputs = [
            RequestFuncOutput("", True, r.e2el_s, r.output_tokens, r.ttft_s, r.itl_s, prompt_len=r.prompt_tokens)
            for r in mine.itertuples()
        ]
        goodput = {"ttft": 4, "tpot": 2}
        theirs, _ = calculate_metrics([], outputs, row["duration_s"], None, [50, 90, 99], goodput)
        assert row["goodput_per_s"] == pytest.approx(theirs.request_goodput)
        assert row["total_tokens_per_s"] == pytest.approx(theirs.total_token_throughput)
        for name in ("ttft", "tpot", "itl", "e2el"):
            for percentile, value in getattr(theirs, f"percentiles_{name}_ms"):
                # Without values vLLM's are 0.
                assert (row[f"{name}_p{percentile:.0f}_s"] or 0) == pytest.approx(value / 1000)


def test_a_rerun_measures_only_what_is_missing(fake, tmp_path):
    before = run(served_config(rounds=1), tmp_path) / "served.jsonl"
    text = before.read_text()
    run(served_config(rounds=1), tmp_path, factory=no_server)
    assert before.read_text() == text
    strict = served_config(rounds=1, slo={"ttft_s": 1e-9, "tpot_s": 1e-9, "attainment": 0.5})
    run(strict, tmp_path, factory=no_server)
    assert all(row["attainment"] == 0 for row in files.read_jsonl(before))
    assert set(pd.read_csv(before.with_name("saturation.csv")).note) == {"the lowest load is not within it"}
    with pytest.raises(AssertionError, match="was started"):
        run(served_config([POINTS[0] | {"output_len": 6}], rounds=1), tmp_path, factory=no_server)


ROUND = 8  # requests of an arm in a round
SECOND = WARM_UP + ROUND + 3
FAULTS = [
    ({"die_after": SECOND}, r"open-40, arm skip50, round 1: server: ended with code -9"),
    ({"hang_after": SECOND}, r"open-40, arm skip50, round 1: not finished after 8 s"),
    ({"refuse_after": SECOND}, r"open-40, arm skip50, round 1: 5 of 8 requests failed: Internal Server Error"),
    ({"short_after": SECOND}, r"open-40, arm skip50, round 1: 35 output tokens instead of 40"),
    ({"die_after": 1}, r"warm-up of skip50: server: ended with code -9"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[next(iter(fault)) for fault, _ in FAULTS])
def test_a_failure_ends_in_one_line_and_no_result(fake, tmp_path, fault, message, capfd):
    """What was measured before stays."""
    fake["skip50"] = fault
    config = served_config(ONE_LOAD, timeouts={"start_s": 200, "measurement_s": 8})
    with pytest.raises(UserError, match=message) as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "work").glob("*/open*/000/*.json"))) == (0 if "warm-up" in message else 2)


def test_a_rerun_goes_on_after_a_server_was_killed(fake, tmp_path, capsys):
    fake["skip50"] = {"die_after": SECOND}
    with pytest.raises(UserError, match="ended with code -9"):
        run(served_config(ONE_LOAD), tmp_path)
    fake.clear()
    capsys.readouterr()
    rows = files.read_jsonl(run(served_config(ONE_LOAD), tmp_path) / "served.jsonl")
    assert [(row["round"], row["position"]) for row in rows] == [(n, place) for n in range(3) for place in range(2)]
    assert "round 0" not in capsys.readouterr().out  # it was kept


def test_a_server_that_does_not_start_is_an_error_of_one_line(fake, tmp_path, monkeypatch):
    fake["base"] = {"error": "ValueError: too large"}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(served_config().raw))
    monkeypatch.setattr(sys, "argv", ["swiftkv", "serve-load", "--config", str(config), "--out", str(tmp_path / "out"),
                                      "--work", str(tmp_path / "work")])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        app()
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


PARENT = """
import sys, time
from pathlib import Path
from swiftkv.engines import server
server.command = lambda model, port, gib, arguments: [sys.executable, sys.argv[1], str(port), "{}"]
with server.server("model", log=Path(sys.argv[2])) as running:
    print(running.pid, flush=True)
    time.sleep(600)
"""


def test_no_server_outlives_the_process_that_started_it(tmp_path):
    command = [sys.executable, "-c", PARENT, FAKE, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert server.wait(30) is None  # not our child, so without an exit code


def test_a_taken_port_is_named(fake, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken"):
            run(served_config(), tmp_path, port=port)
    assert not (tmp_path / "out").exists()


def test_a_vllm_server_is_measured_and_finds_the_blocks_of_a_trace(tmp_path):
    """A student behind vLLM: open loop, then a trace whose second request begins with the blocks of the first."""
    config = served_config(max_num_seqs=2)
    settings = engine_settings(config, [Load("p", "rate", 1, [300], [8])])
    blocks = [[0, 1, 2, 3], [0, 1, 9, 3], [7, 1]]  # of 32 tokens
    lengths = np.array([128, 120, 40]), np.array([4, 4, 4])
    replay = Replay("(test)", 1, 1 / 16, 32, np.array([0, 2.0, 4.0]), *lengths, blocks)
    trace = Load("blocks", "trace", 1, *(of.tolist() for of in lengths), replay=replay)
    student, log = benchmark_arms(config)[1], tmp_path / "client.log"
    with servers.serve_arm(student, replace(settings, prefix_caching=True), tmp_path, None, 900) as running:
        single = Load("one", "rate", 2, [60], [5])
        arguments = single.arguments("0", tmp_path)
        counts = count_tokens(running, lambda: client.run(running, arguments, 0, 120, log, "count"))
        assert (counts.early, counts.late, counts.needed) == (60 + 4, 5, 5)  # early exit behind a server, too
        for load in (trace, Load("open", "rate", 2, [100] * 4, [8] * 4, burstiness=0.5)):
            before = client.prefix_cache(running)
            result = client.run(running, load.arguments("0", tmp_path), 0, 120, log, load.name)
            after = client.prefix_cache(running)
            counters = {"cache_queries": after.queries - before.queries, "cache_hits": after.hits - before.hits}
            measured = metrics.measurement(load, student.name, 0, result, "test") | counters
            row = metrics.row(measured, config.served.slo)
            assert 0 < row["ttft_p50_s"] < row["e2el_p50_s"] and row["tpot_p50_s"] > 0
            if load is trace:
                assert row["cache_hit_share"] == pytest.approx(replay.reusable) == pytest.approx(64 / 288)
