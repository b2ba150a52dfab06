"""Distillation: loss, selection, shared weights, and that a run learns, resumes, and fails clearly."""

import dataclasses
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from swiftkv import files
from swiftkv.config import SwiftKVVariant
from swiftkv.config.training import Distill
from swiftkv.distill import attention, loop
from swiftkv.distill.data import documents, select
from swiftkv.distill.loop import Options
from swiftkv.distill.loss import Targets, kl_sum
from swiftkv.distill.parallel import World
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.distill.trainee import Trainee, rate_at
from swiftkv.errors import UserError
from swiftkv.modeling.convert import convert
from swiftkv.workloads.stream import Batch
from tests.helpers.distillation import PAD, SETTINGS, VARIANTS, distill_config, make_batch, plain_varlen


def recipe(**changes) -> Distill:
    return Distill(**SETTINGS | changes)


def stream(start: int):
    while True:
        yield make_batch(start)
        start += 1


def distil(config, base, out, work, **more):
    loop.run(config, base, out, work, stream=more.pop("stream", stream), **more)
    return files.read_jsonl(out / "distill.jsonl")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Full precision, so that tests mean the same on every CPU; one test below uses bfloat16."""
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)


@pytest.fixture
def teacher(tiny_base):
    return Teacher(tiny_base, World())


def look(teacher, data, *students):
    """One pass that keeps what the students need."""
    return teacher.run(data, set().union(*(student.kept_layers for student in students)))


# Selection


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["answers", "all"]), st.booleans())
def test_selection_is_what_a_loop_would_choose(seed, loss_on, every_position):
    data = make_batch(seed, rows=4, length=12)
    texts = documents(data)
    chosen = select(texts, loss_on, every_position)
    run, wanted, begins = [], [], [0]
    for row, real in enumerate(data.lengths.tolist()):
        mine = [t for t in range(real - 1) if loss_on == "all" or data.answers[row, t + 1]]
        wanted += [begins[-1] + t for t in mine]
        run += [begins[-1] + t for t in (range(real) if every_position else mine)]
        begins.append(begins[-1] + real)
    assert chosen.index.tolist() == run
    assert chosen.index[chosen.loss].tolist() == wanted
    assert texts.bounds == tuple(begins)


def test_padding_that_is_the_end_of_sequence_token_hides_no_token():
    """Llama 3.x has no other: the last token of a row is that of its padding, and is trained on all the same."""
    ids, answers = torch.tensor([[5, 6, 7, 1, 1, 1]]), torch.tensor([[False, False, True, True, False, False]])
    chosen = select(documents(Batch(ids, answers, torch.tensor([4]))), "all", True)
    assert chosen.index.tolist() == [0, 1, 2, 3]
    assert chosen.index[chosen.loss].tolist() == [0, 1, 2]


def packed_batch() -> tuple[Batch, list[Batch]]:
    """A row of three documents with padding behind, and each document in a row of its own."""
    ids = torch.randint(2, 300, (1, 12), generator=torch.Generator().manual_seed(5))
    ids[0, 10:] = PAD
    answers = torch.zeros(1, 12, dtype=torch.bool)
    answers[0, [2, 5, 6, 8, 9]] = True
    ends = [(0, 3), (3, 7), (7, 10)]
    places = torch.cat([torch.arange(b - a) for a, b in [*ends, (10, 12)]])[None]
    alone = [Batch(ids[:, a:b], answers[:, a:b], torch.tensor([b - a])) for a, b in ends]
    return Batch(ids, answers, torch.tensor([10]), places), alone


@pytest.mark.parametrize("loss_on", ["answers", "all"])
@pytest.mark.parametrize("train", ["qkv", "layers"])
def test_documents_of_a_packed_row_do_not_see_each_other(teacher, loss_on, train):
    settings = recipe(loss_on=loss_on, hidden_loss=0.5, train=train)
    student = Student(SwiftKVVariant("half", 0.5, 2), teacher, settings)
    together, alone = packed_batch()
    got = student.sums(look(teacher, together, student))
    single = [student.sums(look(teacher, data, student)) for data in alone]
    assert got.kl > 0.005
    torch.testing.assert_close(got.kl, sum(one.kl for one in single), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.squares, sum(one.squares for one in single), rtol=1e-4, atol=1e-5)
    assert got.agreeing == sum(one.agreeing for one in single)


# Loss


def head_of(vocab, size):
    return torch.nn.Linear(size, vocab, bias=False).requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_chunked_loss_and_gradient_equal_the_plain_ones(rows, temperature):
    torch.manual_seed(rows)
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    head = head_of(11, 5)
    plain = student.detach().clone().requires_grad_()
    p = F.softmax(head(teacher) / temperature, -1)
    q = F.softmax(head(plain) / temperature, -1)
    expected = temperature**2 * (p * (p / q).log()).sum()
    (3 * expected).backward()
    kl, agreeing = kl_sum(student, Targets(teacher, head, temperature, rows))
    (3 * kl).backward()
    torch.testing.assert_close(kl, expected)
    torch.testing.assert_close(student.grad, plain.grad)
    assert agreeing == (head(student).argmax(-1) == head(teacher).argmax(-1)).sum()


def test_loss_is_zero_for_the_teacher_itself_and_finite_for_extreme_logits():
    head, states = head_of(11, 5), torch.randn(4, 5)
    kl, agreeing = kl_sum(states, Targets(states, head, 2.0))
    assert kl == pytest.approx(0.0, abs=1e-5)
    assert agreeing == 4
    kl, _ = kl_sum(states * 1e4, Targets(-states * 1e4, head, 2.0))
    assert math.isfinite(kl)
    assert kl > 100


def test_full_logits_never_exist_at_once():
    seen, head = [], head_of(11, 5)
    head.register_forward_hook(lambda _, args, output: seen.append(len(output)))
    kl_sum(torch.randn(10, 5), Targets(torch.randn(10, 5), head, 2.0, rows=4))
    assert max(seen) == 4


def test_no_loss_position_gives_zero_with_a_gradient():
    student = torch.randn(0, 5, requires_grad=True)
    kl, _ = kl_sum(student, Targets(torch.randn(0, 5), head_of(11, 5), 2.0))
    kl.backward()
    assert kl == 0


# Students


@pytest.mark.parametrize(("skip", "group"), [(0.25, 1), (0.5, 2), (0.5, 4), (0.875, 7)])
@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_losses_equal_a_full_run_of_the_exported_student(tiny_base, tmp_path, teacher, skip, group, loss_on):
    """The late half on a few positions gives the loss that whole models give, hidden-state loss included."""
    config = recipe(hidden_loss=0.5, loss_on=loss_on)
    student = Student(SwiftKVVariant("v", skip, group), teacher, config)
    convert(tiny_base, tmp_path / "student", student.cut, group)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    data = make_batch(3)
    got = student.sums(look(teacher, data, student))
    outputs = [m(data.input_ids, output_hidden_states=True) for m in (whole, teacher.model)]
    real = data.input_ids != PAD
    target = (data.answers if loss_on == "answers" else real)[:, 1:]
    logs = [F.log_softmax(output.logits[:, :-1][target] / 2, -1) for output in outputs]
    kl = 4 * F.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")
    hidden = F.mse_loss(*(output.hidden_states[-2][real] for output in outputs))
    assert kl > 0.005
    torch.testing.assert_close(got.kl / int(target.sum()), kl, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.squares / (int(real.sum()) * 64), hidden, rtol=1e-4, atol=1e-6)
    student.recipe = recipe(hidden_loss=0.0, loss_on=loss_on)  # runs the loss positions alone
    again = student.sums(look(teacher, data, student))
    torch.testing.assert_close(again.kl, got.kl, rtol=1e-4, atol=1e-5)


def test_only_swiftkv_tensors_are_trained_and_frozen_memory_is_shared(teacher):
    students = [Student(SwiftKVVariant(**variant), teacher, recipe()) for variant in VARIANTS]
    base = {name: p.data_ptr() for name, p in teacher.model.named_parameters()}
    for student in students:
        for name, parameter in student.model.named_parameters():
            own = "swiftkv" in name
            assert (f"model.{name}" in student.trained) == own == parameter.requires_grad
            assert (parameter.data_ptr() == base.get(f"model.{name}")) == (not own), name


def test_gradients_reach_every_trained_tensor(teacher):
    for variant in VARIANTS:
        student = Student(SwiftKVVariant(**variant), teacher, recipe())
        student.sums(look(teacher, make_batch(0), student)).kl.backward()
        assert all(p.grad.abs().max() > 0 for p in student.trained.values())


class Moves(TorchFunctionMode):
    """Counts moves of tensors to a device, and keeps the shapes of those that would wait for it."""

    def __init__(self):
        super().__init__()
        self.waits, self.moves = [], 0

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function is torch.Tensor.to and any(isinstance(value, torch.device) for value in arguments):
            self.moves += 1
            if not named.get("non_blocking"):
                self.waits.append(tuple(arguments[0].shape))
        return function(*arguments, **named)


@pytest.mark.parametrize("way", ["one by one", "all at once"])
def test_no_step_waits_until_the_device_has_its_tokens(teacher, monkeypatch, way):
    """Otherwise a GPU stands idle at every micro-batch and view while the next work is thought of."""
    if way == "all at once":
        monkeypatch.setattr(attention, "varlen_kernel", plain_varlen)
        monkeypatch.setattr(attention, "fused", lambda *_: True)
    student = Student(SwiftKVVariant("half", 0.5, 2), teacher, recipe())
    with Moves() as moves:
        student.sums(look(teacher, make_batch(0), student)).kl.backward()
    assert moves.moves >= 5 and not moves.waits


@pytest.mark.parametrize("train", ["qkv", "layers"])
def test_recomputed_activations_give_the_same_gradients(teacher, train):
    gradients = []
    for recompute in (False, True):
        settings = recipe(hidden_loss=0.5, train=train)
        student = Student(SwiftKVVariant("half", 0.5, 2), teacher, settings, recompute)
        sums = student.sums(look(teacher, make_batch(0), student))
        (sums.kl + sums.squares).backward()
        gradients.append({name: p.grad for name, p in student.trained.items()})
    assert len(gradients[0]) == (9 if train == "qkv" else 70)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_full_fine_tuning_trains_a_copy_of_every_layer(teacher):
    student = Student(SwiftKVVariant("half", 0.5), teacher, recipe(train="layers"))
    base = {p.data_ptr() for p in teacher.model.parameters()}
    assert {name for name, p in student.model.named_parameters() if not p.requires_grad} == {"embed_tokens.weight"}
    assert not base & {p.data_ptr() for p in student.trained.values()}
    student.sums(look(teacher, make_batch(0), student)).kl.backward()
    assert all(p.grad.abs().max() > 0 for p in student.trained.values())


@pytest.mark.parametrize(("init", "expected"), [("group-mean", (4, 5)), ("first-layer", (4,)), ("cut-layer", (4,))])
def test_initial_k_and_v_are_the_chosen_ones(teacher, init, expected):
    student = Student(SwiftKVVariant("half", 0.5, 2), teacher, recipe(init=init))
    layers = teacher.model.model.layers
    for leader, members in ((4, expected), (6, {"group-mean": (6, 7), "first-layer": (6,), "cut-layer": (4,)}[init])):
        mean = torch.stack([layers[m].self_attn.k_proj.weight for m in members]).mean(0)
        torch.testing.assert_close(student.model.layers[leader].self_attn.k_proj_swiftkv.weight, mean)


# The loop


def test_rate_warms_up_and_falls_to_zero():
    rates = [rate_at(step, recipe(steps=100)) for step in range(101)]
    assert rates[:10] == pytest.approx([0.003 * (i + 1) / 10 for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.0015)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    line = [rate_at(step, recipe(steps=100, schedule="linear")) for step in (9, 10, 55, 100)]
    assert line == pytest.approx([0.003, 0.003, 0.0015, 0.0])


def held_out_kl(base, directory) -> float:
    data = make_batch(10_000)
    logs = [
        F.log_softmax(AutoModelForCausalLM.from_pretrained(path)(data.input_ids).logits, -1)[data.input_ids != PAD]
        for path in (directory, base)
    ]
    return F.kl_div(*logs, log_target=True, reduction="batchmean").item()


def test_a_run_brings_every_student_closer_and_leaves_frozen_weights(tiny_base, tmp_path):
    rows = distil(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work")
    frozen = load_file(tiny_base / "model.safetensors")
    for variant in VARIANTS:
        config = SwiftKVVariant(**variant)
        convert(tiny_base, tmp_path / "raw", config.num_key_value_layers(8), config.key_value_group_size)
        out = tmp_path / "out" / config.name
        assert held_out_kl(tiny_base, out) < 0.85 * held_out_kl(tiny_base, tmp_path / "raw")
        saved = load_file(out / "model.safetensors")
        assert all(torch.equal(saved[name], frozen[name]) for name in saved if "swiftkv" not in name)
        mine = [row for row in rows if row["variant"] == config.name]
        assert [row["step"] for row in mine] == list(range(1, 25))
        assert mine[-1]["kl"] < mine[0]["kl"]
    expected = {"step", "variant", "loss", "kl", "hidden", "learning_rate", "tokens", "seconds", "agreement"}
    expected |= {"gradient_norm"}
    assert set(rows[0]) == expected
    assert rows[-1]["tokens"] == sum(make_batch(i).tokens for i in range(24))
    assert (tmp_path / "out" / "distill.jsonl.provenance.json").is_file()


class Interrupted(Exception):
    pass


def stop_at(step):
    def interrupted(start):
        for index in range(start, step):
            yield make_batch(index)
        raise Interrupted

    return interrupted


@pytest.mark.parametrize("every", [0, 1e9])
def test_interrupted_and_resumed_equals_uninterrupted(tiny_base, tmp_path, monkeypatch, capsys, every):
    """With a checkpoint per step it goes on; without any it starts over; both end where a plain run ends."""
    plain = distil(distill_config(), tiny_base, tmp_path / "plain", tmp_path / "work1")
    monkeypatch.setattr(loop, "SAVE_EVERY_S", every)
    with pytest.raises(Interrupted):
        distil(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work2", stream=stop_at(11))
    assert not (tmp_path / "out").exists()
    resumed = distil(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work2")
    assert ("half resumed at step 11 of 24" in capsys.readouterr().out) == (every == 0)
    assert [row | {"seconds": 0} for row in resumed] == [row | {"seconds": 0} for row in plain]
    for variant in VARIANTS:
        one, two = (load_file(tmp_path / n / variant["name"] / "model.safetensors") for n in ("plain", "out"))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_changed_config_does_not_reuse_old_state(tiny_base, tmp_path, capsys):
    distil(distill_config(steps=3), tiny_base, tmp_path / "out", tmp_path / "work")
    distil(distill_config(steps=3, learning_rate=0.001), tiny_base, tmp_path / "out", tmp_path / "work")
    assert "resumed" not in capsys.readouterr().out
    distil(distill_config(steps=3, learning_rate=0.001), tiny_base, tmp_path / "out", tmp_path / "work")
    assert "half resumed at step 3 of 3" in capsys.readouterr().out


def test_students_do_not_influence_each_other(tiny_base, tmp_path):
    together = distil(distill_config(steps=4), tiny_base, tmp_path / "a", tmp_path / "wa")
    alone = distil(distill_config(VARIANTS[1:2], steps=4), tiny_base, tmp_path / "b", tmp_path / "wb")
    mine = [row | {"seconds": 0} for row in together if row["variant"] == "half"]
    assert mine == [row | {"seconds": 0} for row in alone]


def poison(monkeypatch, step: int, value: float):
    """Let the loss of student "half" be `value` from a step on."""
    whole = Student.sums
    seen = {"half": -1}

    def poisoned(self, passed):
        sums = whole(self, passed)
        seen[self.name] = seen.get(self.name, -1) + 1
        return dataclasses.replace(sums, kl=sums.kl * value) if self.name == "half" and seen["half"] >= step else sums

    monkeypatch.setattr(Student, "sums", poisoned)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"variant half: loss is nan at step 5"),
        (float("inf"), r"variant half: loss is inf at step 5"),
        (1e4, r"variant half: loss diverges: \d.* over the last 20 steps to step 19"),
    ],
)
def test_a_failing_student_is_dropped_and_the_others_go_on(tiny_base, tmp_path, monkeypatch, capsys, value, message):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0)
    plain = distil(distill_config(), tiny_base, tmp_path / "plain", tmp_path / "work1")
    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        poison(patch, 5, value)
        distil(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work2")
    assert "half: loss" in capsys.readouterr().out
    assert re.search(message.split(": ", 1)[1], files.read_json(tmp_path / "out" / "dropped.json")["half"])
    assert not (tmp_path / "out" / "half").exists()
    rows = files.read_jsonl(tmp_path / "out" / "distill.jsonl")
    others = [row["kl"] for row in plain if row["variant"] != "half"]
    assert [row["kl"] for row in rows if row["variant"] != "half"] == others
    if not math.isfinite(value):  # its last checkpoint was sound: the next run goes on from there, for it alone
        resumed = distil(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work2")
        assert "half resumed at step 5 of 24" in capsys.readouterr().out
        assert [row["kl"] for row in resumed] == [row["kl"] for row in plain]
        assert not (tmp_path / "out" / "dropped.json").exists()


def test_infinite_gradient_is_caught_before_the_update(teacher, tmp_path):
    trainee = Trainee(Student(SwiftKVVariant("half", 0.5), teacher, recipe()), "key", tmp_path)
    trained = trainee.student.trained
    before = {name: p.detach().clone() for name, p in trained.items()}
    next(iter(trained.values())).register_hook(lambda gradient: gradient * float("inf"))
    trainee.accumulate(look(teacher, make_batch(0), trainee.student), 1, 1)
    assert trainee.update(1, 1) is None
    assert trainee.dropped in ("gradient norm is nan at step 0", "gradient norm is inf at step 0")
    assert all(torch.equal(p, before[name]) for name, p in trained.items())


def test_a_damaged_checkpoint_says_so(tiny_base, tmp_path):
    distil(distill_config(steps=2), tiny_base, tmp_path / "out", tmp_path / "work")
    (path,) = (tmp_path / "work" / "half" / "step-2").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"half/step-2: damaged checkpoint .*delete"):
        distil(distill_config(steps=2), tiny_base, tmp_path / "out", tmp_path / "work")


def test_micro_batches_add_up_to_the_batch(tiny_base, tmp_path):
    whole = distil(distill_config(hidden_loss=0.3), tiny_base, tmp_path / "a", tmp_path / "wa")
    small = distil(
        distill_config(hidden_loss=0.3), tiny_base, tmp_path / "b", tmp_path / "wb", options=Options(96, recompute=True)
    )
    for one, two in zip(whole, small, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-6)


def test_a_micro_batch_without_answers_adds_nothing(tiny_base, tmp_path):
    """Its tokens are read, and no student has anything to learn from them."""

    def with_silence(start: int):
        for data in stream(start):
            again = [0, *range(len(data.lengths))]  # the first row once more, without its answers
            answers = data.answers[again]
            answers[0] = False
            yield Batch(data.input_ids[again], answers, data.lengths[again])

    plain = distil(distill_config(steps=3), tiny_base, tmp_path / "a", tmp_path / "wa", options=Options(32))
    more = distil(
        distill_config(steps=3), tiny_base, tmp_path / "b", tmp_path / "wb", stream=with_silence, options=Options(32)
    )
    assert [row["kl"] for row in more] == [row["kl"] for row in plain]


def test_settings_of_one_variant_change_it_alone(tiny_base, tmp_path):
    plain = distil(distill_config(steps=6), tiny_base, tmp_path / "a", tmp_path / "wa")
    late, half, across = VARIANTS
    changed = [late, half | {"distill": {"temperature": 1.0, "steps": 3, "loss_on": "all"}}, across]
    rows = distil(distill_config(changed, steps=6), tiny_base, tmp_path / "b", tmp_path / "wb")
    for name in ("late", "half-across4"):
        one, two = ([row["kl"] for row in found if row["variant"] == name] for found in (plain, rows))
        assert one == two
    mine = [row for row in rows if row["variant"] == "half"]
    assert [row["step"] for row in mine] == [1, 2, 3]
    assert mine[-1]["learning_rate"] == rate_at(2, recipe(steps=3))


def test_a_variant_added_later_trains_alone(tiny_base, tmp_path, capsys):
    distil(distill_config(VARIANTS[:2], steps=4), tiny_base, tmp_path / "a", tmp_path / "work")
    rows = distil(distill_config(steps=4), tiny_base, tmp_path / "b", tmp_path / "work")
    assert "half resumed at step 4 of 4" in capsys.readouterr().out
    plain = distil(distill_config(steps=4), tiny_base, tmp_path / "c", tmp_path / "other")
    assert [row["kl"] for row in rows] == [row["kl"] for row in plain]


def test_no_steps_gives_the_undistilled_student(tiny_base, tmp_path):
    assert distil(distill_config(steps=0), tiny_base, tmp_path / "out", tmp_path / "work") == []
    convert(tiny_base, tmp_path / "raw", 4, 4)
    one, two = (load_file(p / "model.safetensors") for p in (tmp_path / "raw", tmp_path / "out/half-across4"))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_variant_that_skips_nothing_is_written_untrained(tiny_base, tmp_path):
    variants = [{"name": "none", "skip": 0.0}, VARIANTS[1]]
    rows = distil(distill_config(variants, steps=2), tiny_base, tmp_path / "out", tmp_path / "work")
    assert {row["variant"] for row in rows} == {"half"}
    tokens = make_batch(0).input_ids
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (tiny_base, tmp_path / "out" / "none")]
    assert torch.equal(*(model(tokens).logits for model in models))


def test_the_task_stream_feeds_a_run(tiny_base, tmp_path):
    config = distill_config(VARIANTS[1:2], steps=2, sequence_length=600, batch_tokens=2400)
    config.raw["tasks"] = {task: {"records": 3, "values": 1} for task in config.tasks}
    loop.run(config, tiny_base, tmp_path / "out", tmp_path / "work")
    rows = files.read_jsonl(tmp_path / "out" / "distill.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert 0 < rows[-1]["tokens"] <= 4800


def test_bfloat16_gives_nearly_the_same_losses(tiny_base, tmp_path, monkeypatch):
    exact = distil(distill_config(steps=6), tiny_base, tmp_path / "a", tmp_path / "wa")
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: True)
    rough = distil(distill_config(steps=6), tiny_base, tmp_path / "b", tmp_path / "wb")
    for one, two in zip(exact, rough, strict=True):
        assert two["kl"] == pytest.approx(one["kl"], rel=0.1)
    saved = load_file(tmp_path / "b" / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
