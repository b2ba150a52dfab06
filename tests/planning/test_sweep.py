"""The sweep: its configuration, predictions that recover a made-up machine from the base alone, figures, laws."""

import json
from dataclasses import asdict

import pandas as pd
import pytest

from swiftkv import costmodel, files
from swiftkv.bench.plan import PlannedPoint, throughput_plan
from swiftkv.config import ROOT, RunConfig, load_config
from swiftkv.engines.settings import BLOCK, benchmark_arms
from swiftkv.errors import UserError
from swiftkv.planning import checked, predict, roofline, sweep
from swiftkv.planning.roofline import Machine
from swiftkv.report import exhibits, plots

CONFIG = load_config(ROOT / "config" / "sweep.yaml")
OTHER = {"name": "other", "input_len": 1, "output_len": 1, "num_requests": 1}
SHAPE = CONFIG.shape
TRUTH = Machine("made up", (8.0, 256.0), (3e10, 9e10), 1.5e10, float("inf"), float("inf"), 6e-3, attention=5e10)
RECORD = {"hardware": {"cpu": "SYNTHETIC TEST DATA, no machine", "cores": 0, "gpus": []}, "weights": "dummy"}


def lengths(point: PlannedPoint) -> dict:
    """The columns of a point in summary.csv."""
    batch = asdict(point.batch)
    cached = batch.pop("prefix_len") // BLOCK * BLOCK
    return {"point": point.name, **batch, "cached_len": cached, "kv_tokens": point.kv_tokens}


def seconds(shape: dict, arm, workload: predict.Workload) -> predict.Prediction:
    return predict.predict(shape, arm.cut, arm.group, workload, TRUTH)


def summary_rows(config: RunConfig) -> list[dict]:
    """What the throughput stage would write if every arm ran as the model says on TRUTH."""
    points = pd.DataFrame([lengths(point) for point in throughput_plan(config).points]).assign(arm="base")
    base, rows = {}, []
    for arm in benchmark_arms(config):
        for row in points.to_dict("records"):
            workload = checked.workloads(config, arm, points)[row["point"]]
            made = seconds(SHAPE, arm, workload)
            tokens = row["num_requests"] * (row["input_len"] + row["output_len"])
            speedup = base.setdefault(row["point"], made.elapsed_s) / made.elapsed_s
            limit = costmodel.workload_speedup_limit(
                SHAPE, arm.cut, arm.group, row["input_len"], row["output_len"], row["cached_len"]
            )
            times = {"total_tokens_per_s_median": tokens / made.elapsed_s, "ttft_p50_s": made.ttft_s, "repeats": 3}
            ends = {"ci_low": 0.98 * speedup, "ci_high": 1.02 * speedup, "limit": limit, "share_of_limit": 1.0}
            rows.append(row | {"arm": arm.name, "speedup": speedup} | times | ends)
    return rows


def latency_rows(config: RunConfig) -> list[dict]:
    asked = config.raw["throughput"]["latency"]
    alone = predict.Workload(asked["input_len"], asked["output_len"])
    made = {arm.name: seconds(SHAPE, arm, alone) for arm in benchmark_arms(config)}
    base = made["base"]
    return [
        {"arm": name, "ttft_median_s": one.ttft_s, "tpot_median_s": one.tpot_s, "rounds": 5}
        | {"ttft_ratio": one.ttft_s / base.ttft_s, "tpot_ratio": one.tpot_s / base.tpot_s}
        for name, one in made.items()
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results/sweep as the pipeline leaves it, of a machine that is TRUTH."""
    directory = tmp_path_factory.mktemp("sweep") / "results" / "sweep"
    tables = {"summary.csv": summary_rows(CONFIG), "latency.csv": latency_rows(CONFIG)}
    ratios = [(arm, costmodel.kv_capacity_ratio(SHAPE, arm.cut, arm.group)) for arm in benchmark_arms(CONFIG)]
    tables["kv_capacity.csv"] = [
        {"arm": arm.name, "kv_caches": 1, "kv_bytes_per_token": 1, "capacity_tokens": 1, "ratio_to_base": ratio}
        | {"formula_ratio": ratio}
        for arm, ratio in ratios
    ]
    for name, rows in tables.items():
        path = directory / "throughput" / name
        files.write_text(path, pd.DataFrame(rows).to_csv(index=False))
        files.write_json(f"{path}.provenance.json", RECORD)
    sweep.run(CONFIG, directory, directory / "predictions")
    return directory


def frame(results, name: str) -> pd.DataFrame:
    return pd.read_csv(results / "predictions" / name)


def test_sweep_has_what_it_is_for():
    """Ratios from 1:1 to 100:1, several lengths and batches, little KV memory, prefixes of 0 to 90%."""
    points = CONFIG.throughput.points
    plain = [point.batch for point in throughput_plan(CONFIG).engine_sets[0].points]
    ratios = [point.input_len / point.output_len for point in plain]
    assert min(ratios) == 1 and max(ratios) >= 100 and len(plain) >= 15
    for key, least in (("input_len", 5), ("num_requests", 5)):
        assert len({getattr(point, key) for point in plain}) >= least
    shares = [point.prefix_share for point in points if point.prefix_share is not None]
    assert min(shares) == 0 and max(shares) == 0.9 and any(point.kv_tokens is not None for point in points)


def test_points_short_of_kv_memory_never_grow_into_another_block():
    """So that vLLM, which allocates as it goes, preempts nobody, as the model assumes."""
    for point in CONFIG.raw["throughput"]["points"]:
        if "kv_tokens" in point:
            assert -(-point["input_len"] // BLOCK) == -(-(point["input_len"] + point["output_len"]) // BLOCK)


def test_speedups_are_recovered_from_the_base_alone(results):
    table = frame(results, "speedups.csv")
    speedups = table[table.quantity == "speedup"]
    assert len(speedups) == 5 * len(CONFIG.raw["throughput"]["points"])
    assert speedups.error.abs().median() < 0.01 and speedups.error.abs().max() < 0.03
    assert set(table.kind) == {"predicted"}
    text = (results / "predictions" / "speedups.md").read_text()
    assert "in the median" in text and "fitted to the base" in text


def test_map_keeps_the_laws(results):
    """Never slower, never beyond the layers that are left; more prompt per output token never gains less."""
    table = frame(results, "map.csv")
    assert len(table) == len(sweep.RATIOS) * len(sweep.LENGTHS) * len(sweep.REQUESTS) * 5
    cuts = {arm.name: SHAPE["num_hidden_layers"] / arm.cut for arm in benchmark_arms(CONFIG)}
    assert (table.speedup >= 1 - 1e-9).all() and (table.speedup <= table.arm.map(cuts)).all()
    rising = table.sort_values("ratio").groupby(["arm", "input_len", "num_requests"]).speedup
    assert rising.apply(lambda found: (found.diff().dropna() > -1e-3).all()).all()


def test_published_models_are_predicted_as_predictions(results):
    table = frame(results, "models.csv")
    assert set(table.kind) == {"predicted"} and set(table.model) == set(sweep.REPLICAS)
    assert (table[table.arm == "base"].speedup == 1).all()
    wide = table.pivot_table(index=["model", "input_len"], columns="arm", values="speedup")
    assert (wide.skip62 > wide.skip50).all() and (wide.skip50 > wide.skip25).all() and (wide.skip25 > 1.1).all()
    held = table.pivot_table(index=["model", "input_len"], columns="arm", values="at_once")
    assert (held["skip50-across4"] >= held.skip50).all() and (held["skip50-across4"] > held.base).any()


def test_memory_and_prefixes_act_as_they_should(results):
    """Where memory is short AcrossKV 4 beats plain SwiftKV; a longer cached prefix leaves less to gain."""
    table = frame(results, "speedups.csv").query("quantity == 'speedup'").set_index(["point", "arm"]).predicted
    for point in ("kv-p520-n4", "kv-p150-n11"):
        assert table[point, "skip50-across4"] > 1.15 * table[point, "skip50"]
    shares = [table[f"prefix{share}-p1280-n4", "skip50"] for share in (0, 50, 90)]
    assert shares[0] > shares[1] > shares[2] > 1


def test_figures(results, tmp_path):
    """Each says where it comes from and that part of it is predicted; all have one provenance."""
    plots.draw_all(CONFIG, tmp_path, root=results.parent, of_sweep=True)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(exhibits.SWEEP_FIGURES)
    for name in exhibits.SWEEP_FIGURES:
        svg = (tmp_path / f"{name}.svg").read_text()
        assert "results/sweep/" in svg and "predict" in svg.lower()
    record = json.loads((tmp_path / "sweep.provenance.json").read_text())
    assert any("predictions/speedups.csv" in path for path in record["data_sha256"])


def test_results_of_other_points_are_refused(results, tmp_path):
    other = RunConfig(CONFIG.raw | {"throughput": CONFIG.raw["throughput"] | {"points": [OTHER]}}, "")
    with pytest.raises(UserError, match="point 'r1-p128-n4' is not in the configuration"):
        sweep.run(other, results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_calibrated_machine_keeps_its_curve():
    """A fit scales narrow and wide steps, and what lies between by the logarithm of the tokens."""
    start = Machine("x", (1.0, 16.0, 64.0, 256.0, 2048.0), (1e9, 2e9, 3e9, 4e9, 5e9), 1e9, 1e9, 1e9, 1e-3)
    found = predict.adjusted(start, 2.0, 0.25, 0.1, 3.0, 4.0)
    assert found.flops == pytest.approx((0.5e9, 1e9, 3e9, 8e9, 10e9))
    assert (found.attention, found.bandwidth, found.overhead_s) == pytest.approx((1e9, 3e9, 4e-3))
    assert roofline.cost(SHAPE, 8, 1, found).attention_rate == pytest.approx(1e9)
