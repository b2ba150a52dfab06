"""Trained tensors that lie apart from their base: handed on, taken up again, and refused where they do not fit."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swiftkv import files
from swiftkv.config import TRAINED, RunConfig
from swiftkv.distill import loop
from swiftkv.errors import UserError
from swiftkv.modeling import trained
from swiftkv.modeling.checkpoint import load_tensors
from swiftkv.release import trained_only
from tests.helpers.distillation import distill_config, make_batch

HALF = {"name": "half-across2", "skip": 0.5, "key_value_group_size": 2}
OTHER = {"name": "late", "skip": 0.25}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)


def stream(start: int):
    while True:
        yield make_batch(start)
        start += 1


def distil(config: RunConfig, base: Path, models: Path) -> list[dict]:
    """Distil into `models` and return the rows of the curve; a run of no steps asks for no data."""
    loop.run(config, base, models, models.parent / "work", stream=stream)
    return files.read_jsonl(models / "distill.jsonl")


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    return shutil.copytree(tiny_base, tmp_path_factory.mktemp("start") / "base")


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    """The students of a run of six steps, and the trained tensors of one of them in `handed`."""
    root = tmp_path_factory.mktemp("first")
    config = distill_config([HALF, OTHER], steps=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)
        distil(config, base, root / "models")
    trained_only.run(config, HALF["name"], root / "handed", root / "models" / HALF["name"], "float32")
    return root


def test_what_is_handed_on_is_what_was_trained(first):
    student = load_file(first / "models" / HALF["name"] / "model.safetensors")
    handed = load_file(first / "handed" / TRAINED)
    assert handed.keys() == {name for name in student if "_swiftkv" in name}
    assert all(torch.equal(tensor, student[name]) for name, tensor in handed.items())
    card = (first / "handed" / "README.md").read_text()
    tokens = files.read_jsonl(first / "models" / "distill.jsonl")[-1]["tokens"]
    assert "layers that prompt tokens run: 4 of 8" in card
    assert f"trained on {tokens:,} tokens in all" in card


def test_with_no_steps_the_student_is_the_one_that_was_handed_on(base, first, tmp_path):
    config = distill_config([HALF | {"start": str(first / "handed"), "distill": {"steps": 0}}, OTHER], steps=0)
    assert distil(config, base, tmp_path / "models") == []
    for name, tensor in load_file(first / "models" / HALF["name"] / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "models" / HALF["name"] / "model.safetensors")[name], tensor), name
    record = files.read_json(tmp_path / "models" / "distill.jsonl.provenance.json")
    assert record["started_from"][HALF["name"]]["steps"] == 6
    assert any(path.endswith(f"handed/{TRAINED}") for path in record["data_sha256"])


def test_training_goes_on_from_there_and_counts_all_tokens(base, first, tmp_path):
    before = [row for row in files.read_jsonl(first / "models" / "distill.jsonl") if row["variant"] == HALF["name"]]
    config = distill_config([HALF | {"start": str(first / "handed")}], steps=2)
    rows = distil(config, base, tmp_path / "models")
    assert rows[0]["kl"] < before[0]["kl"], "it begins where the other ended, on the same first batch"
    trained_only.run(config, HALF["name"], tmp_path / "handed", tmp_path / "models" / HALF["name"])
    of = trained.about(trained.content_sha256(base), 4, 2)
    tensors = load_file(tmp_path / "handed" / TRAINED)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    _, record = trained.read(tmp_path / "handed" / TRAINED, of, shapes)
    assert record["tokens"] == before[-1]["tokens"] + rows[-1]["tokens"]
    assert record["earlier"]["steps"] == 6
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_another_start_is_another_training(base, first, tmp_path, capsys):
    plain = distill_config([HALF], steps=2)
    distil(plain, base, tmp_path / "models")
    distil(distill_config([HALF | {"start": str(first / "handed")}], steps=2), base, tmp_path / "models")
    assert "resumed" not in capsys.readouterr().out


def altered(source: Path, target: Path, **metadata) -> str:
    """A copy of trained tensors with other metadata, or without one of the tensors."""
    target.mkdir()
    tensors, said = load_file(source / TRAINED), {"format": "pt", "num_key_value_layers": "4"}
    said |= {"base_sha256": metadata.pop("base_sha256"), "key_value_group_size": "2"} | metadata
    if "drop" in said:
        del tensors[said.pop("drop")]
    save_file(tensors, target / TRAINED, metadata=said)
    return str(target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_sha256": "0" * 64}, "trained with base_sha256 000"),
        ({"num_key_value_layers": "6"}, "trained with num_key_value_layers 6, but this student has 4"),
        ({"key_value_group_size": "4"}, "trained with key_value_group_size 4"),
        ({"drop": "model.norm_swiftkv.weight"}, r"tensor model.norm_swiftkv.weight is None, expected \[64\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(base, first, tmp_path, change, message):
    start = altered(first / "handed", tmp_path / "other", **{"base_sha256": trained.content_sha256(base)} | change)
    with pytest.raises(UserError, match=message):
        distil(distill_config([HALF | {"start": start}], steps=0), base, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_start_that_is_not_there_or_damaged_is_named(base, first, tmp_path):
    config = distill_config([HALF | {"start": str(tmp_path)}], steps=0)
    with pytest.raises(UserError, match=r"variants.half-across2.start: .* holds no trained.safetensors; `swiftkv exp"):
        distil(config, base, tmp_path / "models")
    (tmp_path / TRAINED).write_bytes((first / "handed" / TRAINED).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"trained.safetensors: truncated or not a safetensors file"):
        distil(config, base, tmp_path / "models")


def test_only_trained_students_are_handed_on(base, first, tmp_path):
    config = distill_config([HALF], steps=0)
    distil(config, base, tmp_path / "models")
    with pytest.raises(UserError, match="no record of a training of half-across2"):
        trained_only.run(config, HALF["name"], tmp_path / "out", tmp_path / "models" / HALF["name"])
    whole = distill_config([HALF | {"distill": {"train": "layers"}}], steps=2)
    distil(whole, base, tmp_path / "all")
    with pytest.raises(UserError, match="all its layers were trained; export the whole student"):
        trained_only.run(whole, HALF["name"], tmp_path / "out", tmp_path / "all" / HALF["name"])
    assert not (tmp_path / "out").exists()


def test_the_content_hash_is_that_of_the_tensors(base, tmp_path):
    one = trained.content_sha256(base)
    tensors = {name: tensor.clone() for name, tensor in load_tensors(base).items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "said": "otherwise"})
    assert trained.content_sha256(tmp_path) == one
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert trained.content_sha256(tmp_path) != one
