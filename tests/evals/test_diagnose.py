"""Teacher forcing says what greedy generation would; padding changes nothing; the files add up."""

import dataclasses
import shutil

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.evals import diagnose
from swiftkv.modeling.checkpoint import load_whole
from swiftkv.registry import FRAMES
from swiftkv.workloads import tasks
from tests.helpers.config import make_config

SMALL = {
    "diagnosis": {"items": 3, "difficulty": [0.2, 0.4], "needles": 2, "needle_tokens": [256, 512]},
    "tasks": {"code": {"records": 3, "values": 2}, "sql": {"records": 3, "values": 2}},
}


def config_of(**changes) -> RunConfig:
    return make_config(SMALL, changes)


def rows_of(arm, model, base, probes, tokenizer) -> pd.DataFrame:
    mine, theirs = (diagnose.choices(m, diagnose.answer_states(m, probes)) for m in (model, base))
    return diagnose.token_rows(arm, probes, mine, theirs, tokenizer)


@pytest.fixture(scope="module")
def models(tiny_base, tiny_student):
    return load_whole(tiny_base), load_whole(tiny_student)


@pytest.fixture(scope="module")
def probes(tiny_tokenizer):
    return diagnose.task_probes(config_of(), tiny_tokenizer)


def greedy(model, prompt: list[int], tokens: int) -> list[int]:
    """What Transformers generates."""
    ids = torch.tensor([prompt])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return made[0, len(prompt) :].tolist()


def test_right_at_every_position_if_and_only_if_generation_gives_the_answer(models, probes, tiny_tokenizer):
    for model in models:
        own = [dataclasses.replace(p, answer=greedy(model, p.prompt, 5)) for p in probes[:2]]
        assert rows_of("x", model, models[0], own, tiny_tokenizer).right.all()
        other = [dataclasses.replace(p, answer=[*p.answer[:2], p.answer[2] ^ 1, *p.answer[3:]]) for p in own]
        rows = rows_of("x", model, models[0], other, tiny_tokenizer).set_index("position").right
        assert rows[[1, 2]].all() and not rows[3].any()


def test_a_line_break_ends_an_answer_as_eos_does(probes, tiny_tokenizer):
    probe = dataclasses.replace(probes[0], answer=[5, tiny_tokenizer.eos_token_id])
    new_line = tiny_tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    for chosen, right in (([5, tiny_tokenizer.eos_token_id], [1, 1]), ([5, new_line], [1, 1]), ([new_line, 6], [0, 0])):
        choices = diagnose.Choices(torch.zeros(2, 300).log_softmax(-1), torch.tensor(chosen))
        assert diagnose.token_rows("x", [probe], choices, choices, tiny_tokenizer).right.tolist() == right


def test_divergence_is_that_of_each_item_alone(models, probes, tiny_tokenizer):
    base, student = models
    together = rows_of("skip50", student, base, probes, tiny_tokenizer)
    apart = pd.concat([rows_of("skip50", student, base, [p], tiny_tokenizer) for p in probes], ignore_index=True)
    pd.testing.assert_frame_equal(together, apart, rtol=1e-3)
    ids = torch.tensor([probes[0].prompt + probes[0].answer])
    p, q = (m(ids).logits[0, len(probes[0].prompt) - 1].log_softmax(-1) for m in (base, student))
    assert together.kl[0] == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-3)
    itself = rows_of("base", base, base, probes, tiny_tokenizer)
    assert (itself.kl == 0).all() and (itself.agreement == 1).all()


def test_batches_hold_every_probe_once_within_the_budget(probes, monkeypatch):
    monkeypatch.setattr(diagnose, "BATCH_TOKENS", 600)
    made = list(diagnose.batches(probes))
    assert sorted((p.item.id, p.records) for batch in made for p in batch) == sorted(
        (p.item.id, p.records) for p in probes
    )
    assert len(made) > 2 and all(len(b) == 1 or len(b) * max(p.length for p in b) <= 600 for b in made)


def test_needles_fill_the_context_and_stay_within_it(tiny_tokenizer):
    made = diagnose.needle_probes(config_of(), tiny_tokenizer, 300)
    assert len(made) == 2 and len({probe.records for probe in made}) == 1
    assert max(probe.length for probe in made) <= 256
    more = diagnose.probes_of(tiny_tokenizer, "needle", 2, 0, {"records": made[0].records + 1})
    assert max(probe.length for probe in more) > 256


@given(st.integers(1, 400), st.integers(0, 1000))
def test_words_of_the_needle_are_nobody_elses(records, seed):
    (item,) = tasks.items("needle", "test", 1, seed, {"records": records})
    context, question = item.prompt.split("who is")
    assert context.count("\n") == records + 1
    for word in question.split(" of ")[1].split(" ?")[0].split("_"):
        assert context.replace("_", " ").split().count(word) == 1
    assert tasks.score(item, item.answer)["score"] == 1


@given(st.lists(st.integers(1, 100_000), min_size=1))
def test_bins_double_and_hold_their_prompts(lengths):
    bins = diagnose.length_bins(pd.Series(lengths))
    assert (bins.prompt_from <= lengths).all() and (lengths < bins.prompt_to).all()
    assert (bins.prompt_to == 2 * bins.prompt_from).all()


def made_up(probes: list, wrong: dict[str, int]) -> pd.DataFrame:
    """Token rows of the base (all right) and of a student, wrong from a position on in some items."""
    one = [
        {"task": p.item.task, "records": p.records, "id": p.item.id, "prompt_tokens": len(p.prompt), "position": i}
        | {"kl": 0.1, "agreement": 1.0, "choice": token}
        for p in probes
        for i, token in enumerate(p.answer, 1)
    ]
    rows = [{"arm": arm, **row, "right": arm == "base" or row["position"] < wrong.get(row["id"], 99)}
            for arm in ("base", "skip50") for row in one]  # fmt: skip
    return pd.DataFrame(rows)


def test_lost_items_are_those_that_only_the_base_gets_right(probes, tiny_tokenizer):
    four = [probe for probe in probes if probe.records == 1 and probe.item.task in ("code", "sql")]
    tokens = made_up(four, {"code-test-0-1": 3})
    items = diagnose.items_of(tokens)
    (row,) = diagnose.lost(tokens, items, four, tiny_tokenizer)
    probe = next(probe for probe in four if probe.item.id == "code-test-0-1")
    assert (row["arm"], row["id"], row["position"]) == ("skip50", "code-test-0-1", 3)
    assert row["said"] == tiny_tokenizer.decode(probe.answer[:3]) and row["prompt"] == probe.item.prompt
    table = diagnose.summary(items, ["arm", "task"], seed=0).set_index(["arm", "task"])
    assert table.exact["skip50", "code"] == pytest.approx(2 / 3) and table.exact["skip50", "sql"] == 1
    assert (table.base_exact == 1).all() and table.ci_low["skip50", "code"] < 0


def test_files_are_written_with_their_columns_and_provenance(tiny_base, tiny_student, tmp_path):
    diagnose.run(config_of(), tiny_base, {"skip50": tiny_student}, tmp_path)
    for name in ("positions", "lengths", "difficulty"):
        frame = pd.read_csv(tmp_path / f"{name}.csv")
        assert set(frame.columns) == set(FRAMES[f"diagnosis_{name}"].columns)
        assert list(frame.arm.unique()) == ["base", "skip50"]
        assert files.read_json(tmp_path / f"{name}.csv.provenance.json")["stage"] == "diagnose"
    difficulty = pd.read_csv(tmp_path / "difficulty.csv")
    assert set(difficulty.task) == {*tasks.TASKS, "needle"}
    assert (difficulty[difficulty.arm == "skip50"].kl > 0).all() and (tmp_path / "lost.jsonl").is_file()


def test_student_without_finite_logits_is_named(tiny_base, tiny_student, tmp_path):
    shutil.copytree(tiny_student, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["model.norm_swiftkv.weight"].fill_(float("nan"))
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="logits of skip50 are not finite"):
        diagnose.run(config_of(), tiny_base, {"skip50": tmp_path / "broken"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_item_that_does_not_fit_and_missing_model_are_named(tiny_base, tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"diagnosis\.difficulty: summarise with 6 records has \d+ tokens; .*take 99"):
        diagnose.all_probes(config_of(), tiny_tokenizer, 99)
    with pytest.raises(UserError, match="nowhere"):
        diagnose.run(config_of(), tiny_base, {"skip50": tmp_path / "nowhere"}, tmp_path)
