"""The cut advisor: probes equal the definition, and the advice keeps to the budget."""

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from swiftkv.config import SwiftKVVariant
from swiftkv.config.training import Distill
from swiftkv.costmodel.memory import memory, student_plan
from swiftkv.distill import advise
from swiftkv.distill.data import documents, select
from swiftkv.distill.parallel import World
from swiftkv.distill.probe import answer_numbers, probe
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import read_config
from swiftkv.modeling.convert import convert
from swiftkv.workloads.stream import Batch
from tests.helpers.distillation import SETTINGS, distill_config, make_batch


def test_candidates_are_every_cut_with_every_group_that_divides():
    names = {candidate.name for candidate in advise.candidates(8)}
    assert {"cut1-group1", "cut4-group4", "cut2-group2", "cut7-group1"} <= names
    assert not {"cut8-group1", "cut1-group2", "cut4-group8", "cut5-group2"} & names
    assert {"cut15-group3", "cut15-group5"} <= {candidate.name for candidate in advise.candidates(30)}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_candidates_train_in_groups_that_fit(tiny_base, share):
    """All of them once, in order, each group within the budget if any could be; an 8B's are too many for 80 GiB."""
    config, shape = distill_config(), read_config(tiny_base)
    plans = {c.name: student_plan(shape, c, config.distill, 1.0) for c in advise.candidates(8)}

    def need(names) -> int:
        return sum(memory(shape, [plans[name] for name in names], 1, config.distill.batch_tokens, False).values())

    budget = share * need(plans)
    groups = [[c.name for c in group] for group in advise.in_memory(config, shape, budget)]
    assert [name for group in groups for name in group] == list(plans)
    assert all(len(group) == 1 or need(group) <= budget for group in groups)
    assert (len(groups) == 1) == (share == 1.0)


def test_the_table_does_not_depend_on_how_many_fit(tiny_base, tmp_path, monkeypatch, capsys):
    config = distill_config(steps=1, sequence_length=512, batch_tokens=512)
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)
    tables = []
    for name, free in (("one", 0), ("all", 1e12)):
        monkeypatch.setattr(advise, "free_bytes", lambda free=free: free)
        tables.append(advise.table(config, tiny_base, tmp_path / name, 1, 1))
    pd.testing.assert_frame_equal(*tables)
    number = len(tables[0])
    assert f"1 candidates at once, {number} of {number}" in capsys.readouterr().out


def test_answers_are_numbered_by_runs_of_positions():
    ids = torch.arange(2, 18).reshape(2, 8)
    answers = torch.zeros(2, 8, dtype=torch.bool)
    answers[0, [2, 3, 6]] = answers[1, [5, 6, 7]] = True
    chosen = select(documents(Batch(ids, answers, torch.tensor([8, 8]))), "answers", False)
    assert answer_numbers(chosen.index).tolist() == [0, 0, 1, 2, 2, 2]


def test_probe_equals_the_definition(tiny_base, tmp_path, monkeypatch):
    """One answer per row: KL, tokens and answers kept from whole logits of the converted model and the base."""
    data = make_batch(0)
    monkeypatch.setattr("swiftkv.distill.teacher.fast_bfloat16", lambda device: False)
    teacher = Teacher(tiny_base, World())
    student = Student(SwiftKVVariant("half", 0.5), teacher, Distill(**SETTINGS))
    (tally,), (left,) = probe(teacher, [student], [data], exits=(4,))
    convert(tiny_base, tmp_path / "student", 4, 1)
    with torch.inference_mode():
        base, other = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(data.input_ids).logits[:, :-1]
            for path in (tiny_base, tmp_path / "student")
        )
    wanted = data.answers[:, 1:]
    kl = torch.nn.functional.kl_div(other.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none")
    same = base.argmax(-1) == other.argmax(-1)
    assert tally.kl == pytest.approx(kl.sum(-1)[wanted].sum().item(), rel=1e-4)
    assert (tally.tokens, tally.tokens_kept) == (int(wanted.sum()), int(same[wanted].sum()))
    assert (tally.answers, tally.answers_kept) == (len(wanted), int((same | ~wanted).all(1).sum()))
    right = other.argmax(-1) == data.input_ids[:, 1:]
    assert tally.answers_right == int((right | ~wanted).all(1).sum())
    x_l = teacher.model(data.input_ids, output_hidden_states=True).hidden_states[4]
    same = base.argmax(-1) == teacher.model.lm_head(teacher.model.model.norm(x_l)).argmax(-1)[:, :-1]
    assert left.tokens_kept == int(same[wanted].sum())


def test_advice_gains_most_within_the_budget():
    rows = [(2, 0.90, 1.8, 1.0), (4, 0.99, 1.5, 1.0), (4, 0.985, 1.5, 1.6), (6, 1.0, 1.2, 1.0)]
    frame = pd.DataFrame(rows, columns=["cut", "answers_kept", "speedup_10to1", "kv_capacity"])
    assert advise.recommend(frame, 0.02).kv_capacity == 1.6
    assert advise.recommend(frame, 0.0).cut == 6
    assert advise.recommend(frame.assign(answers_kept_distilled=0.5), 0.4) is None


def test_run_writes_the_table_and_names_a_cut(tiny_base, tmp_path, capsys):
    config = distill_config(steps=2, sequence_length=512, batch_tokens=1024)
    advise.run(config, tiny_base, tmp_path / "advice.csv", tmp_path / "work", budget=1.0, probes=1, steps=2)
    frame = pd.read_csv(tmp_path / "advice.csv")
    assert len(frame) == len(advise.candidates(8)) and frame.kl_distilled.notna().all()
    assert "skip 0.875" in capsys.readouterr().out  # a budget of everything takes the earliest cut
    advise.run(config, tiny_base, tmp_path / "advice.csv", tmp_path / "work", budget=0.0, probes=1, steps=0)
    assert "skip 0.125" in capsys.readouterr().out  # the last layer alone takes K and V from its own input: no loss


def test_nothing_within_the_budget_is_an_error(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(advise, "recommend", lambda frame, budget: None)
    config = distill_config(sequence_length=512, batch_tokens=1024)
    with pytest.raises(UserError, match=r"no cut keeps 99\.0%"):
        advise.run(config, tiny_base, tmp_path / "advice.csv", tmp_path / "work", budget=0.01, probes=1, steps=0)
    assert (tmp_path / "advice.csv").exists()
