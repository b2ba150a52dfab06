"""Plans of a distillation: FLOPs against torch's counter, memory against autograd, and the configurations that ship."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper
from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.config import ROOT, RunConfig, SwiftKVVariant, load_config
from swiftkv.costmodel import LLAMA_8B, LLAMA_70B, memory, training
from swiftkv.distill import attention
from swiftkv.distill.parallel import World
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.errors import UserError
from swiftkv.modeling import FAMILIES
from swiftkv.modeling.checkpoint import read_config
from swiftkv.planning import distillation
from swiftkv.planning.distillation import DataShape
from swiftkv.workloads.stream import Batch
from tests.helpers.models import shapes

RUNS = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "claims.yaml")
PAPER, CHAT = load_config(ROOT / "config/paper.yaml"), load_config(ROOT / "config/llama-8b.yaml")
H100 = {"gpu_memory_gib": 80, "tflops": 989}


def made(
    config=CHAT, shape=LLAMA_8B, processes=1, micro=8192, checkpoint=False, answer_share=1.0, **more
) -> distillation.DistillationPlan:
    return distillation.plan(
        config, shape, processes, *H100.values(), micro, checkpoint, DataShape(answer_share), **more
    )


def total(planned: distillation.DistillationPlan) -> int:
    return sum(planned.memory(planned.rows).values())


# FLOPs


FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attention_flops(query, key, *_, out_val=None, **__) -> int:
    """Both products of the fused attention of a CPU, which torch's registry lacks; masked scores count, too."""
    return 4 * math.prod(query[:-1]) * key[2] * query[3]


class Counter(TorchDispatchMode):
    """Sums what torch's flop counter counts; FlopCounterMode itself hooks modules, which autograd.grad forbids.

    Attention's gradient counts as twice its forward pass: the scores that the kernel computes anew are not needed
    arithmetic, as the FLOPs of checkpointing are not.
    """

    total = 0
    known = flop_registry | {FUSED: shape_wrapper(attention_flops)}
    known[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward] = shape_wrapper(
        lambda _, query, key, *more, **named: 2 * attention_flops(query, key)
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if count := self.known.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def full_batch(rows: int, length: int, answers: int) -> Batch:
    """Rows without padding that end with an answer."""
    flags = (torch.arange(length) >= length - answers).expand(rows, -1)
    return Batch(torch.randint(2, 300, (rows, length)), flags, torch.full((rows,), length))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("hidden_loss", [0.0, 1.0])
def test_step_flops_against_torch_counter(tiny_base, monkeypatch, recompute, hidden_loss):
    """The counter takes attention for square, as if documents were twice as long."""
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)
    distill = load_config().distill.model_copy(update={"hidden_loss": hidden_loss})
    teacher, (rows, length, answers), cuts = Teacher(tiny_base, World()), (3, 32, 10), [(4, 1), (2, 3)]
    students = [Student(SwiftKVVariant("v", 1 - cut / 8, group), teacher, distill, recompute) for cut, group in cuts]
    with Counter() as counter:
        passed = teacher.run(full_batch(rows, length, answers), {2, 4, 7})
        for student in students:
            sums = student.sums(passed)
            (sums.kl + hidden_loss * sums.squares).backward()
    run, shape, tokens, at_loss = rows * length if hidden_loss else None, read_config(tiny_base), 96, rows * answers
    counted = training.step_flops(shape, [], tokens, at_loss, 2 * length - 1)
    keys = length if hidden_loss else length - 1  # the last token predicts nothing, so no query sees it
    for cut, group in cuts:
        counted += training.student_flops(shape, cut, group, tokens, at_loss, 2 * keys - 1, recompute, run)
    assert counter.total == counted


@given(shapes(), st.integers(1, 500), st.floats(0, 1), st.integers(1, 500))
def test_laws_of_step_flops(model, tokens, share, context):
    shape, cut, group = model
    at_loss = round(share * tokens)
    one = training.student_flops(shape, cut, group, tokens, at_loss, context)
    assert one <= training.student_flops(shape, cut, 1, tokens, at_loss, context)
    assert one <= training.student_flops(shape, cut, group, tokens, at_loss, context, run_tokens=tokens)
    again = training.student_flops(shape, cut, group, tokens, at_loss, context, recompute=True)
    assert (one < again or not one) and again <= 2 * one
    teacher = training.step_flops(shape, [], tokens, at_loss, context)
    assert training.step_flops(shape, [(cut, group)] * 2, tokens, at_loss, context) == teacher + 2 * one


@pytest.mark.parametrize(
    ("gpu", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        *[(name, None) for name in ("NVIDIA A10G", "NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA GB200")],
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_peak_of_known_gpus(gpu, teraflops):
    assert training.data_sheet(gpu) == (teraflops and teraflops * 1e12)


def test_peak_of_other_devices_is_measured():
    peak, source = training.peak_flops(torch.device("cpu"))
    assert peak > 1e8
    assert source.startswith("measured on cpu, ")


# Parameters and memory


def test_published_numbers_of_trained_parameters():
    assert memory.trained_parameters(LLAMA_8B, 16, 1) == 402_657_280
    assert memory.base_parameters(LLAMA_8B) == 8_030_261_248
    assert memory.trained_parameters(LLAMA_8B, 16, 1) / memory.base_parameters(LLAMA_8B) == pytest.approx(0.05, 0.01)
    assert memory.trained_parameters(LLAMA_70B, 40, 1) == pytest.approx(3.355e9, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("cut", "group"), [(4, 1), (4, 2), (8, 1)])
def test_parameters_are_those_of_a_model(family, cut, group):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 300, "head_dim": 32, "tie_word_embeddings": True}
    model = FAMILIES[family]
    with torch.device("meta"):
        student = model(model.config_class(**shape, num_key_value_layers=cut, key_value_group_size=group))
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    own = sum(p.numel() for name, p in student.named_parameters() if "swiftkv" in name)
    assert memory.trained_parameters(shape | {"model_type": family}, cut, group) == (own if cut < 8 else 0)
    assert memory.base_parameters(shape | {"model_type": family}) == pytest.approx(base.num_parameters(), rel=2e-3)


def saved_bytes(model, ids: torch.Tensor) -> int:
    """What autograd keeps of a forward pass in bfloat16, parameters aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=ids, use_cache=False)
        output.last_hidden_state.sum().backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_late_half_is_what_autograd_keeps(tiny_student):
    model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.bfloat16, attn_implementation=attention.NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("swiftkv" in name)
        parameter.data = parameter.data.float() if "swiftkv" in name else parameter.data
    shape, (rows, length) = read_config(tiny_student), (8, 64)
    student = memory.student_plan(shape, SwiftKVVariant("v", 0.5, 2), CHAT.distill, 1.0)
    kept = saved_bytes(model, torch.randint(2, 300, (rows, length)))
    expected = memory.late_bytes(shape, student, rows * length, checkpoint=False)
    assert 0.9 * expected < kept - 2 * student.parameters <= expected  # but for the casts of what is trained


@settings(max_examples=40)
@given(st.integers(1, 8), st.booleans(), st.floats(0.05, 1), st.sampled_from([1, 2, 4, 8]))
def test_laws_of_a_plan(rows, checkpoint, share, processes):
    chosen = {"config": with_distill(hidden_loss=0.0), "micro": rows * 8192, "checkpoint": checkpoint}
    planned = made(**chosen, processes=processes, answer_share=share)
    largest = planned.largest_rows()
    assert 0 <= largest <= 8 // processes
    if largest:
        assert sum(planned.memory(largest).values()) <= planned.budget
    if largest < 8 // processes:
        assert sum(planned.memory(largest + 1).values()) > planned.budget
    everywhere = made(**chosen, processes=processes)
    # Keys and values of the late layers are gathered where answers are picked out.
    gathered = max(student.late for student in planned.students) * 4 * 1024 * 8192 * planned.rows
    assert total(planned) <= total(everywhere) + gathered
    assert planned.run_flops <= everywhere.run_flops <= everywhere.published_run_flops
    assert total(made(**chosen, processes=2 * processes)) < total(everywhere)


def with_distill(config=CHAT, **changes) -> RunConfig:
    return RunConfig(config.raw | {"distill": config.raw["distill"] | changes}, "test")


def test_checkpointing_trades_flops_for_memory():
    plain, checkpointed = made(), made(checkpoint=True)
    assert total(checkpointed) < total(plain)
    assert checkpointed.largest_rows() > plain.largest_rows() > 0
    assert plain.run_flops < checkpointed.run_flops


def test_published_time_of_one_student():
    """3 hours on 8 H100 for Llama-3.1-8B, 5 on 32 for 70B, at utilisations between 40% and 60%."""
    half = [{"name": "skip50", "skip": 0.5}]
    for config, shape, processes, hours in ((PAPER, LLAMA_8B, 8, 3), (PAPER, LLAMA_70B, 32, 5)):
        planned = made(RunConfig(config.raw | {"variants": half}, "test"), shape, processes)
        needed = planned.hours(planned.published_run_flops) * planned.utilisation / hours
        assert 0.4 < needed < 0.6


# The command's side


@pytest.mark.parametrize("name", RUNS)
def test_every_run_configuration_loads_and_can_be_planned(name):
    config = load_config(ROOT / "config" / name)
    if not any(variant.recipe(config.distill).steps for variant in config.variants):
        with pytest.raises(UserError, match="nothing is trained"):
            made(config, config.shape)
        return
    planned = made(config, config.shape)
    assert len(planned.students) == len(config.variants)


@pytest.mark.parametrize(("name", "shape"), [("llama-8b", LLAMA_8B), ("paper", LLAMA_8B), ("paper-70b", LLAMA_70B)])
def test_shapes_of_real_models(name, shape):
    config = load_config(ROOT / "config" / f"{name}.yaml")
    assert config.shape == shape | {"dtype": "bfloat16"}
    assert config.distill.steps * config.distill.batch_tokens == pytest.approx(680e6, rel=1e-3)


def test_llama_8b_fits_one_gpu_of_80_gb():
    planned = made(CHAT)
    assert total(planned) <= planned.budget
    assert total(made(CHAT, micro=65536)) > planned.budget
    assert planned.budget >= total(made(CHAT, micro=None)) > 0.8 * planned.budget  # as much as fits


@pytest.mark.parametrize(
    ("changes", "word"), [({"train": "layers"}, "train is 'layers'"), ({"steps": 0}, "nothing is trained")]
)
def test_what_cannot_be_planned_is_named(changes, word):
    with pytest.raises(UserError, match=word):
        made(with_distill(**changes))


def test_show_says_where_the_shape_is_from_and_what_is_assumed(tiny_base, tmp_path, capsys):
    config = load_config()
    distillation.show(config, tiny_base, tflops=0.1, answer_share=1.0)
    said = capsys.readouterr().out
    assert f"from {tiny_base}/config.json" in said
    assert "40% of 0.1 TFLOP/s a process (given); loss at 100% of the positions" in said
    distillation.show(config, tmp_path / "nothing", **H100, answer_share=0.25)
    said = capsys.readouterr().out
    assert "from workflow/resources/base/config.json" in said and "fits in 80 GiB" in said
    distillation.show(CHAT, tmp_path / "nothing", **H100, micro_batch_tokens=8192, answer_share=0.25)
    said = capsys.readouterr().out
    assert "throughput.model of the configuration" in said and "fits in 80 GiB" in said
    assert "loss at 25%" in said


def test_a_cpu_is_planned_as_one(capsys):
    """A wider model spends more of its time on matrix products; what is asked of a GPU is planned for a GPU."""
    config = load_config()
    planned = distillation.show(config, ROOT / config.base.path)
    assert planned.utilisation == pytest.approx(128 / (128 + distillation.CPU_HIDDEN))
    assert distillation.cpu_utilisation({"hidden_size": 576}) > 1.5 * planned.utilisation
    assert distillation.show(config, ROOT / config.base.path, tflops=989).utilisation == 0.4


def test_data_that_is_there_is_looked_at(tmp_path, capsys):
    """The tasks' share of answers and the length of their documents, which the safe bounds overstate."""
    config = load_config()
    measured = distillation.show(config, ROOT / config.base.path)
    assert 0.2 < measured.students[0].loss_share < 0.5 and measured.rows == measured.most_rows
    assert 0.5 * config.distill.batch_tokens < measured.step_tokens < 0.9 * config.distill.batch_tokens  # padded rows
    assert f"documents of {measured.document} tokens" in capsys.readouterr().out
    bound = distillation.show(config, ROOT / config.base.path, answer_share=1.0)
    assert measured.tokens_per_s > 1.5 * bound.tokens_per_s
    assert distillation.data_shape(CHAT, ROOT / config.base.path) == DataShape()  # its data are on the hub
