"""The enterprise tasks on real data, on hand-made rows: which items, which prompt for which model, which score."""

from copy import deepcopy

import pytest

from swiftkv.errors import UserError
from swiftkv.workloads import real, sqlite_sandbox
from swiftkv.workloads.fim import FIM_TOKENS
from swiftkv.workloads.real import SETS, defog
from swiftkv.workloads.real.postgres import to_sqlite
from swiftkv.workloads.tasks.base import Item
from tests.helpers.real_rows import ADD, QUERIES, items, make_mirror, right


@pytest.fixture
def hand_made(tmp_path, monkeypatch):
    return make_mirror(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", SETS)
def test_right_answer_scores_one_and_an_empty_one_does_not(name, hand_made, tiny_tokenizer):
    (item,) = items(name, tiny_tokenizer)
    found = SETS[name].score(item, right(item))
    assert tuple(found) == SETS[name].metrics
    assert found["score"] == found["exact_match"] == 1.0
    assert SETS[name].score(item, "")["score"] == 0.0
    assert SETS[name].score(item, "nothing of the kind")["score"] < 1.0


def test_items_depend_on_the_seed_and_fewer_are_the_first_of_more(hand_made, tiny_tokenizer):
    drawn = [real.items("defog", {"items": 3}, seed, tiny_tokenizer, False) for seed in range(5)]
    assert drawn[0] == items("defog", tiny_tokenizer, 3)
    assert items("defog", tiny_tokenizer, 2) == drawn[0][:2]
    assert len({tuple(item.id for item in its) for its in drawn}) > 1
    with pytest.raises(UserError, match=r"accuracy\.real\.defog\.items: 4; the set has 3"):
        items("defog", tiny_tokenizer, 4)


# ---- prompts


def test_a_base_model_goes_on_from_the_prompt(hand_made, tiny_tokenizer):
    for item in items("humaneval_infilling", tiny_tokenizer, 2):
        assert item.prompt.endswith(f"```python\n{item.meta['before']}")
        assert item.meta["after"] in item.prompt
    assert items("humaneval", tiny_tokenizer)[0].prompt.endswith(ADD["prompt"])
    assert "-- what was sold" in items("defog", tiny_tokenizer)[0].prompt
    assert "Ann Lee wrote it." in items("nq_open", tiny_tokenizer)[0].prompt


def test_chat_template_gives_the_user_the_instruction_and_the_model_the_lead(hand_made, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<me>"
    (item,) = items("nq_open", tokenizer, chat=True)
    assert item.prompt.startswith("<user>Answer the question") and item.prompt.endswith("wrote it?</><me>Answer:")
    with pytest.raises(UserError, match=r"accuracy\.chat_template: true, but .* no chat template"):
        items("nq_open", tiny_tokenizer, chat=True)


@pytest.mark.parametrize("marks", FIM_TOKENS, ids=["qwen", "starcoder", "deepseek"])
def test_infilling_uses_the_tokens_for_it_where_there_are_any(marks, hand_made, tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(list(marks), special_tokens=True)
    (item,) = items("humaneval_infilling", tokenizer)
    assert item.prompt == f"{marks[0]}{item.meta['before']}{marks[1]}{item.meta['after']}{marks[2]}"
    assert marks[0] not in items("humaneval_infilling", tokenizer, fim=False)[0].prompt
    assert marks[0] not in items("humaneval", tokenizer)[0].prompt


def test_a_tokenizer_that_begins_texts_with_a_token_has_it_in_the_prompt(hand_made, tiny_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = deepcopy(tiny_tokenizer)
    plain = items("nq_open", tokenizer)[0].prompt
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    assert items("nq_open", tokenizer)[0].prompt == plain, "the tokenizer knows it, and does not put it there"
    begin = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begin
    (item,) = items("nq_open", tokenizer)
    assert item.prompt == f"<s>{plain}"
    ids = tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer(plain)["input_ids"]


# ---- scores


def test_infilling_compares_the_function_not_its_spacing(hand_made, tiny_tokenizer):
    item = next(i for i in items("humaneval_infilling", tiny_tokenizer, 2) if i.id == "Gap/0")
    spaced = SETS[item.task].score(item, "    total = (a+b)  # sum")
    assert (spaced["score"], spaced["exact_match"], spaced["valid"]) == (1.0, 0.0, 1.0)
    assert 0 < spaced["edit_similarity"] < 1
    other = SETS[item.task].score(item, "    total = a - b")
    assert (other["score"], other["valid"]) == (0.0, 1.0)
    for line in ("total = a + b", "    total = (a + b", "    " + "(" * 5000, "\0"):
        assert SETS[item.task].score(item, line)["valid"] == 0.0


def test_humaneval_is_compared_and_never_run(hand_made, tiny_tokenizer, tmp_path):
    (item,) = items("humaneval", tiny_tokenizer)
    spaced = SETS["humaneval"].score(item, "    total = a+b\n    return total\n```\nSo it is.")
    assert spaced["exact_match"] == 1.0 and 0.9 < spaced["score"] < 1.0
    assert SETS["humaneval"].score(item, "    total = a + b\n    return (total\n")["score"] == 0.0
    harm = f"    pass\nopen({str(tmp_path / 'made')!r}, 'w')\n"
    assert SETS["humaneval"].score(item, harm)["valid"] == 1.0
    assert not (tmp_path / "made").exists()


def defog_item(hand_made, tokenizer, category: str) -> Item:
    number = list(QUERIES.values()).index(category)
    return next(item for item in items("defog", tokenizer, 3) if item.id == f"defog/{number}")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT SUM(price) AS total, item FROM sale GROUP BY 2;", 1.0),
        ("SELECT MAX(day), SUM(price) * 1.0, item, COUNT(*) FROM sale GROUP BY item ORDER BY item", 1.0),
        ("SELECT item, 6 FROM sale GROUP BY item", 0.0),
        ("SELECT item FROM sale GROUP BY item", 0.0),
        ("SELECT CASE SUM(price) WHEN 6 THEN 'pot' ELSE 'tea' END, SUM(price) FROM sale GROUP BY item", 0.0),
        ("SELECT item FROM sale WHERE price > 100", 0.0),
        ("SELECT item, SUM(price) FROM sale GROUP BY item\n```\nDone.", 1.0),
        ("SELECT item, SUM(price) FROM sale GROUP BY item; SELECT 1", 0.0),
        ("DROP TABLE sale", 0.0),
    ],
)
def test_sql_counts_by_what_it_returns(statement, expected, hand_made, tiny_tokenizer):
    item = defog_item(hand_made, tiny_tokenizer, "group_by")
    assert SETS["defog"].score(item, statement)["score"] == expected


def test_sql_order_counts_where_the_question_is_about_it(hand_made, tiny_tokenizer):
    item = defog_item(hand_made, tiny_tokenizer, "order_by")
    assert SETS["defog"].score(item, "SELECT price, item FROM sale ORDER BY 1 DESC")["score"] == 1.0
    assert SETS["defog"].score(item, "SELECT price, item FROM sale ORDER BY 1")["score"] == 0.0


def test_sql_clock_stands_at_the_day_of_the_data(hand_made, tiny_tokenizer):
    item = defog_item(hand_made, tiny_tokenizer, "date_functions")
    assert sqlite_sandbox.run(item.meta["script"], [defog.stop_clock("SELECT date('now'), CURRENT_DATE")]) == [
        [["2025-01-29", "2025-01-29"]]
    ]
    assert SETS["defog"].score(item, "SELECT COUNT(*) FROM sale WHERE day > '2025-01-27'")["score"] == 1.0
    assert SETS["defog"].score(item, "SELECT COUNT(*) FROM sale WHERE day >= CURRENT_DATE")["score"] == 0.0


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("NOW()", "'2025-01-29 12:00:00'"),
        ("CURRENT_DATE - INTERVAL '3 days'", "'2025-01-26'"),
        ("now() - interval '1 year' + interval '15 min'", "'2024-01-29 12:15:00'"),
        ("DATE_TRUNC('month', CURRENT_DATE) - INTERVAL '2 months'", "'2024-11-01'"),
        ("DATE_TRUNC('week', CURRENT_TIMESTAMP) - INTERVAL '8 week' + INTERVAL '1 day'", "'2024-12-03 00:00:00'"),
        ("EXTRACT(YEAR FROM CURRENT_DATE) - 2", "2025 - 2"),
        ("EXTRACT(EPOCH FROM CURRENT_TIMESTAMP - INTERVAL '1 day') * 1000", "1738065600 * 1000"),
        ("TO_CHAR(CURRENT_DATE - INTERVAL '1 month', 'Month')", "'December'"),
        ("TO_CHAR(NOW(), '%Y%m%d %H:%i:%s')", "'20250129 12:00:00'"),
        ("x bigint DEFAULT '0'::bigint NOT NULL", "x bigint DEFAULT '0' NOT NULL"),
        ("INSERT INTO public.t (a) VALUES ('public.t')", "INSERT INTO t (a) VALUES ('public.t')"),
    ],
)
def test_postgres_becomes_sqlite(expression, expected):
    assert to_sqlite(expression) == expected


def test_summaries_of_the_whole_meeting_or_of_the_relevant_turns(hand_made, tiny_tokenizer):
    whole = items("qmsum", tiny_tokenizer, 2)
    assert all("Ann: Ann speaks .\nBen: Ben speaks .\nCem" in item.prompt for item in whole)
    (item,) = items("qmsum", tiny_tokenizer, 1, transcript="relevant")
    assert "\n\nBen: Ben speaks .\nDan: Dan speaks .\n\nAnswer" in item.prompt and item.answer == "Dan did."
    found = SETS["qmsum"].score(item, "Dan came.")
    assert (found["score"], found["rouge1"], found["length_ratio"]) == (0.5, 0.5, 1.0)
    assert SETS["qmsum"].score(item, "did Dan")["rouge1"] == 1.0 > SETS["qmsum"].score(item, "did Dan")["score"]


def test_any_annotated_answer_counts_as_squad_compares_it(hand_made, tiny_tokenizer):
    (item,) = items("nq_open", tiny_tokenizer)
    for text in ("ann lee", "Lee.", "a Lee!"):
        assert SETS["nq_open"].score(item, text) == {"score": 1.0, "exact_match": 1.0}
    assert SETS["nq_open"].score(item, "It was Lee") == {"score": 0.5, "exact_match": 0.0}
