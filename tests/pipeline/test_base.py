"""The rule `base` on a GGUF file: another file in its place reruns it, and a base from elsewhere has no inputs."""

import os
import shutil
import subprocess

import pytest
import yaml

from swiftkv.config import ROOT
from tests.helpers.gguf_files import tiny_model, write_gguf

TARGET = "results/tiny/models/base"


def snakemake(place, *options: str) -> str:
    """What Snakemake says about the base in the directory `place`."""
    command = ["snakemake", "--cores", "1", "--configfile", place / "tiny.yaml", "--directory", place, *options, TARGET]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def configure(place, **base) -> None:
    raw = {"extends": str(ROOT / "config" / "smoke.yaml"), "scale": "tiny", "base": base}
    (place / "tiny.yaml").write_text(yaml.safe_dump(raw))


@pytest.mark.pipeline
def test_another_file_reruns_the_base(tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer)
    configure(tmp_path, source="local", path=str(path))
    snakemake(tmp_path, "--quiet", "all", "--")
    weights = tmp_path / TARGET / "model.safetensors"
    first = weights.read_bytes()
    assert "Nothing to be done" in snakemake(tmp_path, "-n", "--")
    write_gguf(path, tiny_model("llama", seed=1), tiny_tokenizer)
    os.utime(path)
    snakemake(tmp_path, "--quiet", "all", "--")
    assert weights.read_bytes() != first


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "generation_config.json"])
def test_whatever_a_base_is_made_of_reruns_it(tiny_base, tmp_path, name):
    """A template that was put right, for instance."""
    model = shutil.copytree(tiny_base, tmp_path / "model")
    (model / name).touch()
    configure(tmp_path, source="local", path=str(model))
    plan = snakemake(tmp_path, "-n", "--")
    assert str(model / name) in plan.split("rule base:")[1].split("output:")[0]


def test_a_package_is_no_input(tmp_path):
    configure(tmp_path, source="package", path="tiny-model==1.0", sha256="0" * 64)
    plan = snakemake(tmp_path, "-n", "--")
    assert "rule base:" in plan and "input:" not in plan.split("rule base:")[1].split("output:")[0]
