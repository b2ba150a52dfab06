"""The four tasks: deterministic, held out by construction, judged by what the answer does."""

import ast
import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv.base_model.tokenizer import train_tokenizer
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.workloads import names, tasks
from swiftkv.workloads.stream import batch
from swiftkv.workloads.tasks import sql

SETTINGS = load_config(ROOT / "config" / "config.yaml").tasks
NAME = re.compile(r"\b[a-z]+_[a-z]+\b")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SETTINGS, 1536, seed=0, contexts=300)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_items_depend_on_the_seed_alone(task):
    first, again = (tasks.items(task, "test", 5, 3, SETTINGS[task]) for _ in range(2))
    assert first == again
    assert first != tasks.items(task, "test", 5, 4, SETTINGS[task])
    assert len({item.id for item in first}) == 5


@pytest.mark.parametrize("task", tasks.TASKS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_no_name_of_a_split_is_of_the_other(task, seed):
    for split in ("train", "test"):
        context = tasks.context(task, split, Random(seed), SETTINGS[task])
        text = "\n".join([context.text, *(f"{q.text} {q.answer}" for q in context.questions)])
        assert {names.split_of(name) for name in NAME.findall(text)} == {split}


@given(seed=st.integers(0, 10_000), count=st.integers(1, 48), split=st.sampled_from(["train", "test"]))
@settings(max_examples=50, deadline=None)
def test_drawn_names_share_no_word(seed, count, split):
    drawn = names.draw(Random(seed), split, count)
    halves = [half for name in drawn for half in name.split("_")]
    assert len(drawn) == count and len(set(halves)) == 2 * count


@pytest.mark.parametrize("task", tasks.TASKS)
def test_right_answer_scores_one_and_another_items_answer_does_not(task):
    made = tasks.items(task, "test", 30, 0, SETTINGS[task])
    for item, other in pairwise(made):
        assert tasks.score(item, item.answer)["score"] == 1.0
        assert tasks.score(item, item.answer + "\nand more")["score"] == 1.0
        assert tasks.score(item, other.answer)["score"] < 1.0
        assert tasks.score(item, "")["score"] < 1.0


def test_code_answers_complete_to_valid_calls_of_functions_in_the_prompt():
    for item in tasks.items("code", "test", 20, 0, SETTINGS["code"]):
        call = ast.parse(item.meta["function"] + "(" + item.answer, mode="eval").body
        assert isinstance(call, ast.Call) and f"def {call.func.id}(" in item.prompt


def test_code_ignores_spacing_but_not_order():
    item = tasks.items("code", "test", 1, 0, SETTINGS["code"])[0]
    inside = [part.strip() for part in item.answer.strip(" )").split(",")]
    assert tasks.score(item, ",".join(inside) + ")")["score"] == 1.0
    assert tasks.score(item, ",".join(reversed(inside)) + ")")["score"] == 0.0


def test_sql_equal_result_counts_even_if_the_text_differs():
    item = tasks.items("sql", "test", 1, 0, SETTINGS["sql"])[0]
    swapped = item.answer.replace(f"= {item.meta['value']}", f"IN ({item.meta['value']})")
    assert tasks.score(item, swapped) == {"score": 1.0, "exact_match": 0.0, "valid": 1.0}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE {t}",
        "SELECT 1; DROP TABLE {t}",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "PRAGMA table_info({t})",
        "INSERT INTO {t} VALUES (1,2,3)",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c",
        "SELECT load_extension('x')",
        "SELECT",
        "",
    ],
)
def test_generated_sql_can_only_read_and_only_for_a_while(statement):
    meta = tasks.items("sql", "test", 1, 0, SETTINGS["sql"])[0].meta
    assert sql.rows_of(statement.format(t=meta["table"]), meta) is None


def test_summary_gets_partial_credit_per_field():
    item = tasks.items("summarise", "test", 1, 0, SETTINGS["summarise"])[0]
    first_fact = item.answer.split(";")[0]
    score = tasks.score(item, first_fact)
    assert 0.5 < score["score"] < 1.0 and score["exact_match"] == 0.0


def test_unknown_task_and_impossible_settings_are_named():
    with pytest.raises(UserError, match="'poem'"):
        tasks.items("poem", "test", 1, 0, {})
    with pytest.raises(UserError, match=r"tasks\.code"):
        tasks.items("code", "test", 1, 0, {"records": 500, "values": 3})


def test_every_word_is_one_token_wherever_it_stands(tokenizer):
    first, second = names.FIRST[5], names.SECOND[7]
    for text in (f"def {first}_{second}( x", f"FROM {first}_{second} ;", f" {first}_{second}\n"):
        assert f"Ġ{first}" in tokenizer.tokenize(text) and f"_{second}" in tokenizer.tokenize(text)


@given(text=st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_tokenizer_gives_back_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token not in text and tokenizer.pad_token not in text:
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("task", tasks.TASKS)
def test_prompt_to_answer_ratio_is_about_ten(tokenizer, task):
    made = tasks.items(task, "test", 50, 0, SETTINGS[task])
    prompt = sum(len(tokenizer(item.prompt)["input_ids"]) for item in made)
    answer = sum(len(tokenizer(item.answer)["input_ids"]) + 1 for item in made)
    assert 8 <= prompt / answer <= 12


def test_batches_are_seekable_and_mark_exactly_the_answers(tokenizer):
    one, again = (batch(SETTINGS, tokenizer, 4, 320, seed=1, index=9) for _ in range(2))
    assert (one.input_ids == again.input_ids).all() and (one.answers == again.answers).all()
    assert one.tokens == int((one.input_ids != tokenizer.pad_token_id).sum())
    for ids, flags in zip(one.input_ids, one.answers, strict=True):
        answers = tokenizer.decode(ids[flags]).split(tokenizer.eos_token)
        assert len(answers) >= 3 and answers[-1] == ""
        assert not any("def " in answer or "who is" in answer for answer in answers)


def test_row_too_short_for_a_question_is_named(tokenizer):
    with pytest.raises(UserError, match="sequence_length 64"):
        batch(SETTINGS, tokenizer, 4, 64, seed=1, index=0)
