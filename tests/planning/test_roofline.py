"""The roofline: its FLOPs are torch's count of real models and sum to the cost model's, its speed-ups hold up against
what was measured, and calibration writes what the prediction reads."""

import inspect
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import costmodel
from swiftkv.audit.verify_results import config_of_run
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.planning import calibration, checked, predict, roofline, simulator
from swiftkv.planning.predict import Observation, Workload
from swiftkv.planning.simulator import rate_at, step_parts
from tests.helpers.models import TINY_SHAPE

MACHINE = roofline.Machine("test", (1.0,), (1e9,), 1e8, 1e8, 1e9, 1e-3)
REFERENCE = ROOT / "results" / "reference" / "epyc-2-cores"
H200 = ROOT / "results" / "reference" / "h200" / "h200-short"


def counted(run) -> int:
    """FLOPs of `run()` by torch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def load(directory):
    from transformers import AutoModelForCausalLM

    import swiftkv.modeling  # noqa: F401 (registers the SwiftKV classes)

    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()


def step_flops(cut: int, group: int, *sizes: int) -> int:
    cost = roofline.cost(TINY_SHAPE, cut, group, MACHINE)
    return sum(step_parts(cost, *sizes))


def early_exit(model, ids):
    """Prefill as an engine runs it: layers 1..l and every group's K, V for all tokens, later layers for the last."""
    import torch

    from swiftkv.modeling.decoder import SharedKV

    inner, cut = model.model, model.config.num_key_value_layers
    states = inner.embed_tokens(ids)
    rope = inner.rotary_emb(states, torch.arange(ids.shape[1])[None])
    for layer in inner.layers[:cut]:
        states = layer(states, position_embeddings=rope)
    shared = SharedKV(inner.norm_swiftkv, rope)
    shared.cut(states)
    last, last_rope = states[:, -1:], tuple(part[:, -1:] for part in rope)
    for layer in inner.layers[cut:]:
        last = layer(last, position_embeddings=last_rope, shared_kv=shared)
    return model.lm_head(inner.norm(last))


@pytest.mark.parametrize(("cut", "group"), [(8, 1), (4, 2)])
def test_flops_of_prefill_and_decode_are_torchs(tiny_base, tiny_student, cut, group):
    """torch counts the full square of a prompt's attention where the model counts what a token sees (causal)."""
    import torch
    from transformers import DynamicCache

    length, model = 40, load(tiny_base if cut == 8 else tiny_student)
    ids = torch.arange(length)[None] % 300
    prefill = (lambda: early_exit(model, ids)) if cut < 8 else lambda: model(ids, logits_to_keep=1)
    assert counted(prefill) == pytest.approx(step_flops(cut, group, length, 1, length**2, length), rel=0.01)
    cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    decode = counted(lambda: model(ids[:, :1], past_key_values=cache))
    assert decode == pytest.approx(step_flops(cut, group, 1, 1, length + 1, length + 1), rel=0.01)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([(8, 1), (4, 1), (4, 2), (1, 7)]))
def test_steps_sum_to_the_request(prompt, output, variant):
    """However a request is cut into steps, its FLOPs are the cost model's."""
    steps = [(prompt, 1, costmodel.positions(0, prompt), prompt)]
    steps += [(1, 1, prompt + i, prompt + i) for i in range(1, output)]
    whole = costmodel.workload_flops(TINY_SHAPE, *variant, prompt, output)["total"]
    assert sum(step_flops(*variant, *step) for step in steps) == pytest.approx(whole)


def test_decode_step_by_hand():
    """Llama-3.1-8B alone on an H100: 15 GB of weights and 131 kB per position at 2.68 TB/s, plus 2 ms."""
    cost = roofline.cost(costmodel.LLAMA_8B, 32, 1, roofline.gpu("H100"))
    read = 2 * 7.5e9 + 1000 * 128 * 1024  # parameters without the embedding; 128 KiB of KV per token
    decode = simulator.step_seconds(cost, 1, 1, 1000, 1000, 1000, 1000)
    assert decode == pytest.approx(0.002 + read / (0.8 * 3.35e12), rel=0.01)
    flops = costmodel.workload_flops(costmodel.LLAMA_8B, 32, 1, 4000, 1)["total"]
    prefill = simulator.step_seconds(cost, 4000, 1, costmodel.positions(0, 4000), 4000, 4000, 4000)
    assert prefill == pytest.approx(0.002 + flops / (0.4 * 989e12), rel=0.01)


@settings(max_examples=25)
@given(st.integers(1, 2000), st.integers(1, 100), st.integers(1, 8), st.sampled_from([(4, 1), (4, 2), (1, 7)]))
def test_speedup_is_between_one_and_the_layers(prompt, output, count, variant):
    load = Workload(prompt, output, count, 256)
    base, student = (predict.predict(TINY_SHAPE, *arm, load, MACHINE) for arm in ((8, 1), variant))
    assert 1 - 1e-9 <= base.elapsed_s / student.elapsed_s <= TINY_SHAPE["num_hidden_layers"] / variant[0]


def test_rate_follows_the_tokens():
    """Between two measured counts the rate is linear, outside it is the nearest."""
    curve = np.array([10.0, 20.0]), np.array([100.0, 300.0])
    assert [rate_at(tokens, *curve) for tokens in (1, 10, 15, 20, 99)] == [100, 100, 200, 300, 300]


def test_fit_finds_the_machine_it_was_made_from():
    loads = [Workload(500, 1, 4, 512), Workload(100, 50, 8, 512), Workload(64, 64, 1, 512)]
    truth = roofline.Machine("truth", (1.0,), (3e9,), 2e8, 2e8, 1e9, 4e-3)
    made = [predict.predict(TINY_SHAPE, 8, 1, one, truth) for one in loads]
    seen = [Observation(one, "elapsed_s", result.elapsed_s) for one, result in zip(loads, made, strict=True)]
    seen += [Observation(loads[2], "tpot_s", made[2].tpot_s)]
    found = predict.fit(TINY_SHAPE, seen)
    for one, result in zip(loads, made, strict=True):
        assert predict.predict(TINY_SHAPE, 8, 1, one, found).elapsed_s == pytest.approx(result.elapsed_s, rel=0.01)
    assert found.flops[-1] == pytest.approx(3e9, rel=0.05)
    overhead = predict.fit(TINY_SHAPE, seen, machine=replace(truth, overhead_s=0.0)).overhead_s
    assert overhead == pytest.approx(4e-3, rel=0.02)


def errors_of(run: str, path=None) -> pd.DataFrame:
    """Absolute errors of what is predicted for a committed run, fitted to its base alone."""
    table = checked.check(config_of_run(REFERENCE / run, path), REFERENCE / run)[0]
    return table.assign(off=table["error"].abs())


def test_measured_speedups_are_predicted():
    """What docs/results/costmodel.md says of the committed runs."""
    table = pd.concat([errors_of("cpu"), errors_of("prefill-2000", ROOT / "config" / "prefill-2000.yaml")])
    batch, alone = (table.off[(table.quantity == "speedup") == wanted] for wanted in (True, False))
    assert (len(batch), len(alone)) == (18, 16)
    assert batch.median() <= 0.02 and batch.max() <= 0.05
    assert alone.median() <= 0.01 and alone.max() <= 0.05


def test_the_sweep_is_predicted():
    found = errors_of("sweep").query("quantity == 'speedup'").off
    assert len(found) == 110 and found.median() <= 0.025
    assert found.max() <= 0.12


def test_an_h200_is_predicted():
    """Llama-3.1-8B's shape, learned from the base alone; TTFT of one request scattered there."""
    table = checked.check(config_of_run(H200, None), H200)[0]
    off = table["error"].abs().groupby(table.quantity)
    assert off.size()["speedup"] == 20 and off.median()["speedup"] <= 0.005 and off.max()["speedup"] <= 0.017
    assert off.size()["tpot_ratio"] == 4 and off.max()["tpot_ratio"] <= 0.031


def test_predictions_are_better_than_guesses_that_need_no_machine():
    """Points that the fit has not seen included; docs/results/costmodel.md has these lines."""
    config = config_of_run(REFERENCE / "cpu", None)
    run = checked.MeasuredRun.read(config, REFERENCE / "cpu")
    predicted = run.compared(run.machine()).query("quantity == 'speedup'").error.abs()
    held_out = run.held_out().error.abs()
    flops, nothing = (
        run.guessed(guess).query("quantity == 'speedup'").error.abs()
        for guess in (checked.FLOPS, checked.NOTHING_CHANGES)
    )
    assert len(predicted) == len(held_out) == len(flops) == 15
    assert predicted.median() < flops.median() / 3 and held_out.median() < flops.median() / 2 < nothing.median()
    lines = checked.compare_guesses(config, REFERENCE / "cpu")
    assert [line.split(":")[0] for line in lines] == [
        "speedup, the point left out of the fit",
        *(
            f'{quantity}, by the guess "{guess}"'
            for guess in (checked.FLOPS, checked.NOTHING_CHANGES)
            for quantity in checked.RATIOS
        ),
    ]


def test_bias_has_a_sign_and_errors_of_either_sign_cancel_in_it():
    rows = pd.DataFrame({"error": [0.1, 1 / 1.0999 - 1]})
    assert checked.error_lines([("x", rows)], "ratios") == [
        "x: 2 ratios, error 9.5% in the median, 10.0% at worst, bias +0.0%"
    ]
    assert "bias -9.1%" in checked.error_lines([("x", rows[1:])], "ratios")[0]


def test_calibration_is_what_prediction_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "STREAM_BYTES", 2**20)
    monkeypatch.setattr(calibration, "TOKENS", (1, 8))
    config = load_config()
    small = type(config)({**config.raw, "throughput": {**config.raw["throughput"], "model": TINY_SHAPE}}, "test")
    found = calibration.run(small, tmp_path / "here.json", "float32", seconds=0.01)
    assert {(row["projection"], row["tokens"]) for row in found["matmul"]} == {
        (name, tokens) for name in calibration.projections(TINY_SHAPE) for tokens in (1, 8)
    }
    machine = roofline.calibrated(tmp_path / "here.json", 0.001)
    assert machine.kind == roofline.MEASURED and machine.tokens == (1.0, 8.0)
    assert (tmp_path / "here.json.provenance.json").is_file()
    with pytest.raises(UserError, match="int3"):
        calibration.run(small, tmp_path / "x.json", "int3")


@pytest.mark.parametrize(
    ("content", "match"), [("{", "not valid JSON"), ("[]", "calibrate"), ('{"model_flops": []}', "calibrate")]
)
def test_bad_calibration_file(tmp_path, content, match):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UserError, match=match):
        roofline.calibrated(path)


def test_calibration_of_zero_is_refused(tmp_path):
    rates = {"read_bandwidth": 0, "kv_write_bandwidth": 1, "memory_bytes": 1, "device": "x"}
    (tmp_path / "zero.json").write_text(json.dumps(rates | {"model_flops": [{"tokens": 1, "flops": 1}]}))
    with pytest.raises(UserError, match="above 0"):
        roofline.calibrated(tmp_path / "zero.json")


def test_gpu_table_has_every_peak():
    from swiftkv.costmodel.training import PEAKS

    assert roofline.GPU_MEMORY.keys() == PEAKS.keys()
    assert roofline.gpu("h100").name == "H100 80GB HBM3"
    for name in ("V100", ""):
        with pytest.raises(UserError, match="H200"):
            roofline.gpu(name)


def test_the_command_states_the_defaults():
    from swiftkv.commands.planning import plan
    from swiftkv.planning.capacity import Scenario

    given = {name: parameter.default for name, parameter in inspect.signature(plan).parameters.items()}
    assert (given["efficiency"], given["overhead"]) == (roofline.EFFICIENCY, roofline.OVERHEAD_S)
    assert given["bandwidth_efficiency"] == roofline.BANDWIDTH_EFFICIENCY
    options = asdict(Scenario())
    assert options.pop("gpus") == given["gpus_per_replica"]
    assert options == {name: given[name] for name in options}


@pytest.mark.parametrize(
    "change", [{"flops": (float("nan"),)}, {"bandwidth": 0.0}, {"overhead_s": -1.0}, {"flops": ()}]
)
def test_machine_of_no_speed_is_refused(change):
    with pytest.raises(UserError, match="machine test"):
        replace(MACHINE, **change)


def test_check_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        checked.check(load_config(), Path("nowhere"))
    (tmp_path / "throughput").mkdir()
    for content, match in (("", "not a table"), ("arm,point\nbase,x\n", "input_len")):
        (tmp_path / "throughput" / "summary.csv").write_text(content)
        with pytest.raises(UserError, match=match):
            checked.check(load_config(), tmp_path)
    with pytest.raises(UserError, match="point 'ratio-10to1' is not in"):
        checked.check(load_config(ROOT / "config" / "prefill-2000.yaml"), REFERENCE / "cpu")
