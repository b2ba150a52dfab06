"""Chats: answers are marked exactly in every shape of template, known data sets are read, others are named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv.errors import UserError
from swiftkv.workloads.chat import ChatTemplate, messages
from tests.helpers.chat_templates import FOLDED, LINES, MARKED, PLAIN, STRIPPED, UNPROMPTED, chat, with_template

TEXT = st.text(st.sampled_from("abc ñ漢🙂.,\n"), max_size=12)


def encode(tokenizer, conversation, where="here"):
    template = ChatTemplate(tokenizer)
    return template.encode([template.render(conversation, where)])[0]


@pytest.mark.parametrize("template", [PLAIN, MARKED, LINES])
@settings(max_examples=25)
@given(texts=st.lists(TEXT, min_size=1, max_size=5), system=st.none() | TEXT)
def test_answers_and_nothing_else_are_marked(tiny_tokenizer, template, texts, system):
    tokenizer, conversation = with_template(tiny_tokenizer, template), chat(*texts, system=system)
    document = encode(tokenizer, conversation)
    answers = "".join(turn["content"] + "<|end|>" for turn in conversation if turn["role"] == "assistant")
    assert tokenizer.decode(document.ids[document.answers]) == answers
    assert tokenizer.decode(document.ids) == tokenizer.apply_chat_template(conversation, tokenize=False)
    assert (document.ids == tokenizer.bos_token_id).sum() == 1


def test_a_folded_system_message_is_no_answer(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, FOLDED)
    document = encode(tokenizer, chat("who", "me", "why", "so", system="be brief"))
    assert tokenizer.decode(document.ids[document.answers]) == "me<|end|>so<|end|>"
    assert "be brief" in tokenizer.decode(document.ids[~document.answers])


@pytest.mark.parametrize(
    ("template", "reason"),
    [(STRIPPED, "chats:7: turn 1: the chat up to it"), (UNPROMPTED, "chats:7: turn 1: the prompt before it")],
)
def test_a_template_that_hides_where_answers_are_is_refused(tiny_tokenizer, template, reason):
    with pytest.raises(UserError, match=f"{reason} .*generation"):
        encode(with_template(tiny_tokenizer, template), chat("a", "b", "c", "d"), "chats:7")


def test_a_date_in_the_template_is_not_todays(tiny_tokenizer):
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    assert ChatTemplate(with_template(tiny_tokenizer, dated)).text(chat("a", "b")) == "26 Jul 2024"


OPENAI = chat("Q", "A", system="S")
SHAREGPT = [
    {"from": "system", "value": "S"},
    {"from": "human", "value": "Q"},
    {"from": "gpt", "value": "A", "weight": 1},
]
OPENORCA = {"id": "x", "system_prompt": "S", "question": "Q", "response": "A"}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"prompt": "Q", "messages": OPENAI}, id="ultrachat"),
        pytest.param({"conversation": OPENAI, "model": "x"}, id="lmsys"),
        pytest.param({"conversations": SHAREGPT, "source": "x"}, id="slimorca-openhermes"),
        pytest.param({"messages": chat("Q", system="S"), "answer": "A"}, id="acemath"),
        pytest.param(OPENORCA, id="openorca"),
        pytest.param({"system": "S", "question": "Q", "answer": "A"}, id="gsm8k"),
        pytest.param({"system": "S", "instruction": "Q", "input": "", "output": "A"}, id="alpaca"),
        pytest.param({"prompt": OPENAI[:2], "completion": OPENAI[2:]}, id="trl-messages"),
        pytest.param({"prompt": "Q", "completion": "A", "system": "S"}, id="trl"),
    ],
)
def test_known_data_sets_are_read_as_messages(row):
    assert messages(row, "here") == OPENAI


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_system_message_is_left_out(empty):
    assert messages(OPENORCA | {"system_prompt": empty}, "here") == OPENAI[1:]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x", "label": 1}, "here: the columns text, label hold no conversation; accepted is"),
        (["x"], "here: .* is not an object"),
        ({"messages": ["x"]}, "here: turn .x. needs"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "here: turn .*user.* a role of system, user"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "here: turn .*judge.* a role of system, user"),
        ({"messages": [{"role": "user", "content": None}]}, "here: turn .*None.* needs valid text"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "here: turn .*needs valid text"),
        ({"question": "Q", "response": 3}, "here: turn .*3.* needs valid text"),
    ],
)
def test_unknown_rows_are_named(row, reason):
    with pytest.raises(UserError, match=reason):
        messages(row, "here")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}], "turn .*None.* needs valid text"),
        ([{"role": "tool", "content": "42", "tool_call_id": "1"}], "turn .*tool.* a role of system, user"),
        ([{"role": "user", "content": [{"type": "text", "text": "Q"}]}], "turn .*'type': 'text'.* needs valid text"),
    ],
    ids=["null content", "tool's answer", "parts"],
)  # fmt: skip
def test_turns_of_tools_and_lists_of_parts_are_named(row, reason):
    with pytest.raises(UserError, match=f"here: {reason}") as error:
        messages({"messages": [*chat("Q"), *row]}, "here")
    assert "\n" not in str(error.value)


def test_characters_beyond_the_basic_plane_are_read(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, PLAIN)
    document = encode(tokenizer, chat("which 🙂?", "this one: 🦜"))
    assert tokenizer.decode(document.ids[document.answers]) == "this one: 🦜<|end|>"
