"""Planted faults: each must fail a gate or show in the statistics, and the healthy student must pass the same check.

The student is the embedded base's with a quarter of the layers skipped, as converted: it answers as the base does. A
served model that is not its checkpoint is what the equivalence gate is for; a damaged checkpoint, which vLLM and
Transformers serve alike, has to show in the answers.
"""

from functools import cache

import pandas as pd
import pytest
import torch

from swiftkv.config import ROOT
from swiftkv.evals import accuracy_summary, diagnose, gate_errors, gates
from swiftkv.modeling.checkpoint import load_whole
from swiftkv.modeling.convert import convert
from swiftkv.workloads import tasks
from swiftkv.workloads.tokens import load_tokenizer
from tests.helpers.config import make_config

BASE = ROOT / "workflow" / "resources" / "base"
CONFIG = make_config({"verify": {"prompt_lengths": [7, 100], "generate": 8, "longest_prompt": 200}})
CUT, ITEMS, STUDENT = 6, 50, "skip25"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / STUDENT
    convert(BASE, path, CUT, 1)
    return path


@cache
def tokenizer():
    return load_tokenizer(BASE)


@cache
def probes() -> list[diagnose.Probe]:
    made = [diagnose.probes_of(tokenizer(), name, ITEMS, 0, settings) for name, settings in CONFIG.tasks.items()]
    return [probe for task in made for probe in task]


def samples(model) -> pd.DataFrame:
    """What `model` answers, scored as generated text would be: of teacher-forced choices, up to the first EOS."""
    rows = []
    for batch in diagnose.batches(probes()):
        chosen = diagnose.choices(model, diagnose.answer_states(model, batch)).choice.split(
            [len(p.answer) for p in batch]
        )
        for probe, choice in zip(batch, chosen, strict=True):
            said = choice.tolist()
            ends = said.index(tokenizer().eos_token_id) if tokenizer().eos_token_id in said else len(said)
            rows.append(sample(probe.item, said[:ends]))
    return pd.DataFrame(rows).set_index("id")


def sample(item: tasks.Item, said: list[int]) -> dict:
    """A row of samples.jsonl, as far as the summary reads it."""
    score = tasks.score(item, tokenizer().decode(said))
    found = {"score": score["score"], "exact_match": score["exact_match"], "generated_tokens": len(said)}
    return {"id": item.id, "task": item.task, "said": said} | found


def summary(base: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    margin = CONFIG.accuracy.margin
    return pd.DataFrame(accuracy_summary.task_rows(STUDENT, base, other, 0, margin)).set_index("task")


@pytest.fixture(scope="module")
def base_samples():
    return samples(load_whole(BASE))


@pytest.fixture(scope="module")
def healthy(directory):
    return samples(load_whole(directory))


def test_healthy_student_passes_the_statistics(base_samples, healthy):
    found = summary(base_samples, healthy)
    assert found.retained["mean"] == "yes" and found.length_ok.all()
    assert not (found.p_holm < 0.05).any()


def test_values_of_one_late_layer_lost(directory, base_samples):
    model = load_whole(directory)
    torch.nn.init.zeros_(model.model.layers[-1].self_attn.v_proj_swiftkv.weight)
    found = summary(base_samples, samples(model))
    assert found.retained["mean"] == "lost" and found.retained["summarise"] == "lost"


def test_answers_cut_short(base_samples, healthy):
    items = {probe.item.id: probe.item for probe in probes()}
    cut = [sample(items[row.Index], row.said[: int(0.8 * len(row.said))]) for row in healthy.itertuples()]
    found = summary(base_samples, pd.DataFrame(cut).set_index("id"))
    assert not found.length_ok.any()


@pytest.mark.vllm
def test_served_model_that_is_not_its_checkpoint(directory, monkeypatch):
    """One engine: as it is, with the late K rotated by one position too many, with the norm of the layer below."""
    from swiftkv.evals.reference import generate
    from swiftkv.vllm.decoder import LateKV

    checks = gates.Checks(CONFIG, BASE, {STUDENT: directory})
    of_base, of_student = gate_errors.Truth(BASE), gate_errors.Truth(directory)
    rotate = LateKV.forward

    def off_by_one(self, positions, hidden_states, residual):
        return rotate(self, positions + 1, hidden_states, residual)

    def wrong_norm(model):
        model.model.norm_swiftkv.weight.data.copy_(model.model.layers[CUT - 1].input_layernorm.weight)

    def compared(truth, engine) -> list[gates.Compared]:
        said = generate(engine, checks.asked.tokens, checks.asked.generate)
        answers = checks.by_kind({"logits": said})
        own = truth.lost(answers, {})
        return [checks.of_answers(truth, key, given, own[key]) for key, given in answers.items()]

    with checks.asked.engine(BASE) as engine:
        checks.base_found.errors |= {(one.gate, one.kind): one.errors for one in compared(of_base, engine)}

    with checks.asked.engine(directory) as engine:

        def passed() -> set[bool]:
            found = compared(of_student, engine)
            return {one.judged(STUDENT, *checks.limit(one.gate, one.kind, one.errors)).passed for one in found}

        assert passed() == {True}
        with monkeypatch.context() as patch:
            patch.setattr(LateKV, "forward", off_by_one)
            assert passed() == {False}
        assert passed() == {True}
        engine.apply_model(wrong_norm)
        assert passed() == {False}
