"""Models side by side: the same numbers as without chunks and shared weights, and as without early exit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from swiftkv.evals import teacher_forcing
from swiftkv.evals.teacher_forcing import ANSWERS, FULL, MODES
from swiftkv.modeling import FAMILIES
from swiftkv.modeling.convert import convert
from tests.helpers.models import TINY_SHAPE

TOKENS, ANSWER = 45, 9
STUDENTS = {"whole": (8, 1), "half": (4, 1), "across": (4, 4), "first": (1, 7)}  # cut l and group, of 8 layers


@pytest.fixture(scope="module")
def directories(tiny_base, tmp_path_factory):
    """The base and students of it whose late weights are not the base's."""
    root = tmp_path_factory.mktemp("students")
    for name, shape in STUDENTS.items():
        convert(tiny_base, root / name, *shape)
    return {"base": tiny_base} | {name: root / name for name in STUDENTS}


@pytest.fixture(scope="module")
def models(directories):
    students = {arm: path for arm, path in directories.items() if arm != "base"}
    return teacher_forcing.load_side_by_side(directories["base"], students, torch.float32)


@pytest.fixture(scope="module")
def document():
    ids = torch.randint(300, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    return teacher_forcing.documents(ids, ANSWER)


@pytest.fixture(scope="module")
def found(models, document):
    return teacher_forcing.compare(models, document)


@torch.inference_mode()
def plain(directories, arm: str, ids: torch.Tensor, first: int) -> list[float]:
    """The definition, in float64 on whole logits of a model loaded by itself: NLL, the base's, KL and agreement, means
    over the tokens from number `first` on."""
    mine, base = (
        AutoModelForCausalLM.from_pretrained(directories[name], dtype=torch.float64)(ids[None])
        .logits[0, first - 1 : -1]
        .log_softmax(-1)
        for name in (arm, "base")
    )
    nll, base_nll = (-side.gather(-1, ids[first:, None]).mean().item() for side in (mine, base))
    kl = (base.exp() * (base - mine)).sum(-1).mean().item()
    return [nll, base_nll, kl, (mine.argmax(-1) == base.argmax(-1)).double().mean().item()]


@pytest.mark.parametrize("arm", ["base", *STUDENTS])
def test_numbers_are_those_of_the_definition(arm, directories, document, found):
    for mode, first in ((FULL, 1), (ANSWERS, TOKENS - ANSWER)):
        means = found[arm][mode]
        assert means.tokens == TOKENS - first
        measured = [means.nll, means.base_nll, means.kl, means.agreement]
        assert measured == pytest.approx(plain(directories, arm, document.ids, first), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("arm", ["base", *STUDENTS])
def test_behind_an_early_exit_prompt_the_answer_is_what_it_was(arm, models, document):
    """K and V of the late layers come from x_l alone."""
    states = teacher_forcing.final_states(models[arm], document)
    assert states[FULL].shape == (TOKENS - 1, 64) and states[ANSWERS].shape == (ANSWER, 64)
    torch.testing.assert_close(states[ANSWERS], states[FULL][-ANSWER:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_in_every_family(family, document, tmp_path):
    own_head = {"sliding_window": None, "tie_word_embeddings": False} if family == "mistral" else {}
    config = AutoConfig.for_model(family, **TINY_SHAPE | own_head, initializer_range=0.15)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.uniform_(0.6, 1.4)
    base.save_pretrained(tmp_path / "base")
    convert(tmp_path / "base", tmp_path / "student", 4, 2)
    models = teacher_forcing.load_side_by_side(tmp_path / "base", {"student": tmp_path / "student"}, torch.float32)
    states = teacher_forcing.final_states(models["student"], document)
    torch.testing.assert_close(states[ANSWERS], states[FULL][-ANSWER:], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student")(document.ids[None]).logits[0, :-1]
        torch.testing.assert_close(models["student"].lm_head(states[FULL]), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arm", ["base", "whole"])
def test_the_base_and_a_student_that_skips_nothing_are_the_base(arm, found):
    for means in found[arm].values():
        assert (means.kl, means.agreement) == (0.0, 1.0) and means.nll == means.base_nll


def test_a_student_that_skips_layers_is_not_the_base(found):
    assert all(found[arm][mode].kl > 0.01 for arm in ("half", "across", "first") for mode in MODES)


def test_weights_are_held_once(models):
    """A student's own are those of SwiftKV."""
    base = {id(parameter) for parameter in models["base"].parameters()}
    for arm in STUDENTS:
        own = {name for name, parameter in models[arm].named_parameters() if id(parameter) not in base}
        assert own and all("_swiftkv" in name for name in own), arm


@given(
    st.integers(1, 60).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, count - 1))), st.integers(1, 70)
)
def test_chunks_are_every_position_once_and_none_holds_both_kinds(sizes, rows):
    count, first = sizes
    made = teacher_forcing.chunks(count, first, rows)
    assert [position for chunk in made for position in range(count)[chunk]] == list(range(count))
    assert all(0 < chunk.stop - chunk.start <= rows for chunk in made)
    assert all(chunk.stop <= first or chunk.start >= first for chunk in made)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_size_of_a_chunk_changes_nothing(rows, models, document, found, monkeypatch):
    monkeypatch.setattr(teacher_forcing, "chunk_elements", lambda device: rows * 300)
    seen = []
    choices = teacher_forcing.choices
    monkeypatch.setattr(teacher_forcing, "choices", lambda model, states: seen.append(states) or choices(model, states))
    again = teacher_forcing.compare({arm: models[arm] for arm in ("base", "across")}, document)
    assert max(map(len, seen)) <= rows
    for mode in MODES:
        for name in ("nll", "base_nll", "kl", "agreement"):
            assert getattr(again["across"][mode], name) == pytest.approx(getattr(found["across"][mode], name), rel=1e-5)
