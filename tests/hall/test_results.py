"""swiftkv.results: what it reads, and how it says that something is missing."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.registry import FRAMES
from swiftkv.results import find_root, load, published
from tests.helpers.synthetic_results import build

CONFIG = load_config(ROOT / "config" / "config.yaml")


@pytest.fixture()
def root(tmp_path):
    build(tmp_path / "results", CONFIG)
    return tmp_path / "results"


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "claims"])
def test_every_frame_is_read_with_its_columns(root, name):
    frame = load("cpu", root).frame(name)
    assert len(frame) and set(FRAMES[name].columns) <= set(frame.columns)


def test_missing_results_name_the_directory(tmp_path):
    with pytest.raises(UserError, match="no results of scale 'cpu'"):
        load("cpu", tmp_path)


@pytest.mark.parametrize("name", FRAMES)
def test_missing_file_names_the_file_and_its_target(tmp_path, name):
    (tmp_path / "cpu").mkdir()
    with pytest.raises(UserError) as error:
        load("cpu", tmp_path).frame(name)
    assert str(tmp_path / "cpu" / FRAMES[name].path) in str(error.value)
    assert f"snakemake --cores all results/cpu/{FRAMES[name].path}" in str(error.value)


def test_missing_column_is_named(root):
    path = root / "cpu" / "throughput" / "summary.csv"
    pd.read_csv(path).drop(columns="limit").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"summary\.csv: column limit is missing"):
        _ = load("cpu", root).throughput


@pytest.mark.parametrize("content", ["", "arm,task\n"])
def test_empty_table_is_an_error(root, content):
    (root / "cpu" / "accuracy" / "summary.csv").write_text(content)
    with pytest.raises(UserError, match=r"accuracy/summary\.csv"):
        _ = load("cpu", root).accuracy


def test_broken_json_line_is_named(root):
    (root / "cpu" / "models" / "distill.jsonl").write_text('{"step": 0}\n{"st')
    with pytest.raises(UserError, match=r"distill\.jsonl:2"):
        _ = load("cpu", root).distill


def test_frames_are_copies(root):
    results = load("cpu", root)
    mine = results.throughput
    mine["speedup"] = 99.0
    assert (results.throughput.speedup < 99).all()


def test_unknown_frame_is_refused(root):
    with pytest.raises(UserError, match="no frame 'speed'"):
        load("cpu", root).frame("speed")


def test_samples_of_all_arms(root):
    samples = load("cpu", root).samples
    assert set(samples.arm) == set(CONFIG.accuracy_arms)
    assert samples.groupby("arm").size().nunique() == 1


def test_parameters_count_swiftkv_tensors(root):
    parameters = load("cpu", root).parameters.set_index("arm")
    assert parameters.base.unique() == [800]
    assert parameters.trained["skip50"] == 40 and parameters.trained["base"] == 0
    assert parameters.share["skip25"] == pytest.approx(0.025)


def test_truncated_checkpoint_is_named(root):
    path = root / "cpu" / "models" / "skip50" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"skip50/model\.safetensors: not a safetensors file"):
        _ = load("cpu", root).parameters


def test_origin_comes_from_provenance(root):
    results = load("cpu", root)
    assert "SYNTHETIC" in str(results.origin("throughput")) and "000000000" in str(results.origin("throughput"))
    (root / "cpu" / "throughput" / "summary.csv.provenance.json").unlink()
    assert "hardware unknown" in str(results.origin("throughput"))


def test_root_is_found_from_notebooks_and_environment(root, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("SWIFTKV_RESULTS", raising=False)
    assert find_root("cpu") == Path("../results")
    monkeypatch.setenv("SWIFTKV_RESULTS", str(root))
    assert find_root("cpu") == root
    with pytest.raises(UserError, match="no results of scale 'moon'"):
        find_root("moon")


def test_derived_published_values_follow_from_the_others():
    frame = published()
    assert frame.index.is_unique and set(frame.seen) == {"S", "S2", "D"}
    derived = frame[frame.derived_from.notna()]
    assert len(derived) > 10
    for row in derived.itertuples():
        terms = re.sub(r"\{([^}]+)\}", lambda match: repr(float(frame.value[match[1]])), row.derived_from)
        assert eval(terms) == pytest.approx(row.value, rel=1e-3), row.Index


def test_analysis_imports_no_torch():
    modules = "swiftkv.report.plots, swiftkv.report.tables, swiftkv.report.claims, swiftkv.report.notebooks"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_half_written_models_and_samples_are_no_results(root):
    results = load("cpu", root)
    arms, rows = set(results.parameters.arm), len(results.samples)
    for name in ("models/.skip50.abc123/config.json", "accuracy/base/.samples.jsonl.abc123.jsonl"):
        (root / "cpu" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cpu" / name).write_text("{")
    again = load("cpu", root)
    assert set(again.parameters.arm) == arms and len(again.samples) == rows
