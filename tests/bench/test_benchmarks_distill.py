"""The distillation benchmarks: both sides compute the same, or nothing is timed; memory is counted right."""

from collections import Counter
from statistics import geometric_mean

import distill_recipe
import loss_memory
import pytest
import torch

from swiftkv import files
from swiftkv.costmodel.memory import CHUNK_ELEMENTS
from swiftkv.errors import UserError

SMALL = {"rows": 2, "length": 24, "answers": 0.3, "repeats": 3, "shape": None}


@pytest.fixture(scope="module")
def batch():
    return distill_recipe.random_batch(2, 24, 0.3, 300, 0)


@pytest.fixture
def recipe(tiny_base, tmp_path):
    config = distill_recipe.config_of([0.5], 1.0)
    teacher = distill_recipe.ours(config, tiny_base, tmp_path / "work").teacher
    return distill_recipe.recipes(config, tiny_base, teacher, tmp_path)[0]


def compare(tiny_base, tmp_path, batch, hidden_loss):
    config = distill_recipe.config_of([0.25, 0.5], hidden_loss)
    return distill_recipe.compare(config, tiny_base, tmp_path, [batch, batch])


# The recipe


@pytest.mark.parametrize("hidden_loss", [0.0, 1.0])
def test_first_step_of_both_sides_is_the_same(tiny_base, tmp_path, batch, hidden_loss):
    checks = compare(tiny_base, tmp_path, batch, hidden_loss)["check"]
    assert [found["variant"] for found in checks] == ["skip25", "skip50"]
    assert all(found["recipe_loss"] > 1e-3 for found in checks)


@pytest.mark.parametrize("hidden_loss", [0.0, 1.0])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda kl, error: (1.1 * kl, 1.1 * error),
        lambda kl, error: (2 * kl.detach() - kl, 2 * error.detach() - error),
        lambda kl, error: (kl * float("nan"), error),
    ],
    ids=["loss", "gradient", "nan"],
)
def test_nothing_is_timed_if_the_sides_differ(tiny_base, tmp_path, batch, monkeypatch, hidden_loss, wrong):
    right = distill_recipe.Recipe.losses
    monkeypatch.setattr(distill_recipe.Recipe, "losses", lambda self, batch: wrong(*right(self, batch)))
    monkeypatch.setattr(distill_recipe, "seconds", lambda work: pytest.fail("timed"))
    with pytest.raises(UserError, match=r"not timed, both sides differ: .*skip25"):
        compare(tiny_base, tmp_path, batch, hidden_loss)


def test_recipe_recomputes_late_layers_and_stops_at_the_cut(recipe, batch):
    calls = Counter()
    for number, layer in enumerate(recipe.student.model.layers):
        layer.input_layernorm.register_forward_hook(lambda *_, number=number: calls.update([number]))
    recipe.step(batch)
    assert calls == {layer: 1 if layer < 4 else 2 for layer in range(8)}


def test_recipe_trains_swiftkv_tensors_alone_and_shares_the_others(recipe, batch):
    before = {name: p.detach().clone() for name, p in recipe.student.named_parameters()}
    recipe.step(batch)
    shared = {p.data_ptr() for p in recipe.teacher.parameters()}
    for name, parameter in recipe.student.named_parameters():
        own = "swiftkv" in name
        assert torch.equal(parameter, before[name]) == (not own), name
        assert (parameter.data_ptr() in shared) == (not own), name


def test_random_rows_are_full_and_end_in_an_answer():
    made = distill_recipe.random_batch(50, 100, 0.3, 20, 1)
    assert made.input_ids.min() > distill_recipe.PAD
    assert made.input_ids.max() == 19
    assert made.answers[:, -1].all()
    assert made.answers.float().mean() == pytest.approx(0.3, abs=0.03)


def test_recipe_result_has_four_comparisons(tiny_base, tmp_path, capsys):
    out = tmp_path / "result.json"
    distill_recipe.main(base=tiny_base, out=out, alone=0.5, together=(0.25, 0.5, 0.75), **SMALL)
    made = files.read_json(out)["comparisons"]
    assert [(len(found["skips"]), found["losses"]) for found in made] == [
        (students, losses) for students in (1, 3) for losses in ("both", "logits")
    ]
    for found in made:
        ratios = [a / b for a, b in zip(*(found["seconds"][side] for side in ("recipe", "ours")), strict=True)]
        assert found["speedup"] == pytest.approx(geometric_mean(ratios))
        assert found["low"] <= found["speedup"] <= found["high"]
    assert (tmp_path / "result.json.provenance.json").is_file()
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 4}, "--repeats: 4 is not allowed"),
        ({"shape": (64, 96, 8, 3, 1, 300)}, "--shape: .* is not allowed"),
        ({"shape": (64, 96, 8, 4, 3, 300)}, "--shape: .* is not allowed"),
        ({"alone": 0.3}, "0.3 of 8 layers is not a whole number"),
    ],
)
def test_wrong_options_end_in_one_line(tiny_base, tmp_path, changes, message):
    options = SMALL | {"base": tiny_base, "alone": 0.5, "together": (0.25, 0.5, 0.75), "out": tmp_path / "result.json"}
    with pytest.raises(UserError, match=message) as error:
        distill_recipe.main(**options | changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "result.json").exists()


def test_a_random_base_is_a_base(tmp_path):
    directory = distill_recipe.random_base((64, 96, 8, 2, 1, 300), tmp_path / "base")
    assert distill_recipe.check_checkpoint(directory).num_key_value_heads == 1


# Memory


def test_live_bytes_follow_storages():
    given = torch.zeros(1000)
    with loss_memory.LiveBytes() as counted:
        made = given + 1  # 4000 bytes
        view = made[:10]
        made.mul_(2)
        given.add_(1)
        assert sum(counted.sizes.values()) == 4000
        del made
        assert sum(counted.sizes.values()) == 4000
        del view
        assert not counted.sizes
        kept = [torch.empty(500, dtype=torch.int64), torch.empty(500)]
        del kept
    assert counted.peak == 6000


@pytest.mark.parametrize("side", loss_memory.SIDES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_meta_tensors_count_the_same_as_real_ones(side, dtype, monkeypatch):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 500)
    shape = 100, 40, 8, dtype
    real, meta = (loss_memory.measure(side, *shape, device) for device in ("cpu", "meta"))
    assert real["peak_bytes"] == meta["peak_bytes"] > 0
    assert (real["allocated"], meta["allocated"]) == (True, False)


def test_both_sides_give_the_same_loss_and_gradient(monkeypatch):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 500)
    student, teacher, head = loss_memory.inputs(100, 40, 8, torch.float32, "cpu")
    losses = [side(student, teacher, head) for side in loss_memory.SIDES.values()]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses))


@pytest.mark.parametrize(
    ("shape", "device"), [((32_000, 1536, 16, "float32"), "cpu"), ((128_256, 8192, 4096, "bfloat16"), "meta")]
)
def test_the_loss_in_chunks_needs_at_most_an_eighth(shape, device):
    ours, full = loss_memory.measure("chunked", *shape, device), loss_memory.measure("materialised", *shape, "meta")
    assert 0 < ours["peak_bytes"] <= loss_memory.BOUND * full["peak_bytes"]


def test_too_much_memory_ends_in_one_line(tmp_path, monkeypatch):
    """Logits that fit in one chunk leave nothing to save."""
    monkeypatch.setattr(loss_memory, "alone", loss_memory.measure)
    out = tmp_path / "memory.json"
    with pytest.raises(UserError, match=r"loss_memory: the loss in chunks needs [0-9.]+ of what full logits need"):
        loss_memory.main(vocabulary=50, tokens=20, hidden=8, dtype="float32", allocate_gib=1.0, out=out)
    found = files.read_json(out)
    assert found["share"] > loss_memory.BOUND
    # The loss in chunks is a difference of numbers around 4, the entropy of 50 words.
    assert found["chunked"]["loss"] == pytest.approx(found["materialised"]["loss"], abs=1e-6)
    assert (tmp_path / "memory.json.provenance.json").is_file()
