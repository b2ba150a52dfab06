"""The stages of a GPU machine: every command parses, limits and resuming hold, and the rehearsal's first stages run."""

import os
import shutil
import subprocess
from functools import partial

import pandas as pd
import pytest

from swiftkv.bench.plan import throughput_plan
from swiftkv.config import ROOT, load_config
from swiftkv.planning import memory_plan
from tests.helpers.config import make_config
from tests.helpers.recorded import noted, parse, recorded

SCALES = ("h200", "h100", "h200-short", "h200-dense", "h200-rehearsal")
run = partial(recorded, "h200.sh")


@pytest.fixture
def project(tmp_path):
    """A folder with the script and the configurations, and `python3` and `swiftkv` that only note their arguments."""
    for name in ("benchmarks", "config"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_parses(project, scale):
    done = run(project, scale)
    assert done.returncode == 0, done.stdout + done.stderr
    parsed = [parse(words) for words in noted(project)]
    config = load_config(ROOT / "config" / f"{scale}.yaml")
    assert parsed.count("accuracy") == len(config.accuracy_arms)
    assert parsed.count("convert") == len(config.accuracy.undistilled)
    assert {"correctness", "throughput", "decode_profile", "distill_recipe"} <= {*parsed}
    assert {"fetch-base", "distill", "verify", "diagnose", "tables"} <= {*parsed}
    recipe = next(words for words in noted(project) if words[1].endswith("distill_recipe.py"))
    hidden = int(recipe[recipe.index("--shape") + 1])
    assert hidden == (64 if scale == "h200-rehearsal" else 2048), "a CPU rehearses the large one for hours"


def test_finished_stages_are_skipped_and_failed_ones_tried_again(project):
    first = run(project, "h200", "throughput", "similarity", then='[ "$1" != similarity ] || { echo broken; exit 3; }')
    assert first.returncode == 1 and "similarity: failed (3): broken" in first.stdout
    second = run(project, "h200", "throughput", "similarity")
    assert second.returncode == 0 and "throughput: finished before" in second.stdout
    assert [words[1] for words in noted(project)] == ["throughput", "similarity", "similarity"]


def test_a_stage_ends_at_the_limit_and_the_next_does_not_begin(project):
    done = run(project, "h200", "throughput", "similarity", then="sleep 60", LIMIT_S="6")
    assert done.returncode == 1
    assert "throughput: time is up" in done.stdout and "similarity: not begun" in done.stdout


def test_pack_holds_results_and_rounds_but_no_weights(project):
    results = project / "results" / "h200"
    kept = {"models/base/training.json", "work/throughput/a.json", "logs/throughput.done"}
    left = {"models/base/model.safetensors", "work/base/text.npy", "logs/base.done", "pack/results.tar.xz.07"}
    for name in kept | left:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("x")
    assert run(project, "h200", "none").returncode == 0
    listed = subprocess.run(
        f"cat {results}/pack/results.tar.xz.* | tar -tJ", shell=True, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(listed) == {f"results/h200/{name}" for name in {*kept, "config.yaml"}}


@pytest.mark.parametrize(("scale", "gib"), [("h200", 141), ("h200-short", 141), ("h200-dense", 141), ("h100", 80)])
def test_every_stage_fits_the_gpu(scale, gib):
    config = load_config(ROOT / "config" / f"{scale}.yaml")
    assert memory_plan.show(config, None, gib)
    if scale == "h200-short":  # of five engines nvidia-smi said 112.4 GiB on an H200
        batch = config.raw["throughput"]["points"][0] | {"output_len": 256, "num_requests": 64}
        measured = make_config({"throughput": {"controls": [], "points": [batch]}}, of=scale)
        assert memory_plan.throughput(measured).each == pytest.approx(112.4 * 2**30, rel=0.02)


@pytest.mark.parametrize("scale", ["h200", "h100"])
def test_fp8_and_little_memory_get_engines_of_their_own(scale):
    config = load_config(ROOT / "config" / f"{scale}.yaml")
    engine_sets = throughput_plan(config).engine_sets
    default, fp8, small = (engines.settings for engines in engine_sets)
    assert [settings.kv_cache_dtype for settings in (default, fp8, small)] == ["auto", "fp8", "auto"]
    assert [[point.name for point in engines.points] for engines in engine_sets[1:]] == [
        ["fp8-10to1", "fp8-prompt-only", "fp8-decode-32"],
        ["memory-20gb"],
    ]
    assert small.kv_memory_bytes == pytest.approx(20e9 - 16.06e9 - 1e9, rel=0.05)


def test_rehearsal_trains_and_distils(project):
    """Without compiling, which takes a CPU minutes."""
    results = project / "results" / "h200-rehearsal"
    command = ["bash", project / "benchmarks" / "h200.sh", "h200-rehearsal", "base", "distill"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(pd.read_csv(results / "logs" / "stages.tsv", sep="\t", header=None)[2]) == {0}
    config = load_config(ROOT / "config" / "h200-rehearsal.yaml")
    assert all((results / "models" / v.name / "model.safetensors").is_file() for v in config.variants)
    assert list((results / "pack").iterdir())
