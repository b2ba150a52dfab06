"""From requests under load to attainment, saturation and figures; traces scaled for replay. No server, no vLLM."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from swiftkv import files, results, stats
from swiftkv.audit import compare_results, verify_results
from swiftkv.audit.recompute import AuditedRun
from swiftkv.bench.served import metrics, replay, summary
from swiftkv.bench.served.plan import served_plan
from swiftkv.config import ROOT, RunConfig, load_config, validate
from swiftkv.config.measuring import ServedPoint, Slo
from swiftkv.errors import UserError
from swiftkv.planning.fleet import Requests
from swiftkv.report import claims, served
from swiftkv.workloads.traffic import Traffic
from tests.helpers.config import make_config
from tests.helpers.synthetic_results import save

CONFIG = load_config(ROOT / "config" / "served.yaml")
CLOSED = next(point for point in CONFIG.raw["served"]["points"] if point["kind"] == "concurrency")
SLO = {"ttft_s": 1.0, "tpot_s": 0.1, "attainment": 0.75}
WINDOW = partial(ServedPoint, name="t", kind="trace", loads=[1], trace="(test)")
LOADS = (1, 2, 3)


def measured(load: float, arm: str, number: int, ttft: list[float], kind: str = "rate") -> dict:
    """A measurement of requests with these TTFTs, 11 output tokens 0.05 s apart, that all arrive at once."""
    count = len(ttft)
    return {
        **{"point": f"by-{kind}", "kind": kind, "load": load, "arm": arm, "round": number, "position": 0},
        **dict.fromkeys(("burstiness", "time_scale", "length_scale", "source", "reusable")),
        **{
            "duration_s": 4.0,
            "start_s": [0.1 * n for n in range(count)],
            "ttft_s": ttft,
            "itl_s": [[0.05] * 10] * count,
        },
        **{"e2el_s": [first + 0.5 for first in ttft], "prompt_tokens": [20] * count, "output_tokens": [11] * count},
        **{"cache_queries": 0, "cache_hits": 0},
    }


def synthetic(kind: str = "rate") -> list[dict]:
    """Base and student over three loads and rounds. The base keeps 4, 2 and 0 of 4 requests within the SLO, the student
    4, 4 and 2."""
    kept = {"base": (4, 2, 0), "skip50": (4, 4, 2)}
    return [
        measured(load, arm, number, [0.5] * good + [2.0 + 0.1 * number] * (4 - good), kind)
        for arm, within in kept.items()
        for load, good in zip(LOADS, within, strict=True)
        for number in range(3)
    ]


def config_of(**changes) -> RunConfig:
    return make_config(instead={"served": CONFIG.raw["served"] | {"slo": SLO} | changes}, of="served")


def summarise(config: RunConfig, rows: list[dict]) -> list[dict]:
    return summary.summarise(rows, config.served_arms, config.seed)


def saturation(config: RunConfig, rows: list[dict]) -> list[dict]:
    return summary.saturation(rows, config.served_arms, config.served.slo, config.seed)


def rows_of(measurements: list[dict]) -> list[dict]:
    return [metrics.row(one, Slo(**SLO)) for one in measurements]


def test_a_row_says_what_the_requests_were():
    row = metrics.row(measured(2, "base", 0, [0.5, 0.5, 0.5, 3.0]), Slo(**SLO))
    assert (row["attainment"], row["goodput_per_s"], row["requests_per_s"]) == (0.75, 0.75, 1.0)
    assert row["total_tokens_per_s"] == 4 * 31 / 4 and row["load_unit"] == "requests/s"
    assert row["offered_per_s"] == pytest.approx(10)
    assert row["tpot_p50_s"] == pytest.approx(0.05) and row["e2el_p50_s"] == pytest.approx(1.0)
    slow = metrics.row(measured(2, "base", 0, [0.5]), Slo(**SLO | {"tpot_s": 0.049}))
    assert slow["attainment"] == 0 and slow["offered_per_s"] is None


def test_saturation_is_interpolated_and_compared_within_rounds():
    rows = pd.DataFrame(saturation(config_of(), rows_of(synthetic()))).set_index("arm")
    # 75% lies halfway between 100% at load 1 and 50% at 2, and between 100% at 2 and 50% at 3.
    assert rows.loc["base", ["highest_within", "saturation"]].tolist() == [1, 1.5]
    assert rows.loc["skip50", ["highest_within", "saturation"]].tolist() == [2, 2.5]
    assert rows.loc["skip50", ["ratio", "ci_low", "ci_high"]].tolist() == pytest.approx([2.5 / 1.5] * 3)


def test_saturation_beyond_the_tested_loads_is_said_and_not_guessed():
    easy = [metrics.row(one, Slo(**SLO | {"ttft_s": 9})) for one in synthetic()]
    for rows, note, within in ((easy, summary.ABOVE, 3), (rows_of(synthetic()[6:9]), summary.BELOW, None)):
        found = summary.saturation_row(rows, "base", Slo(**SLO), CONFIG.seed)
        assert (found["note"], found["highest_within"], found["saturation"], found["ratio"]) == (
            note,
            within,
            None,
            None,
        )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 1))
def test_the_crossing_lies_where_attainment_first_falls_below(shares, wanted):
    curve = [(float(load), share) for load, share in enumerate(shares, 1)]
    found, why = summary.crossing(curve, wanted)
    within = summary.within(curve, wanted)
    assert (found is None) == bool(why)
    if found is None:
        assert within == (None if why == summary.BELOW else len(shares))
    else:
        assert within <= found <= within + 1 and shares[int(within)] < wanted


def test_ratios_under_load_are_taken_within_a_round():
    rows = summarise(config_of(), rows_of(synthetic()))
    assert [(row["load"], row["arm"]) for row in rows] == [(load, arm) for load in LOADS for arm in ("base", "skip50")]
    last = rows[-1]
    assert (last["attainment"], last["rounds"]) == (0.5, 3)
    ratios = [(0.5 + 2 + 0.1 * n) / 2 / (2 + 0.1 * n) for n in range(3)]
    found = (last["ttft_p50_ratio"], last["ttft_p50_ci_low"], last["ttft_p50_ci_high"])
    assert found == pytest.approx(stats.ratio_ci(ratios, [1, 1, 1])) and last["interval"] == "t"


TRACE = Traffic(
    "blocks",
    "(test)",
    Requests(np.array([0.0, 1, 2, 3]), np.array([1024, 1400, 700, 1]), np.array([100, 3, 10, 7])),
    3.0,
    [[0, 1], [0, 1, 2], [0, 3], [0]],
)


def test_a_trace_is_scaled_in_time_and_length_and_keeps_its_blocks(tmp_path):
    made = replay.make(TRACE, 2, WINDOW(length_scale=1 / 16, duration_s=1.25), 0)
    assert made.arrival_s.tolist() == [0, 0.5, 1.0] and made.block_tokens == 32
    assert made.prompt.tolist() == [64, 88, 44] and made.output.tolist() == [6, 1, 1]
    assert made.reusable == (64 + 32) / (64 + 88 + 44)  # blocks 0 and 1 of the second request, 0 of the third
    replay.write(made, tmp_path / "trace.jsonl", "round-0")
    sent = files.read_jsonl(tmp_path / "trace.jsonl")
    assert [row["hash_ids"] for row in sent][1] == ["round-0/0", "round-0/1", "round-0/2"]
    assert all(len(row["hash_ids"]) == -(-row["input_length"] // 32) for row in sent)


def test_a_trace_without_blocks_shares_nothing(tmp_path):
    alone = Traffic("alone", "(test)", TRACE.requests, 3.0)
    made = replay.make(alone, 1, WINDOW(length_scale=1, duration_s=9), 0)
    replay.write(made, tmp_path / "trace.jsonl", "x")
    ids = [block for row in files.read_jsonl(tmp_path / "trace.jsonl") for block in row["hash_ids"]]
    assert len(ids) == len(set(ids)) == 2 + 3 + 2 + 1 and made.reusable == 0


@given(st.integers(0, 1000), st.floats(0.1, 0.9))
def test_a_sample_keeps_whole_conversations(seed, share):
    kept = replay.sampled(TRACE, share, seed)
    assert kept[0] == kept[1]  # their second block is the same
    assert replay.sampled(TRACE, 1, seed).all()


def test_an_empty_window_is_named():
    with pytest.raises(UserError, match=r"served\.points: t: no request in 1 s from second 50 on"):
        replay.make(TRACE, 1, WINDOW(length_scale=1, start_s=50, duration_s=1), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["skip99"]}, r"served\.arms: 'skip99' is not a variant"),
        ({"points": [CONFIG.raw["served"]["points"][0]] * 2}, r"served\.points: names must differ"),
        (
            {"points": [CONFIG.raw["served"]["points"][0] | {"trace": "x"}]},
            r"served\.points\.0: 'trace' is no key of kind rate; allowed",
        ),
        ({"points": [{"name": "a", "kind": "rate", "loads": [1]}]}, r"served\.points\.0: input_len is missing"),
        ({"slo": {"ttft_s": 0, "tpot_s": 1, "attainment": 1}}, r"served\.slo\.ttft_s: 0 is not allowed"),
        ({"rounds": 0}, r"served\.rounds: 0 is not allowed"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        validate(config_of(**change).raw, "(test)")


def test_parts_of_a_client_are_refused():
    with pytest.raises(UserError, match=r"closed: 1.5 clients; allowed are whole numbers"):
        served_plan(config_of(points=[{**CLOSED, "loads": [1.5]}]), None)


def test_servers_take_every_request():
    point = {**CLOSED, "loads": [2], "input_len": 200, "output_len": 60}
    settings = served_plan(config_of(points=[point], max_num_seqs=3)).settings
    assert (settings.max_model_len, settings.max_num_seqs, settings.prefix_caching) == (384, 3, False)
    wider = served_plan(config_of(points=[point], kv_tokens=4 * 3 * 384)).settings
    assert wider.kv_memory_bytes > 3 * settings.kv_memory_bytes


@pytest.fixture
def root(tmp_path):
    """Synthetic results of two workloads."""
    rows = rows_of([*synthetic(), *synthetic("concurrency")])
    folder, config = tmp_path / CONFIG.scale / "served", config_of()
    save(folder / "served.jsonl", rows)
    save(folder / "summary.csv", summarise(config, rows))
    save(folder / "saturation.csv", saturation(config, rows))
    return tmp_path


def test_figure_and_tables_are_made_from_the_results_alone(root):
    served.run(CONFIG, root / "made", root)
    assert "SYNTHETIC TEST DATA" in (root / "made" / "fig-served.svg").read_text()
    assert (root / "made" / "fig-served.png").is_file() and (root / "made" / "fig-served-latency.png").is_file()
    table = (root / "made" / "tab-saturation.md").read_text()
    assert "| by-rate | skip50 | requests/s | 2 | 2.50 | 1.67 |" in table
    assert "75% of the requests keep the SLO" in table
    assert "| by-concurrency | 3 clients | skip50 |" in (root / "made" / "tab-served.md").read_text()


def test_compare_sees_a_ratio_under_load_that_moved(root, tmp_path):
    again = tmp_path / "again"
    (again / "served").mkdir(parents=True)
    for path in (root / CONFIG.scale / "served").iterdir():
        (again / "served" / path.name).write_bytes(path.read_bytes())
    one, other = (results.Results(CONFIG.scale, folder) for folder in (root / CONFIG.scale, again))
    assert compare_results.compare(one, other)[0] == []
    path = again / "served" / "summary.csv"
    frame = pd.read_csv(path)
    frame.loc[5, ["ttft_p50_ratio", "ttft_p50_ci_low", "ttft_p50_ci_high"]] = [2.0, 1.9, 2.1]
    frame.to_csv(path, index=False)
    differences, _ = compare_results.compare(one, results.Results(CONFIG.scale, again))
    assert [(found.table, found.column) for found in differences] == [("served", "ttft_p50_ratio")]


@pytest.mark.parametrize(
    "file", [None, "summary.csv", "saturation.csv", "tab-served.csv", "tab-saturation.md", "claims.csv", "claims.md"]
)
def test_an_altered_digit_is_found(root, file, tmp_path):
    """Summaries from the rows of the rounds, tables and verdicts from the summaries; nothing is found where nothing was
    altered."""
    directory = root / CONFIG.scale
    claims.run(config_of(), directory / "served" / "claims.csv", directory / "served" / "claims.md", root)
    served.write_tables(results.Results(CONFIG.scale, directory), directory / "served")
    if file:
        path = directory / "served" / file
        text = path.read_text()
        place = text.rindex("0.")
        path.write_text(f"{text[:place]}1.{text[place + 2 :]}")
    files.write_text(directory / "config.yaml", yaml.safe_dump(config_of().raw))
    config = verify_results.config_of_run(directory, None)
    found = verify_results.check(AuditedRun(results.Results(CONFIG.scale, directory), config, tmp_path / "scratch"))
    said = {difference.file for difference in found.differences}
    assert f"served/{file}" in said if file else not said
    assert {"served/summary.csv", "served/tab-served.md"} <= found.reached
