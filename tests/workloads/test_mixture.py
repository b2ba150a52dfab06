"""Kinds of rows that are made: the same for a seed, holes that fit their function, SQL that runs, bad files named."""

import ast
import json
from copy import deepcopy
from itertools import islice
from random import Random

import pytest

from swiftkv.errors import UserError
from swiftkv.workloads import sqlite_sandbox
from swiftkv.workloads.fim import FIM_TOKENS
from swiftkv.workloads.mixture import answered, code, databases, given, sql, tasks, text_of, texts

SETTINGS = {"rag": {"records": 3, "values": 1}, "sql": {"records": 2, "values": 2}}
FUNCTION = "def f(x):\n    y = x + 1\n\n    if y:\n        return y\n    return x\n"


def endless(seed: int) -> dict[str, list[dict]]:
    """The first rows of the kinds that need no file."""
    made = {"tasks": tasks.rows(None, SETTINGS, Random(seed)), "sql": sql.rows(Random(seed))}
    return {kind: list(islice(rows, 12)) for kind, rows in made.items()}


def test_rows_depend_on_the_seed_alone():
    first, again, other = endless(1), endless(1), endless(2)
    for kind, rows in first.items():
        assert rows == again[kind] != other[kind]
        assert all(answered(row) and text_of(row) for row in rows)


# ---- text and code


@pytest.fixture
def corpus(monkeypatch):
    """A corpus of three texts, of which one has too little for a passage."""
    held = ["short\n", "\n\n".join(f"Paragraph {n} of the first. " * 9 for n in range(40)), "x y z. " * 300]
    monkeypatch.setattr(texts, "corpus", lambda name, mirror, user: iter(held))
    return held


def test_texts_come_once_each(corpus):
    rows = list(texts.rows(["peps"], None, Random(0)))
    assert sorted(row["text"] for row in rows) == sorted(corpus)


def test_passages_are_whole_paragraphs_with_an_instruction(corpus):
    asked = [row["messages"][0]["content"] for row in islice(texts.questions(["peps"], None, 6000, Random(0)), 20)]
    for text in asked:
        (instruction,) = [known for known in texts.INSTRUCTIONS if known in text]
        passage = text.replace(instruction, "").strip("\n")
        assert 1200 <= len(passage) <= 6000
        assert any(passage in whole for whole in corpus)
    assert len(set(asked)) > 5 and not answered({"messages": [{"role": "user", "content": asked[0]}]})


def test_texts_without_a_passage_give_no_questions(corpus):
    assert not list(texts.questions(["peps"], None, 10**6, Random(0)))


def test_functions_are_whole_and_stand_at_the_left_margin():
    body = "        def h():\n            pass\n\n        return h\n"
    further_left = "        return '''\n\n\n  a'''\n"
    inner = f"class A:\n    @property\n    def g(self):\n{body}\n    def k(self):\n{further_left}"
    found = list(code.functions(f"{FUNCTION}\n{inner}\ndef short():\n    pass\n"))
    assert found[0] == FUNCTION and len(found) == 2
    assert found[1].startswith("@property\ndef g(self):") and isinstance(ast.parse(found[1]).body[0], ast.FunctionDef)


@pytest.mark.parametrize("seed", range(20))
def test_prefix_middle_and_suffix_are_the_function(seed):
    prefix, middle, suffix = code.hole(FUNCTION, Random(seed))
    assert prefix + middle + suffix == FUNCTION
    assert prefix.startswith("def") and middle.strip()


def test_holes_are_made_where_the_tokenizer_has_the_marks(tiny_tokenizer, monkeypatch, tmp_path):
    (tmp_path / "a.py").write_text(FUNCTION)
    monkeypatch.setattr(code, "standard_library", lambda: iter([tmp_path / "a.py"]))
    assert [row["text"] for row in code.rows(1, tiny_tokenizer, Random(0))] == [FUNCTION]
    marked, (before, after, middle) = deepcopy(tiny_tokenizer), FIM_TOKENS[0]
    marked.add_tokens([before, after, middle])
    (row,) = code.rows(1, marked, Random(0))
    head, _, filled = row["text"].partition(middle)
    prefix, _, suffix = head.removeprefix(before).partition(after)
    assert prefix + filled + suffix == FUNCTION
    assert [row["text"] for row in code.rows(0, marked, Random(0))] == [FUNCTION]


def test_the_standard_library_is_there_without_packages_and_tests():
    paths = list(code.standard_library())
    assert {"ast.py", "textwrap.py"} <= {path.name for path in paths}
    assert not any("site-packages" in path.parts or "test" in path.parts for path in paths)


# ---- chats


def test_a_task_is_a_chat_of_its_questions():
    for row in endless(3)["tasks"]:
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and len(roles) <= 2 * tasks.TURNS
        assert row["messages"][0]["content"].startswith("# ")


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="'poetry' is not under tasks; allowed are rag, sql"):
        next(tasks.rows(["poetry"], SETTINGS, Random(0)))


@pytest.mark.parametrize("seed", range(12))
def test_every_statement_runs_and_returns_something(seed):
    rng = Random(seed)
    tables = databases.database(rng)
    made = sql.pairs(rng, tables)
    results = sqlite_sandbox.run(databases.script(tables), [statement for _, statement in made])
    assert made and all(map(sql.says_something, results))
    assert all("{" not in question and question[0].isupper() for question, _ in made)


def test_every_kind_of_question_can_be_asked():
    found = set()
    for seed in range(60):
        rng = Random(seed)
        tables = databases.database(rng)
        for make in sql.QUESTIONS:
            try:
                _, statement = make(rng, tables)
            except sql.Missing:
                continue
            (rows,) = sqlite_sandbox.run(databases.script(tables), [statement])
            assert rows is not None, statement
            found.add(make)
    assert found == set(sql.QUESTIONS)


@pytest.mark.parametrize("domain", databases.DOMAINS)
def test_a_domain_refers_to_tables_that_stand_before(domain):
    seen = set()
    for table in map(databases.parse, domain.strip().splitlines()):
        assert {column.detail for column in table.of(databases.REFERENCE)} <= seen
        seen.add(table.plural)
    assert len(seen) >= 3


@pytest.mark.parametrize("seed", range(8))
def test_every_style_of_schema_is_valid(seed):
    tables = databases.database(Random(seed))
    count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'"
    (rows,) = sqlite_sandbox.run(databases.create(tables, Random(seed)), [count])
    assert rows == [[len(tables)]]


# ---- files


def test_prompts_chats_and_texts_of_a_file(tmp_path):
    rows = [{"prompt": "a?", "id": 3}, {"question": "b?", "answer": "c"}, {"text": "d"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("e?\nf?\n")
    found = list(given.rows([str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")], Random(0)))
    assert sorted(map(text_of, found)) == ["a?", "b?\nc", "d", "e?", "f?"]
    assert sum(map(answered, found)) == 2


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "one\n\nthree\n", r"a\.txt:2: an empty prompt"),
        ("a.txt", "", r"a\.txt: empty file"),
        ("a.jsonl", '{"prompt": " "}\n', r"a\.jsonl:1: an empty prompt"),
        ("a.jsonl", '{"colour": 1}\n', r"a\.jsonl:1: the columns colour hold no conversation"),
        ("a.jsonl", '{"messages": [{"role": "system", "content": "x"}]}\n', r"a\.jsonl:1: no turn of a user"),
        ("none.jsonl", None, r"none\.jsonl: no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, reason):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        list(given.rows([str(tmp_path / name)], Random(0)))
