"""Interleaving, resume, validation and summaries with a fake engine; one short run on real vLLM engines."""

import json
import multiprocessing
import os
import random
import signal
import time

import pandas as pd
import pytest

from swiftkv import costmodel, files, stats
from swiftkv.bench import rounds, throughput
from swiftkv.bench.plan import throughput_plan
from swiftkv.config import ROOT, RunConfig, load_config, validate
from swiftkv.engines.arms import LiveEngines, write_model
from swiftkv.engines.settings import Arm, Batch, held_at_once
from swiftkv.errors import UserError
from tests.helpers.config import make_config
from tests.helpers.fake_engines import CONTROLS, SPEED, Machine, throughput_config


@pytest.fixture
def config():
    return throughput_config()


def run(config, path, machine):
    throughput.run(config, path / "out", path / "work", factory=machine)
    return path / "out"


def test_arms_take_turns(config, tmp_path):
    """Every round holds each arm once on the same requests, and each arm takes each position once in three rounds."""
    machine = Machine()
    run(config, tmp_path, machine)
    loads = [entry for entry in machine.measured() if entry[1] != 6]
    cycles = [loads[i : i + 3] for i in range(0, len(loads), 3)]
    assert len(cycles) == 2 * 3
    for cycle in cycles:
        assert {arm for _, _, arm, _ in cycle} == set(SPEED)
        assert len({(i, o, seed) for i, o, _, seed in cycle}) == 1
    for place in range(3):
        assert {cycle[place][2] for cycle in cycles if cycle[0][1] == 5} == set(SPEED)
    assert [entry[2] for entry in machine.log[-3:]] == [f"closed {arm}" for arm in SPEED]


def test_results(config, tmp_path):
    out = run(config, tmp_path, Machine())
    summary = pd.read_csv(out / "summary.csv").set_index(["point", "arm"])
    row = summary.loc["mixed", "skip50"]
    assert (row.speedup, row.ci_low, row.ci_high) == pytest.approx((1.8, 1.8, 1.8))
    limit = costmodel.workload_speedup_limit(config.shape, 4, 1, 50, 5)
    assert (row.limit, row.share_of_limit) == pytest.approx((limit, 1.8 / limit))
    assert (summary.loc["mixed", "base"].speedup, row.repeats, row.weights) == (1, 3, "dummy")
    measurements = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    assert len(measurements) == 2 * 3 * 3
    assert {(row["prompt_tokens"], row["output_tokens"], row["failed"]) for row in measurements} == {
        (150, 15, 0),
        (120, 2, 0),
    }
    unloaded = pd.read_csv(out / "latency.csv").set_index("arm")
    assert unloaded.tpot_ratio["skip50"] == pytest.approx(100 / 180)
    for name in throughput.FILES:
        assert json.loads((out / f"{name}.provenance.json").read_text())["weights"] == "dummy"


def test_every_request_is_kept(config, tmp_path):
    """Per-request times belong to their measurement, and are not in measurements.jsonl."""
    out = run(config, tmp_path, Machine())
    requests = pd.DataFrame(files.read_jsonl(out / "requests.jsonl.gz"))
    measurements = pd.DataFrame(files.read_jsonl(out / "measurements.jsonl"))
    assert not {"ttft_s", "tpot_s"} & set(measurements.columns)
    keys = ["point", "arm", "repeat"]
    of = requests.groupby(keys).agg(
        p50=("ttft_s", "median"), tokens=("output_tokens", "sum"), number=("request", "size")
    )
    joined = measurements.set_index(keys).join(of)
    assert (joined.p50 == joined.ttft_p50_s).all() and (joined.number == joined.num_requests).all()
    assert (joined.tokens == joined.output_tokens).all()
    assert (requests.tpot_s.isna() == (requests.point == "prompt-only")).all()


def test_no_measurement_is_too_short(config, tmp_path, capsys):
    """On the base a batch takes 1.65 s of `mixed` and 1.22 s of `prompt-only`. Both are run so often that no arm needs
    less than 2.5 s, the same number of times on all, with requests of their own; the time of a batch is kept."""
    machine = Machine()
    raised = throughput_config(min_seconds=2.5)
    out = run(raised, tmp_path, machine)
    rows = pd.read_json(out / "measurements.jsonl", lines=True)
    assert rows.elapsed_s.min() >= 2.5
    taken = rows.groupby("point").batches.unique()
    assert all(len(counts) == 1 and counts[0] > 1 for counts in taken)
    assert (rows.output_tokens == rows.batches * rows.num_requests * rows.output_len).all()
    summary = pd.read_csv(out / "summary.csv").set_index(["point", "arm"])
    assert summary.loc[("mixed", "base"), "batches"] == taken["mixed"][0]
    shortest = rows.query("arm == 'skip50' and point == 'mixed'").elapsed_s.min()
    assert summary.loc[("mixed", "skip50"), "shortest_s"] == pytest.approx(shortest)
    assert summary.loc[("mixed", "skip50"), ["speedup", "limit"]].tolist() == pytest.approx(
        [1.8, costmodel.workload_speedup_limit(raised.shape, 4, 1, 50, 5)]
    )
    seeds = [seed for _, length, arm, seed in machine.log if (length, arm) == (5, "skip50")]
    assert len(set(seeds)) == len(seeds) == 3 * taken["mixed"][0]
    assert len(files.read_jsonl(out / "requests.jsonl.gz")) == (rows.batches * rows.num_requests).sum()
    assert f"throughput mixed: {taken['mixed'][0]} batches a measurement" in capsys.readouterr().out
    again = Machine()
    run(raised, tmp_path, again)
    run(throughput_config(min_seconds=2.49), tmp_path, again)
    assert again.log == []
    run(throughput_config(min_seconds=9), tmp_path, again)
    assert {entry[1] for entry in again.measured()} == {1, 5}  # both points, from the first round, and no latency


def test_late_tokens_of_every_engine_are_counted_once(config, tmp_path):
    """Of each set of engines, before anything is timed, and not again by a rerun."""
    config.raw["throughput"]["points"][1]["prefix_share"] = 0.5
    machine = Machine(late=3)
    counts = pd.read_csv(run(config, tmp_path, machine) / "late_tokens.csv").set_index(["points", "arm"])
    assert [*counts.index] == [(point, arm) for point in ("mixed", "prompt-only") for arm in SPEED]
    assert (counts.late_tokens - counts.expected_late_tokens).tolist() == [0, 3, 3] * 2
    assert (counts.xs("base", level="arm").late_tokens == counts.xs("base", level="arm").tokens).all()
    again = Machine()
    run(config, tmp_path, again)
    assert not again.log


def test_kv_capacity_is_exact(config, tmp_path):
    """The shared KV memory is whole blocks in every arm, so the ratio has no rounding in it."""
    capacity = pd.read_csv(run(config, tmp_path, Machine()) / "kv_capacity.csv").set_index("arm")
    assert list(capacity.ratio_to_base) == list(capacity.formula_ratio)
    assert capacity.formula_ratio["skip50-across4"] == 8 / 5
    assert capacity.kv_caches["skip50-across4"] == 5


@pytest.mark.parametrize("kill_after", [0, 1, 4, 8, 17, 19, 26])
def test_resume_after_a_kill(config, tmp_path, kill_after):
    """Complete rounds are kept, an incomplete one is measured again whole, and nothing is written before the end."""
    first, second = Machine(kill_after=kill_after), Machine()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, first)
    assert not (tmp_path / "out").exists()
    out = run(config, tmp_path, second)
    assert len(second.measured()) == 27 - kill_after // 3 * 3
    assert len(pd.read_json(out / "measurements.jsonl", lines=True)) == 18
    third = Machine()
    run(config, tmp_path, third)
    assert third.log == []


def test_resume_after_sigkill(config, tmp_path):
    """A process killed while it measures leaves whole files only; the next one goes on from the complete rounds."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(config, tmp_path, Machine(seconds=0.02)))
    child.start()
    while len(list((tmp_path / "work").glob("*/[mp]*/*/[a-z]*.json"))) < 5:
        assert child.is_alive()
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".swiftkv-started-throughput.json"]
    done = len([path for path in (tmp_path / "work").glob("*/[mp]*/*") if len(list(path.glob("[a-z]*.json"))) == 3])
    machine = Machine()
    out = run(config, tmp_path, machine)
    assert 1 <= done < 9 and len(machine.measured()) == 27 - 3 * done
    assert len(pd.read_csv(out / "summary.csv")) == 6


def test_half_written_measurement_is_not_taken(config, tmp_path):
    run(config, tmp_path, Machine())
    directory = next((tmp_path / "work").glob("*/mixed/001"))
    (directory / "skip50.json").rename(directory / ".skip50.json.x1y2.json")
    machine = Machine()
    run(config, tmp_path, machine)
    assert sorted(arm for _, _, arm, _ in machine.measured()) == sorted(SPEED)


def test_changed_config_measures_again(config, tmp_path):
    run(config, tmp_path, Machine())
    machine = Machine()
    run(throughput_config(max_num_batched_tokens=64), tmp_path, machine)
    assert len(machine.measured()) == 27


POINTS = throughput_config().raw["throughput"]["points"]
SHORTER = {"name": "shorter", "input_len": 30, "output_len": 2, "num_requests": 2}


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"repeats": 5}, 4),
        ({"repeats": 1}, 0),
        ({"points": [*POINTS, SHORTER]}, 3),
        ({"points": [POINTS[0] | {"input_len": 40}, POINTS[1]]}, 3),
        ({"latency": {"input_len": 20, "output_len": 6, "rounds": 5}}, 2),
        ({"latency": {"input_len": 21, "output_len": 6, "rounds": 3}}, 3),
        ({"points": [*POINTS, SHORTER | {"input_len": 300}]}, 12),
        ({"points": [*POINTS, SHORTER | {"num_requests": 9}]}, 12),
        ({"points": [*POINTS, SHORTER | {"input_len": 300, "prefix_share": 0.5}]}, 3),
    ],
)
def test_what_is_added_is_all_that_is_measured(config, tmp_path, changes, again):
    """Of 9 rounds of 3 arms, a change of the configuration measures those again whose engines or load it changed."""
    run(config, tmp_path, Machine())
    machine, changed = Machine(), throughput_config(**changes)
    out = run(changed, tmp_path, machine)
    assert len(machine.measured()) == 3 * again
    rows = pd.read_json(out / "measurements.jsonl", lines=True)
    assert len(rows) == 3 * changed.throughput.repeats * len(changed.throughput.points)


SWEEP = [
    {"name": "plain", "input_len": 50, "output_len": 5, "num_requests": 3},
    {"name": "cached", "input_len": 300, "output_len": 5, "num_requests": 3, "prefix_share": 0.9},
    {"name": "uncached", "input_len": 300, "output_len": 5, "num_requests": 3, "prefix_share": 0},
    {"name": "short-of-kv", "input_len": 130, "output_len": 100, "num_requests": 9, "kv_tokens": 700},
]


def test_points_with_other_flags_have_engines_of_their_own(tmp_path):
    """One set of engines for each: plain, prefix caching, little KV memory; latency is measured on the plain ones."""
    config, machine = throughput_config(points=SWEEP), Machine()
    summary = pd.read_csv(run(config, tmp_path, machine) / "summary.csv").set_index(["point", "arm"])
    assert list(machine.settings.values()) == [list(SPEED)] * 3
    plain, caching, limited = machine.settings
    assert (plain[0], caching[0], limited[0]) == (False, True, False)
    assert plain[2:] == (3, 128) and caching[2:] == (3, 384) and limited[2:] == (9, 256)
    assert [entry[2] for entry in machine.log[-3:]] == [f"closed {arm}" for arm in SPEED]
    assert summary.cached_len.groupby("point").first().to_dict() == {
        "plain": 0, "cached": 256, "uncached": 0, "short-of-kv": 0
    }  # fmt: skip
    shape = config.shape
    limit = costmodel.workload_speedup_limit(shape, 4, 1, 300, 5, cached=256)
    assert summary.loc[("cached", "skip50"), "limit"] == pytest.approx(limit)
    assert limit < summary.loc[("uncached", "skip50"), "limit"]
    assert summary.kv_tokens.dropna().unique().tolist() == [700]


def test_little_kv_memory_holds_more_requests_with_across_kv():
    """700 tokens are 6 blocks of the base, rounded up to 10, which are 16 with AcrossKV 4; vLLM keeps one of each."""
    plan = throughput_plan(throughput_config(points=SWEEP))
    plain, *_, short = plan.points
    held = {arm.name: held_at_once(short.settings, arm, short.batch) for arm in plan.arms}
    assert held == {"base": 9 // 2, "skip50": 9 // 2, "skip50-across4": 15 // 2}
    assert held_at_once(plain.settings, plan.arms[0], plain.batch) == 3


def test_kv_memory_for_no_request_is_refused():
    config = throughput_config(points=[SWEEP[3] | {"kv_tokens": 200}])
    with pytest.raises(UserError, match=r"points\.short-of-kv\.kv_tokens: 200; allowed is 384 or more"):
        throughput_plan(config)


def test_a_prefix_that_was_not_cached_is_refused(tmp_path):
    with pytest.raises(UserError, match="throughput cached, arm base, repeat 0: 0 prompt tokens were cached instead"):
        run(throughput_config(points=SWEEP), tmp_path, Machine(cold=True))


def test_nothing_is_measured_again(config, tmp_path):
    """A slow repeat of the base stays in the result, and the summary says how far the base's repeats are apart."""

    def slow(machine):
        mixed = [entry for entry in machine.log if entry[1:3] == (5, "base")]
        return 0.5 if len(mixed) == 2 and machine.log[-1][1] == 5 else 1

    machine = Machine(slow=slow)
    out = run(config, tmp_path, machine)
    assert len(machine.measured()) == 27
    row = pd.read_csv(out / "summary.csv").set_index(["point", "arm"]).loc[("mixed", "skip50")]
    assert row.base_drift == pytest.approx(1)
    assert row.speedup == pytest.approx((1.8 * 1.8 * 3.6) ** (1 / 3)) and row.ci_low < 1.8 < row.ci_high
    assert row.interval == "t"


def noise(sigma: float, seed: int = 0):
    """Speeds that scatter round their own by a share of `sigma`, drawn by the number of what ran before."""
    return lambda run: 1 + sigma * random.Random(f"{seed}/{run}").gauss(0, 1)


def test_rounds_are_added_until_every_interval_is_narrow(tmp_path):
    """Of either point, until the students' and the A/A control's are within 2%, and no further; those of l = L are not
    waited for. A rerun decides the same and measures nothing."""
    config = throughput_config(precision=0.02, max_minutes=60, controls=CONTROLS)
    out = run(config, tmp_path, Machine(noise=noise(0.03)))
    rows = pd.read_json(out / "measurements.jsonl", lines=True)
    counts = rows.groupby("point").repeat.nunique()
    assert (counts > 3).all()
    for point, count in counts.items():
        rates = rows[rows.point == point].pivot(index="repeat", columns="arm", values="total_tokens_per_s")
        judged = [arm for arm in rates if arm not in ("base", "l-equals-L")]
        widest = [
            max(stats.half_width(stats.ratio_ci(rates[arm][:n], rates.base[:n])) for arm in judged)
            for n in range(3, count + 1)
        ]
        assert widest[-1] <= 0.02 and min(widest[:-1]) > 0.02
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary.repeats[summary.point == "mixed"]) == {counts["mixed"]}
    again = Machine()
    run(config, tmp_path, again)
    assert again.log == [] and len(pd.read_json(out / "measurements.jsonl", lines=True)) == len(rows)


def killed(arm, settings, directory):
    os.kill(os.getpid(), signal.SIGKILL)


def refused(arm, settings, directory):
    raise UserError(f"no engine for {arm}")


def test_processes_share_the_rounds(tmp_path):
    """Six repeats and four latency rounds of three processes: the last one is this one, and has two and one of them. An
    interval of three processes is that of their means."""
    machine, config = Machine(late=3), throughput_config(repeats=6, restarts=3)
    config.raw["throughput"]["latency"]["rounds"] = 4
    out = run(config, tmp_path, machine)
    assert len(machine.measured()) == 3 * (2 * 2 + 1)
    rows = pd.read_json(out / "measurements.jsonl", lines=True)
    assert rows.groupby(["point", "arm"]).restart.apply(list).map(sorted).tolist() == [[0, 0, 1, 1, 2, 2]] * 6
    alone = pd.read_json(out / "latency.jsonl", lines=True)
    assert alone[alone.arm == "base"].sort_values("round").restart.tolist() == [0, 1, 2, 0]
    counts, summary = pd.read_csv(out / "late_tokens.csv"), pd.read_csv(out / "summary.csv")
    assert (counts.late_tokens - counts.expected_late_tokens).tolist() == [0, 9, 9]
    assert set(summary.restarts) == {3} and set(summary.repeats) == {6}
    again = Machine()
    run(config, tmp_path, again)
    assert again.log == []


@pytest.mark.parametrize(
    ("factory", "said"), [(killed, "a process of this command was killed"), (refused, "no engine")]
)
def test_what_happens_to_another_process_is_said_here(tmp_path, factory, said):
    with pytest.raises(UserError, match=said):
        run(throughput_config(restarts=3), tmp_path, factory)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("restarts", [2, 4])
def test_two_processes_or_some_without_a_round_are_refused(restarts):
    raw = make_config().raw
    raw["throughput"] |= {"repeats": 3, "restarts": restarts}
    with pytest.raises(
        UserError, match=rf"throughput.restarts: {restarts}; allowed are 1, and 3 to repeats, which are 3"
    ):
        validate(raw, "(test)")


def test_the_control_on_the_bases_engine_has_the_interval_of_its_rounds():
    """From process to process the ratio of a student jumps by a tenth, that of the base to itself does not."""
    plan = throughput_plan(throughput_config(repeats=6, restarts=3, controls=CONTROLS))
    steps = {"base": (0.0, 0.0), "base-again": (0.0, 0.01), "skip50": (0.1, 0.01)}  # by process, by round
    rates = {
        arm: [100 * (1 + process * (n % 3) + later * (n // 3)) for n in range(6)]
        for arm, (process, later) in steps.items()
    }
    rows = [
        {"point": "mixed", "arm": arm, "repeat": n, "restart": n % 3, "total_tokens_per_s": rate}
        | dict.fromkeys(("elapsed_s", "ttft_p50_s", "wall_s"), 1.0)
        for arm, of_arm in rates.items()
        for n, rate in enumerate(of_arm)
    ]
    found = {row["arm"]: (row["speedup"], row["ci_low"], row["ci_high"]) for row in throughput.summarise(plan, rows)}
    assert found["base-again"] == pytest.approx(stats.ratio_ci(rates["base-again"], rates["base"]))
    assert found["skip50"] == pytest.approx(stats.ratio_ci(rates["skip50"], rates["base"], [0, 1, 2] * 2))
    assert found["skip50"] != pytest.approx(stats.ratio_ci(rates["skip50"], rates["base"]))


def test_a_quiet_machine_adds_no_round(tmp_path):
    machine = Machine()
    run(throughput_config(precision=0.001, max_minutes=60), tmp_path, machine)
    assert len(machine.measured()) == 27


def test_no_round_is_added_when_the_time_is_up(tmp_path, monkeypatch):
    """Every measurement is said to take 10 s: 18 of three repeats, and 6 in every further one. Of 6 minutes the third
    further repeat begins at 300 s, and none after it."""
    monkeypatch.setattr(rounds, "watched", lambda measure: measure() | {"wall_s": 10.0})
    machine = Machine(noise=noise(0.3))
    out = run(throughput_config(precision=0.001, max_minutes=6), tmp_path, machine)
    assert set(pd.read_csv(out / "summary.csv").repeats) == {6}


def test_engines_share_the_time_by_their_points(tmp_path, monkeypatch):
    """Of eight minutes either set of engines has four, with one point each."""
    monkeypatch.setattr(rounds, "watched", lambda measure: measure() | {"wall_s": 10.0})
    out = run(throughput_config(points=SWEEP[:2], precision=0.001, max_minutes=8), tmp_path, Machine(noise=noise(0.3)))
    # 240 s each: three rounds of 30 s, and five more.
    assert pd.read_csv(out / "summary.csv").groupby("point").repeats.first().to_dict() == {"plain": 8, "cached": 8}


def test_controls_are_arms_of_their_own(tmp_path):
    """base-again runs on the base's engine, in positions of its own; l-equals-L has an engine. Neither is a student."""
    config, machine = throughput_config(controls=CONTROLS, repeats=5), Machine()
    out = run(config, tmp_path, machine)
    assert list(machine.settings.values()) == [[*SPEED, "l-equals-L"]]
    rows = pd.read_json(out / "measurements.jsonl", lines=True)
    assert {"load_1m", "wall_s"} <= set(rows.columns)
    for _, of_point in rows.groupby("point"):
        assert (of_point.groupby(["arm", "position"]).size() == 1).all() and len(of_point) == 25
    assert len(machine.measured()) == 2 * 25 + 3 * 5
    summary = pd.read_csv(out / "summary.csv").set_index(["point", "arm"])
    assert list(summary.loc["mixed"].index) == [*SPEED, *CONTROLS]
    assert summary.loc[("mixed", "base-again"), ["speedup", "limit", "ci_low"]].tolist() == [1, 1, 1]
    assert list(pd.read_csv(out / "latency.csv").arm) == [*SPEED, *CONTROLS]
    capacity = pd.read_csv(out / "kv_capacity.csv").set_index("arm")
    assert list(capacity.index) == [*SPEED, "l-equals-L"] and capacity.ratio_to_base["l-equals-L"] == 1


def test_controls_decide_where_measurements_are_kept(tmp_path):
    """The order of the arms is another one with them."""
    run(throughput_config(), tmp_path, Machine())
    machine = Machine()
    run(throughput_config(controls=["base-again"]), tmp_path, machine)
    assert len(machine.measured()) == 9 * 4


@pytest.mark.parametrize("name", CONTROLS)
def test_a_student_has_no_name_of_a_control(name):
    raw = throughput_config().raw
    raw["variants"] = [raw["variants"][0] | {"name": name}]
    with pytest.raises(UserError, match=f"variants: '{name}' is not allowed; it is the name of a control"):
        validate(raw, "")


@pytest.mark.parametrize(("given", "missing"), [("precision", "max_minutes"), ("max_minutes", "precision")])
def test_precision_has_an_end(given, missing):
    with pytest.raises(UserError, match=f"throughput: {missing} is missing; {given} needs it"):
        validate(throughput_config(**{given: 1.0}).raw, "")


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (Machine(failed=1), "throughput mixed, arm base, repeat 0: 1 of 3 requests failed"),
        (Machine(extra=1), "throughput mixed, arm base, repeat 0: 16 output tokens instead of 15"),
    ],
)
def test_invalid_measurements_are_refused(config, tmp_path, machine, message):
    with pytest.raises(UserError, match=message):
        run(config, tmp_path, machine)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "work").glob("*/mixed/*/*.json"))


def test_bad_configurations(config, tmp_path):
    empty = RunConfig(config.raw | {"throughput": config.raw["throughput"] | {"points": []}}, "")
    with pytest.raises(UserError, match=r"throughput\.points: \[\] is not allowed; allowed is a list, at least 1"):
        run(empty, tmp_path, Machine())
    clash = throughput_config(points=[{"name": "latency", "input_len": 5, "output_len": 1, "num_requests": 1}])
    with pytest.raises(UserError, match="not latency or kv-capacity"):
        run(clash, tmp_path, Machine())
    too_short = {"input_len": 1, "output_len": 1, "rounds": 1}
    short = RunConfig(config.raw | {"throughput": config.raw["throughput"] | {"latency": too_short}}, "")
    with pytest.raises(UserError, match=r"throughput\.latency\.output_len: 1 is not allowed; allowed is .* from 2"):
        throughput_plan(short)


def test_missing_engine(config, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "swiftkv.engines.engine", None)
    with pytest.raises(UserError, match="no vLLM engine"):
        throughput.run(config, tmp_path / "out", tmp_path / "work")


def test_engine_settings_hold_every_load():
    """At the default scale: all requests of the largest load fit the base's KV cache, in whole blocks of every arm."""
    config = load_config()
    plan, shape = throughput_plan(config), config.shape
    settings = plan.settings
    page = 128 * 2 * shape["num_key_value_heads"] * costmodel.head_dim(shape) * 2
    for point in config.raw["throughput"]["points"]:
        tokens = point["num_requests"] * (point["input_len"] + point["output_len"])
        assert settings.kv_memory_bytes >= page / 128 * shape["num_hidden_layers"] * tokens
        assert point["num_requests"] <= settings.max_num_seqs
        assert point["input_len"] + point["output_len"] <= settings.max_model_len
    for arm in plan.arms:
        assert settings.kv_memory_bytes % (page * costmodel.kv_caches(shape, arm.cut, arm.group)) == 0


def test_model_directories(config, tmp_path):
    """config.json alone; base and student differ in the SwiftKV fields only."""
    settings = throughput_plan(config).settings
    base = write_model(Arm("base", 8, 1), settings, tmp_path / "base")
    student = write_model(Arm("skip50-across4", 4, 4), settings, tmp_path / "student")
    assert [path.name for path in student.iterdir()] == ["config.json"]
    one, other = (json.loads((path / "config.json").read_text()) for path in (base, student))
    assert (one["model_type"], other["model_type"]) == ("llama", "llama_swiftkv")
    assert (other["num_key_value_layers"], other["key_value_group_size"]) == (4, 4)
    assert {key for key in one if one[key] != other.get(key)} == {"architectures", "model_type"}


@pytest.mark.vllm
def test_a_common_prefix_is_cached_and_nothing_else(tmp_path):
    """Of 300 tokens 270 are common: two whole blocks are found in the cache, each time, on base and student."""
    points = [SWEEP[1] | {"num_requests": 2}]
    config = throughput_config(repeats=1, points=points, latency={"input_len": 20, "output_len": 3, "rounds": 1})
    plan = throughput_plan(config)
    with LiveEngines(plan.arms, plan.points[0].settings, 20, tmp_path) as engines:
        for arm in ("base", "skip50-across4"):
            batches = [Batch(300, 3, 2, prefix_len) for prefix_len in (270, 270, 0)]
            cached = [engines[arm].run(batch, seed=0).cached_tokens for batch in batches]
            assert cached == [512, 512, 0]


@pytest.mark.vllm
def test_real_engines(tmp_path):
    """Four live engines of a tiny shape in one process, the A/A control on the base's, end to end."""
    points = [
        {"name": "mixed", "input_len": 50, "output_len": 5, "num_requests": 3},
        {"name": "prompt-only", "input_len": 60, "output_len": 1, "num_requests": 2},
    ]
    latency = {"input_len": 20, "output_len": 6, "rounds": 2}
    config = throughput_config(repeats=1, points=points, latency=latency, controls=CONTROLS)
    throughput.run(config, tmp_path / "out", tmp_path / "work")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert (summary.speedup > 0).all() and len(summary) == 10 and summary.ci_low.isna().all()
    capacity = pd.read_csv(tmp_path / "out" / "kv_capacity.csv").set_index("arm")
    assert list(capacity.kv_caches) == [8, 8, 5, 8]
    assert list(capacity.ratio_to_base) == list(capacity.formula_ratio)
    counts = pd.read_csv(tmp_path / "out" / "late_tokens.csv").set_index("arm")
    # Three requests of 42 prompt tokens fill a step of 128, then 4 - 1 tokens each are decoded.
    assert counts.tokens.tolist() == [3 * (42 + 3)] * 4
    assert counts.late_tokens.tolist() == counts.expected_late_tokens.tolist() == [135, 12, 12, 135]
    unloaded = pd.read_csv(tmp_path / "out" / "latency.csv")
    assert (unloaded[["ttft_median_s", "tpot_median_s"]] > 0).all(axis=None)


def test_kept_measurements_belong_to_the_code_of_plugin_and_engines():
    """A room that moves must not leave the fingerprint without sources."""
    named = {path.relative_to(ROOT / "swiftkv").as_posix() for path in rounds.SOURCES}
    assert {"vllm/decoder.py", "vllm/attention.py", "layers.py", "engines/engine.py", "engines/arms.py"} <= named
