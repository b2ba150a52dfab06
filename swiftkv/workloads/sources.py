"""What distillation trains on: the four tasks, local chat files, or pinned chat sets from the hub.

Chats are read and tokenised once, when the first batch is asked for, and kept in memory (5 bytes per token); from
then on a batch depends on the seed and its number alone. So a resumed run sees the batches it would have seen, and
pays for reading and tokenising as the first one did, wherever it enters. One shuffled order over everything
interleaves the data sets in proportion to what was taken of them.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice

from jinja2 import TemplateError

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.config.training import Data, Dataset, Distill
from swiftkv.errors import UserError
from swiftkv.workloads import packing, stream
from swiftkv.workloads.chat import ChatTemplate, messages
from swiftkv.workloads.packing import Document
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import pad_id

BatchStream = Callable[[int], Iterator[Batch]]

HELD_OUT = 50  # one conversation in fifty belongs to the test split
GROUP = 1000  # conversations that are tokenised together


def local_rows(path: str) -> Iterator[tuple[str, object]]:
    """Place and content of each line. Raises UserError for a missing or empty file, or a line that is not JSON."""
    try:
        rows = files.read_jsonl(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as JSON Lines ({error})") from None
    if not rows:
        raise UserError(f"{path}: empty file, no conversations in it")
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row


def hub_rows(settings: Dataset) -> Iterator[tuple[str, object]]:
    """Place and content of the first `samples` rows of a data set. Raises UserError if it cannot be had."""
    path, revision = settings.path, settings.revision
    try:
        from datasets import load_dataset

        name, split = settings.name, settings.split
        rows = load_dataset(path, name, split=split, revision=revision, streaming=True)
        for number, row in enumerate(rows.take(settings.samples)):
            yield f"{path}, row {number}", row
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"distill.data.datasets: {path} at revision {revision} cannot be read ({reason}); it needs a network, and "
            "`hf auth login` where access is gated"
        ) from None


def conversations(data: Data) -> Iterator[tuple[str, list[dict]]]:
    """Place and messages of every conversation of the configured source."""
    read, entries = (local_rows, data.files) if data.source == "jsonl" else (hub_rows, data.datasets)
    for entry in entries:
        for where, row in read(entry):
            yield where, messages(row, where)


def split_of(conversation: list[dict]) -> str:
    """'test' or 'train', from the prompts alone, so that one prompt's answers are on one side."""
    prompts = "\n".join(turn["content"] for turn in conversation if turn["role"] != "assistant")
    return "test" if zlib.crc32(prompts.encode()) % HELD_OUT == 0 else "train"


def rendered(group: list, template: ChatTemplate, split: str, dropped: Counter) -> list:
    """Texts and answer spans of the group's conversations that belong to `split`; the others are counted."""
    texts = []
    for where, conversation in group:
        if split_of(conversation) != split:
            dropped["of the other split"] += 1
            continue
        try:
            texts.append(template.render(conversation, where))
        except TemplateError as error:
            dropped[f"refused by the chat template ({error})"] += 1
    return texts


def cut(document: Document, row_length: int, least: int, dropped: Counter) -> Document | None:
    """The document's first `row_length` tokens; None, and counted, if its answers are too short or beyond them."""
    short = Document(document.ids[:row_length], document.answers[:row_length])
    if document.answers.sum() < least:
        dropped[f"with fewer than {least} answer tokens"] += 1
    elif not short.answers.any():
        dropped[f"whose answer begins after {row_length} tokens"] += 1
    else:
        return short
    return None


def documents(settings: Distill, tokenizer, split: str) -> list[Document]:
    """The documents of a split of distillation `settings`, in the source's order; prints what was kept and dropped.

    Raises UserError if a source cannot be read or nothing of it is kept.
    """
    data, template, dropped = settings.data, ChatTemplate(tokenizer), Counter()
    least, chosen, chats = data.min_answer_tokens or 1, [], conversations(data)
    while group := list(islice(chats, GROUP)):
        if texts := rendered(group, template, split, dropped):
            cuts = (cut(d, settings.sequence_length, least, dropped) for d in template.encode(texts))
            chosen += [document for document in cuts if document]
    left_out = ", ".join(f"{number} {reason}" for reason, number in dropped.items()) or "none"
    if not chosen:
        raise UserError(f"distill.data: no conversation is left for the {split} split; dropped: {left_out}")
    tokens, answers = (sum(map(len, (d.ids for d in chosen))), sum(int(d.answers.sum()) for d in chosen))
    print(
        f"distill: {split} split of {len(chosen)} conversations, {tokens} tokens, {answers} in answers; "
        f"dropped: {left_out}",
        flush=True,
    )
    return chosen


def stream_of(config: RunConfig, tokenizer, split: str = "train") -> BatchStream:
    """The batches of the configuration, endless, to be entered at any number; the same number, the same batch.

    Chats are read when the first batch is asked for; UserError is raised then if they cannot be.
    """
    settings = config.distill
    length = settings.sequence_length
    rows = max(1, settings.batch_tokens // length)
    if settings.data.source == "tasks":
        return lambda start: stream.batches(config.tasks, tokenizer, rows, length, config.seed, start, split)
    read = cache(lambda: documents(settings, tokenizer, split))

    def chats(start: int) -> Iterator[Batch]:
        yield from packing.batches(read(), rows, length, pad_id(tokenizer), config.seed, start)

    return chats
