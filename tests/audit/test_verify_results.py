"""`swiftkv verify-results`: a consistent result set passes, one altered digit anywhere in it does not."""

import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from swiftkv import cli, files
from swiftkv.audit import verify_results
from swiftkv.audit.recompute import RECIPES, AuditedRun
from swiftkv.bench import throughput
from swiftkv.bench.plan import throughput_plan
from swiftkv.config import ROOT, config_of_run
from swiftkv.errors import UserError
from swiftkv.evals import accuracy_summary, divergence_summary
from swiftkv.registry import COUNTS, FRAMES
from swiftkv.report import claims, tables
from swiftkv.results import Results
from tests.helpers.config import make_config
from tests.helpers.fake_engines import Machine
from tests.helpers.synthetic_results import DIVERGENCE, build

CONFIG = make_config({"divergence": DIVERGENCE}, of="smoke")
SCALE = CONFIG.scale
HASHED = [file.path for name, file in FRAMES.items() if file.path not in RECIPES and name != "claims"]
MADE = [path for path in RECIPES if not path.startswith("served/")]  # those: tests/bench/test_served_summary.py
COMMITTED = sorted((ROOT / "results" / "reference").glob("*/cpu"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A synthetic result set whose summaries, verdicts and tables are made by the stages themselves."""
    root = tmp_path_factory.mktemp("verify") / "results"
    scale = build(root, CONFIG)
    shutil.rmtree(scale / "throughput")
    speed = {"base": 100.0, "skip50": 180.0, "skip50-across4": 190.0}
    throughput.run(CONFIG, scale / "throughput", root / "work", factory=Machine(speed))
    for arm in CONFIG.accuracy_arms:
        files.write_json(scale / "accuracy" / arm / "lm_eval.json", {"settings": {}})
    folders = {arm: scale / "accuracy" / arm for arm in CONFIG.accuracy_arms}
    (scale / "accuracy" / "summary.csv").unlink()  # has no provenance: not the stage's own
    accuracy_summary.summarise(CONFIG, folders, scale / "accuracy" / "summary.csv")
    (scale / "divergence" / "summary.csv").unlink()
    divergence_summary.summarise(CONFIG, *(scale / "divergence" / name for name in ("documents.jsonl", "summary.csv")))
    files.write_text(scale / COUNTS, Results(SCALE, scale).parameters.to_csv(index=False))
    files.write_text(scale / "config.yaml", yaml.safe_dump(CONFIG.raw, sort_keys=False))
    claims.run(CONFIG, scale / "claims.csv", scale / "claims.md", root)
    tables.write_all(CONFIG, scale / "tables", root)
    return scale


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "results" / SCALE)


def check(directory: Path) -> verify_results.Findings:
    config = verify_results.config_of_run(directory, None)
    with tempfile.TemporaryDirectory() as scratch:
        return verify_results.check(AuditedRun(Results(config.scale, directory), config, Path(scratch)))


def flip(path: Path, seed: int = 0) -> str:
    """Alter one digit of a file that is not in a name or a leading zero, nor beyond a number's fifteenth; returns the
    line as it is now."""
    lines = path.read_text("utf-8").split("\n")
    places = [
        (n, hit.start())
        for n, line in enumerate(lines)
        for hit in re.finditer(r"(?<=[\d.])\d(?![\w-]*\")", line)
        if len(re.search(r"[\d.]*$", line[: hit.start()])[0].replace(".", "").lstrip("0")) < 15
    ]
    number, place = random.Random(f"{path.name}{seed}").choice(places)
    digit = str((int(lines[number][place]) + 1) % 10)
    lines[number] = lines[number][:place] + digit + lines[number][place + 1 :]
    path.write_text("\n".join(lines), "utf-8")
    return lines[number]


def test_consistent_results_pass(made, capsys):
    assert verify_results.run(made)
    printed = capsys.readouterr().out
    assert printed.endswith("0 differences\n") and "first difference" not in printed


def test_what_cannot_be_checked_is_never_passed(made):
    """Files without a hash and without raw rows are named, and are not among the checked ones."""
    found = check(made)
    assert not found.reached & set(found.unchecked)
    assert {"accuracy/base/lm_eval.json", "claims.csv.provenance.json", COUNTS} <= set(found.unchecked)
    evidence = {file for pattern in verify_results.KEPT for file in files.finished(made, pattern)}
    assert {file.relative_to(made).as_posix() for file in evidence} <= found.reached | set(found.unchecked)


def test_summaries_without_raw_rows_are_not_checkable(copy):
    (copy / "throughput" / "measurements.jsonl").unlink()
    (copy / "claims.csv.provenance.json").unlink()  # with the hashes of the summaries
    (copy / "claims.md.provenance.json").unlink()
    (copy / "tables" / "tables.provenance.json").unlink()
    found = check(copy)
    assert "without throughput/measurements.jsonl" in found.unchecked["throughput/summary.csv"]
    assert "throughput/summary.csv" not in found.reached


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("file", [*MADE, *HASHED])
def test_one_altered_digit_is_found(copy, file, seed, monkeypatch):
    """By the file's own recipe or by its hash, without those of the files made from it."""
    monkeypatch.setattr(verify_results, "RECIPES", {file: RECIPES[file]} if file in RECIPES else {})
    path = copy / file
    if path.suffix == ".gz":
        data = bytearray(path.read_bytes())
        data[-5] ^= 1  # in the length or the checksum
        path.write_bytes(bytes(data))
    else:
        flip(path, seed)
    found = check(copy)
    assert file in {difference.file for difference in found.differences}


def test_the_first_difference_is_the_altered_cell(copy, capsys):
    """An altered median in the summary: stored and recomputed are said, the tables made from it come later."""
    path = copy / "throughput" / "summary.csv"
    rows = path.read_text()
    assert rows.count(",180.0,") == 3
    path.write_text(rows.replace(",180.0,", ",181.0,", 1))
    assert not verify_results.run(copy)
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("first difference"))
    assert re.search(
        r"throughput/summary.csv, row 2 \(ratio-10to1, skip50\), total_tokens_per_s_median: "
        r"stored 181\.0, recomputed (180|179\.9)",
        first,
    )


def test_altered_configuration_is_found(copy):
    path = copy / "config.yaml"
    text = path.read_text()
    assert "learning_rate: 0.002" in text
    path.write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.003"))
    assert "config.yaml" in {difference.file for difference in check(copy).differences}


def test_without_configuration_raw_rows_still_count(copy):
    (copy / "config.yaml").unlink()
    found = verify_results.check(AuditedRun(Results(SCALE, copy), None, copy.parent / "scratch"))
    assert not found.differences
    assert found.unchecked["claims.csv"] == "cannot be recomputed without config.yaml"


def test_results_of_earlier_releases_agree(copy):
    """Ratios that do not name their interval are recomputed as medians with the range of three rounds, and with the
    columns that told of rounds measured again; hashes were taken after."""
    path, changed = copy / "throughput" / "summary.csv", "speedup ci_low ci_high share_of_limit".split()
    rows = files.read_jsonl(copy / "throughput" / "measurements.jsonl")
    for row in rows:
        row["attempt"] = 2 * (row["arm"] == "skip50" and row["repeat"] == 1)
        row["elapsed_s"] /= 1 + 0.2 * (row["arm"] == "base" and row["repeat"] == 1)
        row["total_tokens_per_s"] = (row["prompt_tokens"] + row["output_tokens"]) / row["elapsed_s"]
    files.write_jsonl(copy / "throughput" / "measurements.jsonl", rows)
    frame = pd.DataFrame(throughput.summarise(throughput_plan(CONFIG), rows, None))
    assert (frame.speedup > 1.79).any() and (frame.ci_low < frame.speedup).any()
    frame = frame.drop(columns=["interval", "batches", "base_drift", "shortest_s", "load_1m", "stolen_percent"])
    told = {"repeated": 2 * (frame.arm == "skip50"), "too_short": 0, "notes": "baseline moved 20% between repeats"}
    frame.assign(**told).to_csv(path, index=False)

    def found() -> set[str]:
        ours = [difference for difference in check(copy).differences if difference.file == "throughput/summary.csv"]
        return {difference.column.split()[0] for difference in ours}

    assert found() == {"sha256"}
    for column in (*changed, *told):
        altered = frame.assign(**told)
        altered[column] = [*frame.assign(**told)[column][:-1], 7]
        altered.to_csv(path, index=False)
        assert found() == {"sha256", column}


@pytest.mark.parametrize("evidence", COMMITTED, ids=lambda path: path.parent.name)
def test_altered_digits_in_committed_evidence_are_found(evidence, tmp_path):
    """One digit in every kind of text file at once: each is found at its place."""
    copy = shutil.copytree(evidence, tmp_path / "cpu")
    known = set(check(copy).differences)
    present = [file for file in (*RECIPES, *HASHED) if (copy / file).is_file() and not file.endswith(".gz")]
    altered = {file: flip(copy / file) for file in present}
    found = [difference for difference in check(copy).differences if difference not in known]
    for file, line in altered.items():
        at_place = [d for d in found if d.file == file and (d.stored in line or d.column.startswith("sha256"))]
        assert at_place, f"{file}: {line}"


def test_tables_laid_out_by_another_release_are_named_and_not_judged(copy):
    """Their numbers are: beside them, as CSV and Markdown."""
    path = copy / "tables" / "tab-kv.tex"
    path.write_text(path.read_text().replace("layout", "another layout", 1))
    found = check(copy)
    assert not found.differences
    assert found.unchecked["tables/tab-kv.tex"].startswith("laid out by another release")
    assert "tables/tab-kv.tex" not in found.reached and {"tables/tab-kv.csv", "tables/tab-kv.md"} <= found.reached


def test_bad_directories_end_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "claims.csv").touch()
    cases = (("none", "no such directory", 2), (".", "holds no results", 1), ("only", "none of its files can be", 1))
    for name, said, code in cases:
        argument = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["swiftkv", "verify-results", str(argument)])
        with pytest.raises(SystemExit) as stop:
            cli.app()
        error = capsys.readouterr().err
        assert stop.value.code == code and error.count("\n") == 1 and said in error


def test_exit_codes(copy, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["swiftkv", "verify-results", str(copy)])
    with pytest.raises(SystemExit) as stop:
        cli.app()
    assert stop.value.code == 0
    flip(copy / "throughput" / "latency.csv")
    with pytest.raises(SystemExit) as stop:
        cli.app()
    assert stop.value.code == 1


def test_unknown_configuration_is_refused(made, tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        verify_results.run(made, tmp_path / "none.yaml")


def test_runs_of_earlier_versions_keep_what_those_did():
    """They know no `restarts`: one process measured them, whatever the default is today."""
    run = ROOT / "results" / "reference" / "epyc-2-cores" / "cpu"
    assert "restarts" not in (run / "config.yaml").read_text() and config_of_run(run).throughput.restarts == 1
