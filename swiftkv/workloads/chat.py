"""Chat messages: rows of known data sets, and their tokens in a model's chat template with the answers marked."""

import re
from functools import partial

import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from swiftkv.errors import UserError
from swiftkv.workloads.packing import Document

LISTS = ("messages", "conversations", "conversation")
FIELDS = (("role", "content"), ("from", "value"))  # the second pair and its roles: ShareGPT
ROLES = {name: name for name in ("system", "user", "assistant")} | {"human": "user", "gpt": "assistant"}
# Columns of prompt and answer: OpenOrca; GSM8K; TRL, whose columns may also be lists of messages; others; Alpaca.
PAIRS = (
    ("question", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
)
SYSTEM = ("system_prompt", "system")
ACCEPTED = (
    "a list `messages`, `conversations` or `conversation` of {role, content} or {from, value}; the columns of one pair "
    f"of {', '.join(f'`{asked}`/`{answered}`' for asked, answered in PAIRS)} and, if wanted, `system_prompt`; or `text`"
)
GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
# Llama 3.x templates write a date, 3.2 today's unless it is given: this one is 3.1's default.
DATE = "26 Jul 2024"


def is_text(value) -> bool:
    """Whether `value` is a string that UTF-8 can hold; JSON may carry half of a surrogate pair."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        return False
    return True


def message(turn, where: str) -> dict:
    """One turn as {role, content}. Raises UserError unless it is a turn of a known role with text."""
    for role, content in FIELDS:
        if isinstance(turn, dict) and str(turn.get(role)) in ROLES and is_text(turn.get(content)):
            return {"role": ROLES[turn[role]], "content": turn[content]}
    raise UserError(
        f"{where}: turn {ascii(turn)[:80]} needs valid text and a role of {', '.join(ROLES)}, "
        "as {role, content} or {from, value}"
    )


def columns_of(row: dict) -> tuple[str, str] | None:
    """The columns of prompt and answer, if the row has such a pair."""
    return next((pair for pair in PAIRS if {*pair} <= row.keys()), None)


def is_chat(row: dict) -> bool:
    """Whether a row has the columns of a conversation."""
    return any(isinstance(row.get(name), list) for name in LISTS) or columns_of(row) is not None


def turns_of(value, role: str) -> list:
    """The turns that a column holds: a list of them, or the text of one."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def paired(row: dict, columns: tuple[str, str]) -> list:
    """The turns of a row with columns of prompt and answer. Alpaca's `input` is the rest of its instruction."""
    asked, answered = (row[name] for name in columns)
    if columns == ("instruction", "output") and row.get("input"):
        asked = f"{asked}\n\n{row['input']}"
    system = next((row[name] for name in SYSTEM if row.get(name)), "")
    return [{"role": "system", "content": system}, *turns_of(asked, "user"), *turns_of(answered, "assistant")]


def messages(row, where: str) -> list[dict]:
    """The conversation of a data set's row as {role, content} of system, user and assistant.

    A system message without text is left out. Raises UserError naming the columns of an unknown row, or the turn
    that cannot be read.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: {str(row)[:80]!r} is not an object; accepted is {ACCEPTED}")
    turns = next((row[name] for name in LISTS if isinstance(row.get(name), list)), None)
    if turns is None and (columns := columns_of(row)):
        turns = paired(row, columns)
    if turns is None:
        raise UserError(f"{where}: the columns {', '.join(map(str, row))} hold no conversation; accepted is {ACCEPTED}")
    read = [message(turn, where) for turn in turns]
    if "answer" in row and read and read[-1]["role"] == "user":  # AceMath-Instruct
        read.append(message({"role": "assistant", "content": row["answer"]}, where))
    return [turn for turn in read if turn["content"] or turn["role"] != "system"]


class ChatTemplate:
    """A tokenizer's chat template. Raises UserError if it has none."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template()
        except ValueError:
            raise UserError("the base model's tokenizer has no chat template, so chats cannot be trained on") from None
        self.marked = GENERATION.search(template) is not None
        self.special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        settings = {**tokenizer.special_tokens_map, "date_string": DATE}
        self.jinja = partial(render_jinja_template, chat_template=template, **settings)

    def text(self, conversation: list[dict], add_generation_prompt: bool = False) -> str:
        """The conversation as the model sees it."""
        return self.jinja(conversations=[conversation], add_generation_prompt=add_generation_prompt)[0][0]

    def render(self, conversation: list[dict], where: str) -> tuple[str, list[tuple[int, int]]]:
        """The conversation's text and the character spans of its answers, their end-of-turn token included.

        The spans are the template's `{% generation %}` blocks if it has them, else what each assistant turn adds
        to the prompt before it. Raises UserError if such a prompt is not how the text goes on, and
        jinja2.TemplateError if the template refuses the conversation.
        """
        if self.marked:
            texts, spans = self.jinja(conversations=[conversation], return_assistant_tokens_mask=True)
            return texts[0], spans[0]
        text = self.text(conversation)
        turns = [number for number, turn in enumerate(conversation) if turn["role"] == "assistant"]
        return text, [self.span(conversation, turn, text, where) for turn in turns]

    def span(self, conversation: list[dict], turn: int, text: str, where: str) -> tuple[int, int]:
        """Where assistant turn number `turn` stands in the conversation's `text`."""
        prompt = self.text(conversation[:turn], add_generation_prompt=True)
        answered = text if turn + 1 == len(conversation) else self.text(conversation[: turn + 1])
        for part, begins, name in ((prompt, answered, "the prompt before it"), (answered, text, "the chat up to it")):
            if not begins.startswith(part):
                raise UserError(
                    f"{where}: turn {turn}: {name} is not how the chat template begins the longer chat, so answers "
                    "cannot be told apart; give the tokenizer a template with {% generation %} around them"
                )
        shown = answered.rstrip()  # what follows the end-of-turn token is never generated
        return len(prompt), len(shown if shown.endswith(self.special) else answered)

    def encode(self, rendered: list[tuple[str, list[tuple[int, int]]]]) -> list[Document]:
        """Tokens of what `render` returned, an answer's wherever they overlap one of its spans.

        The template has written every special token, BOS too, so none is added. The spans are mapped to tokens
        here because `return_assistant_tokens_mask` marks all the rest of a chat if the tokenizer strips a span's
        last character (https://github.com/huggingface/transformers/issues/47325).
        """
        encoded = self.tokenizer(
            [text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        documents = []
        for ids, offsets, (_, spans) in zip(encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True):
            starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
            inside = [(starts < end) & (ends > start) for start, end in spans]
            answers = np.logical_or.reduce(inside) if inside else np.zeros(len(ids), dtype=bool)
            documents.append(Document(np.array(ids, dtype=np.int32), answers))
        return documents
