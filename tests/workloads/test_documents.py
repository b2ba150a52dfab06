"""Documents made of rows: what is longer than a row keeps every token when it is split, and all else is counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.workloads.documents import Maker, pieces
from swiftkv.workloads.packing import Document
from tests.helpers.chat_templates import FIRST, PLAIN, chat, with_template

TEXTS = st.lists(st.text("ab \n", max_size=60), max_size=8)


def maker(tokenizer, length=16, rule=None, texts=True) -> Maker:
    return Maker(tokenizer, "train", length, rule, 1, texts)


@given(tokens=st.integers(1, 200), length=st.integers(2, 40), head=st.integers(0, 1))
def test_pieces_hold_every_token_once_and_begin_alike(tokens, length, head):
    ids = np.arange(100, 100 + tokens, dtype=np.int32)
    whole = Document(ids, ids % 3 == 0)
    parts = list(pieces(whole, length, head))
    assert all(head < len(part.ids) <= length or tokens == head for part in parts)
    assert all(part.ids[:head].tolist() == ids[:head].tolist() and not part.answers[:head].any() for part in parts)
    assert [token for part in parts for token in part.ids[head:]] == ids[head:].tolist()
    assert [flag for part in parts for flag in part.answers[head:]] == whole.answers[head:].tolist()


@given(texts=TEXTS, rule=st.sampled_from([None, "truncate", "split", "drop"]))
def test_every_text_is_kept_or_counted(tiny_tokenizer, texts, rule):
    made = maker(tiny_tokenizer, rule=rule)
    found = made.documents([("here", text) for text in texts])
    tally = made.tally
    assert tally.kept["texts"] + sum(tally.dropped.values()) == len(texts)
    assert all(len(document.ids) <= 16 for document in found)
    assert len(found) == tally.kept["texts"] + tally.changed["pieces of texts"] - tally.changed["texts split"]


def test_a_text_ends_with_eos_and_begins_with_bos_where_the_tokenizer_has_them(tiny_tokenizer):
    (plain,) = maker(tiny_tokenizer).documents([("here", "a b")])
    assert tiny_tokenizer.decode(plain.ids) == "a b" + tiny_tokenizer.eos_token
    with_bos = with_template(tiny_tokenizer, None)
    parts = maker(with_bos, length=8).documents([("here", "a b " * 9)])
    assert len(parts) > 1 and all(part.ids[0] == with_bos.bos_token_id for part in parts)
    assert sum((part.ids == with_bos.bos_token_id).sum() for part in parts) == len(parts)


def test_pieces_of_a_chat_without_an_answer_are_left_out(tiny_tokenizer):
    made = maker(with_template(tiny_tokenizer, PLAIN), length=32, rule="split")
    found = made.documents([("here", chat("q " * 80, "a b " * 40))])
    assert found and all(document.answers.any() for document in found)
    assert made.tally.dropped["pieces of chats without an answer"] > 0


ANSWERED, BACKWARDS = chat("q", "a b c"), [{"role": "assistant", "content": "hello"}, *chat("hi", "yes")]
SYSTEM, UNANSWERED = [{"role": "system", "content": "be brief"}], chat("q", "")


@pytest.mark.parametrize("template", [PLAIN, FIRST])
@pytest.mark.parametrize("split", ["train", "test"])
def test_chats_without_question_or_answer_are_kept_or_counted(tiny_tokenizer, template, split):
    """None at all, an answer first, a system message alone, an empty answer."""
    made = Maker(with_template(tiny_tokenizer, template), split, 64, None, 3, False)
    found = made.documents([("here", one) for one in ([], BACKWARDS, SYSTEM, UNANSWERED, ANSWERED)])
    assert len(found) == made.tally.kept["chats"] and len(found) + sum(made.tally.dropped.values()) == 5
    if split == "train":
        # In the second template no prompt is empty, as that of the first answer would be.
        assert made.tally.kept["chats"] == (2 if template is PLAIN else 1)
        assert made.tally.dropped["with fewer than 3 answer tokens"] == 2
    elif template is FIRST:
        assert any(reason.startswith("refused by the chat template") for reason in made.tally.dropped)
    else:
        assert not found


@pytest.mark.parametrize("text", [" ", " \n"])
def test_an_empty_text_is_counted(tiny_tokenizer, text):
    made = maker(tiny_tokenizer)
    assert not made.documents([("here", text)])
    assert made.tally.dropped == {"of empty text": 1}
