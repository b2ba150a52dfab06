"""The stage `divergence`: which documents, what is kept and measured again, what it refuses."""

import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from swiftkv import files
from swiftkv.config import RunConfig, validate
from swiftkv.errors import UserError
from swiftkv.evals import divergence, divergence_summary, teacher_forcing
from swiftkv.modeling.convert import convert
from swiftkv.registry import FILES
from swiftkv.workloads.real import texts
from tests.helpers.config import make_config
from tests.helpers.models import save_tiny_base
from tests.helpers.real_rows import make_mirror, readable

SETS = list(texts.TEXTS)
ASKED = {"documents": 2, "max_tokens": 40, "answer_tokens": 8}


def config_of(**changes) -> RunConfig:
    return make_config(instead={"divergence": ASKED | changes})


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are tested with the summary."""
    monkeypatch.setattr(divergence_summary, "RESAMPLES", 50)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    return make_mirror(tmp_path / "mirror", monkeypatch, readable())


@pytest.fixture
def run(mirror, tiny_base, tiny_student, tmp_path):
    """Runs the stage on the tiny base and student, or on others, and returns the rows of documents.jsonl."""

    def once(models=None, **changes) -> pd.DataFrame:
        chosen = {"skip50": tiny_student} if models is None else models
        divergence.run(config_of(**changes), tiny_base, chosen, tmp_path / "out", tmp_path / "work")
        return pd.DataFrame(files.read_jsonl(tmp_path / "out" / "documents.jsonl"))

    return once


@pytest.fixture
def measured(monkeypatch):
    """The arms of every document that is measured."""
    calls, compare = [], teacher_forcing.compare

    def counted(models, document):
        calls.append(sorted(models))
        return compare(models, document)

    monkeypatch.setattr(teacher_forcing, "compare", counted)
    return calls


def test_files_have_their_columns_and_provenance(run, tmp_path, capsys):
    rows = run()
    assert {*rows.columns} == {*FILES["divergence_documents"].columns}
    assert len(rows) == 2 * len(SETS) * 2 * 2  # arms, sets, documents, modes
    assert set(rows[rows["mode"] == "answers"].tokens) == {8} and rows.read_tokens.max() == 40
    assert (rows[rows["mode"] == "full"].tokens == rows[rows["mode"] == "full"].read_tokens - 1).all()
    base, student = rows[rows.arm == "base"], rows[rows.arm == "skip50"]
    assert (base.kl == 0).all() and (base.agreement == 1).all() and (student.kl > 0).all()
    assert list(base.base_nll) == list(student.base_nll) == list(base.nll)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert tuple(summary.columns) == FILES["divergence"].columns
    assert list(summary["set"].unique()) == [*SETS, "mean"]
    for name in ("documents.jsonl", "summary.csv"):
        assert files.read_json(tmp_path / "out" / f"{name}.provenance.json")["stage"] == "divergence"
    said = capsys.readouterr().out
    assert "divergence: qmsum: 2 documents, 2 of them cut to 40 tokens; 0 of at most 8 tokens passed over" in said
    assert said.count(" tokens in ") == 2 * len(SETS) and "KL skip50 " in said


def test_a_second_run_measures_nothing_and_gives_the_same(run, tmp_path, monkeypatch):
    first = run()
    monkeypatch.setattr(teacher_forcing, "load_side_by_side", None)
    pd.testing.assert_frame_equal(run(), first)


def test_a_run_that_was_killed_goes_on(run, measured, tmp_path):
    first = run()
    assert len(measured) == 2 * len(SETS)
    gone = sorted((tmp_path / "work").rglob("*.json"))[0]
    gone.unlink()
    pd.testing.assert_frame_equal(run(), first)
    assert len(measured) == 2 * len(SETS) + 1


def test_a_new_arm_is_measured_alone_and_other_weights_anew(run, measured, tiny_base, tiny_student, tmp_path):
    first = run()
    convert(tiny_base, tmp_path / "quarter", 6, 1)
    both = run({"skip50": tiny_student, "skip25": tmp_path / "quarter"})
    assert measured[2 * len(SETS) :] == [["base", "skip25"]] * 2 * len(SETS)
    pd.testing.assert_frame_equal(both[both.arm != "skip25"].reset_index(drop=True), first)
    shutil.copytree(tiny_student, tmp_path / "changed")
    tensors = load_file(tmp_path / "changed" / "model.safetensors")
    tensors["model.norm_swiftkv.weight"] *= 1.1
    save_file(tensors, tmp_path / "changed" / "model.safetensors", metadata={"format": "pt"})
    changed = run({"skip50": tmp_path / "changed"})
    assert (changed[changed.arm == "skip50"].kl.to_numpy() != first[first.arm == "skip50"].kl.to_numpy()).all()


def test_fewer_documents_are_the_first_of_more_and_others_are_measured_alone(run, measured):
    few = run(sets=["gsm8k_test"], documents=2)
    more = run(sets=["gsm8k_test"], documents=3)
    assert len(measured) == 3 and set(few.document) < set(more.document)


def test_documents_without_room_for_a_prompt_are_passed_over(run, capsys):
    shortest = run(sets=["gsm8k_test"], documents=3).text_tokens.min()
    rows = run(sets=["gsm8k_test"], documents=2, answer_tokens=int(shortest), max_tokens=60)
    assert f"1 of at most {shortest} tokens passed over" in capsys.readouterr().out
    assert rows.text_tokens.min() > shortest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": 9}, r"divergence\.documents: 9; qmsum has 3 of more than 8 tokens .*, and 0 that are too short"),
        ({"answer_tokens": 900, "max_tokens": 901}, r"documents: 2; qmsum has 0 of more than 900 tokens .* 3 that are"),
        ({"max_tokens": 4096}, r"divergence\.max_tokens: 4096; \S+ takes 2048"),
    ],
)
def test_documents_that_do_not_do_are_named(run, changes, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        run(**changes)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_what_is_missing_is_named(run, mirror, tiny_base, tmp_path):
    with pytest.raises(UserError, match="key 'divergence' is missing"):
        divergence.run(make_config(), tiny_base, {}, tmp_path / "out", tmp_path / "work")
    with pytest.raises(UserError, match="nowhere: no such model directory"):
        run({"skip50": tmp_path / "nowhere"})
    (mirror / "evals" / texts.GSM8K_TEST).unlink()
    with pytest.raises(UserError, match=r"gsm8k_test\.jsonl: cannot be read .*SWIFTKV_MIRROR"):
        run()


def test_models_of_two_vocabularies_are_refused(run, tiny_tokenizer, tmp_path):
    save_tiny_base(tmp_path / "other", tiny_tokenizer, vocab_size=320)
    convert(tmp_path / "other", tmp_path / "student", 4, 1)
    with pytest.raises(UserError, match=r"student: vocab_size is 320, that of the base \S+ 300; only"):
        run({"skip50": tmp_path / "student"})


def test_an_arm_without_finite_logits_is_named(run, tiny_student, tmp_path):
    shutil.copytree(tiny_student, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["model.norm_swiftkv.weight"].fill_(float("nan"))
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="logits of skip50 are not finite"):
        run({"skip50": tmp_path / "broken"})
    assert not (tmp_path / "out").exists()


def test_files_of_another_hand_are_not_replaced(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("mine")
    with pytest.raises(UserError, match=r"summary\.csv: exists"):
        run()
    assert (tmp_path / "out" / "summary.csv").read_text() == "mine" and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sets": ["squad"]},
            r'divergence\.sets\.0: "squad" is not allowed; allowed is qmsum, gsm8k_test, humaneval or',
        ),
        ({"sets": ["qmsum", "qmsum"]}, "none twice"),
        ({"documents": 1}, r"divergence\.documents: 1 .*a whole number from 2"),
        ({"answer_tokens": 40}, r"divergence\.answer_tokens: 40 is not allowed; .* below max_tokens, 40"),
        ({"token": 3}, r"divergence: unknown key 'token' .*; allowed are answer_tokens, documents, max_tokens, sets"),
    ],
)
def test_a_wrong_section_is_named(changes, said):
    with pytest.raises(UserError, match=said):
        validate(config_of(**changes).raw, "mine.yaml")
    validate(config_of().raw, "mine.yaml")
