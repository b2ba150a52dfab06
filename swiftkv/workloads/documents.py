"""Documents made of rows of chats and plain text: tokenised, fitted to a row's length, what is left out counted.

A text begins with BOS where the tokenizer begins every text with one, and ends with EOS where the tokenizer has one. It
has no answers, so it is trained on by students whose loss is on all tokens alone.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jinja2 import TemplateError

from swiftkv.workloads.chat import ChatTemplate
from swiftkv.workloads.packing import Document
from swiftkv.workloads.tokens import bos_id

HELD_OUT = 50  # one row in fifty belongs to the test split
TRUNCATE, SPLIT, DROP = "truncate", "split", "drop"


def split_of(content: str | list[dict]) -> str:
    """'test' or 'train': of a text by itself, of a chat by its prompts alone, so that one prompt's answers are on one
    side."""
    if not isinstance(content, str):
        content = "\n".join(turn["content"] for turn in content if turn["role"] != "assistant")
    return "test" if zlib.crc32(content.encode()) % HELD_OUT == 0 else "train"


@dataclass
class Tally:
    """How many rows became documents, what was changed on the way, and what was left out, by reason."""

    kept: Counter = field(default_factory=Counter)
    changed: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)

    def record(self) -> dict:
        """For the provenance."""
        return {"kept": dict(self.kept), "changed": dict(self.changed), "dropped": dict(self.dropped)}


def listed(counts: Counter) -> str:
    """Counts in words."""
    return ", ".join(f"{number} {reason}" for reason, number in counts.items()) or "none"


def pieces(document: Document, length: int, head: int) -> Iterator[Document]:
    """The document in pieces of at most `length` tokens; each begins with its first `head` tokens, the rest comes once
    and in order."""
    first = document.ids[:head], np.zeros(head, dtype=bool)
    for start in range(head, len(document.ids), length - head):
        place = slice(start, start + length - head)
        yield Document(*map(np.concatenate, zip(first, (document.ids[place], document.answers[place]), strict=True)))


class Maker:
    """Makes documents of at most `length` tokens of contents that belong to `split`, and counts in `tally`.

    rule: what becomes of longer ones; None: chats are truncated and texts split. least: answer tokens of a chat.
    texts: whether plain text is taken.
    """

    def __init__(self, tokenizer, split: str, length: int, rule: str | None, least: int, texts: bool):
        self.tokenizer, self.split, self.length, self.rule = tokenizer, split, length, rule
        self.least, self.texts, self.tally, self.template = least, texts, Tally(), None
        self.bos = bos_id(tokenizer)

    def documents(self, group: list[tuple[str, str | list[dict]]]) -> list[Document]:
        """Documents of a group of contents with their places. Raises UserError as `ChatTemplate` does."""
        mine = [(where, content) for where, content in group if split_of(content) == self.split]
        if others := len(group) - len(mine):
            self.tally.dropped["of the other split"] += others
        texts = [content for _, content in mine if isinstance(content, str)]
        chats = [(where, content) for where, content in mine if not isinstance(content, str)]
        return [*self.of_chats(chats), *self.of_texts(texts)]

    def of_chats(self, chats: list[tuple[str, list[dict]]]) -> Iterator[Document]:
        """Documents of chats in the tokenizer's chat template."""
        rendered = list(self.rendered(chats))
        if not rendered:
            return
        for document in self.template.encode(rendered):
            if document.answers.sum() < self.least:
                self.tally.dropped[f"with fewer than {self.least} answer tokens"] += 1
                continue
            fitted = list(self.fit(document, "chats", self.rule or TRUNCATE))
            answering = [piece for piece in fitted if piece.answers.any()]
            if fitted and not answering:
                self.tally.dropped[f"whose answer begins after {self.length} tokens"] += 1
            elif len(answering) < len(fitted):
                self.tally.dropped["pieces of chats without an answer"] += len(fitted) - len(answering)
            self.tally.kept["chats"] += bool(answering)
            yield from answering

    def rendered(self, chats: list[tuple[str, list[dict]]]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Texts and answer spans of the chats that the template takes."""
        for where, conversation in chats:
            self.template = self.template or ChatTemplate(self.tokenizer)
            try:
                yield self.template.render(conversation, where)
            except TemplateError as error:
                self.tally.dropped[f"refused by the chat template ({error})"] += 1

    def of_texts(self, texts: list[str]) -> Iterator[Document]:
        """Documents of plain text."""
        if not self.texts:
            if texts:
                self.tally.dropped["of text, which has no answers (loss_on: answers)"] += len(texts)
            return
        filled = [text for text in texts if text.strip()]
        if empty := len(texts) - len(filled):
            self.tally.dropped["of empty text"] += empty
        for ids in encode_texts(self.tokenizer, filled):
            fitted = list(self.fit(Document(ids, np.zeros(len(ids), dtype=bool)), "texts", self.rule or SPLIT))
            self.tally.kept["texts"] += bool(fitted)
            yield from fitted

    def fit(self, document: Document, kind: str, rule: str) -> Iterator[Document]:
        """The document, or what `rule` makes of one that is longer than a row."""
        beyond = len(document.ids) - self.length
        if beyond <= 0:
            yield document
        elif rule == DROP:
            self.tally.dropped[f"{kind} longer than {self.length} tokens"] += 1
        elif rule == TRUNCATE:
            self.tally.changed[f"{kind} truncated"] += 1
            self.tally.changed["tokens cut off"] += beyond
            yield Document(document.ids[: self.length], document.answers[: self.length])
        else:
            parts = list(pieces(document, self.length, int(self.bos is not None and document.ids[0] == self.bos)))
            self.tally.changed[f"{kind} split"] += 1
            self.tally.changed[f"pieces of {kind}"] += len(parts)
            yield from parts


def encode_texts(tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
    """Token ids [T] int32 of each text, with BOS and EOS where the tokenizer has them (see above)."""
    if not texts:
        return
    start = [] if (bos := bos_id(tokenizer)) is None else [bos]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        yield np.array([*start, *ids, *end], dtype=np.int32)
