"""What distillation trains on: the four tasks, local files, pinned sets from the hub, or rows made for the base.

Rows of chats and text are read and tokenised once, when the first batch is asked for, and kept in memory (5 bytes per
token); from then on a batch depends on the seed and its number alone. So a resumed run sees the batches it would have
seen, and pays for reading and tokenising as the first one did, wherever it enters. One shuffled order over everything
interleaves the data sets in proportion to what was taken of them.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.workloads import packing, stream
from swiftkv.workloads.documents import Maker, listed
from swiftkv.workloads.packing import Document
from swiftkv.workloads.rows import contents
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import pad_id

BatchStream = Callable[[int], Iterator[Batch]]

GROUP = 1000  # rows that are tokenised together


class RowStream:
    """The batches of the configured rows, endless, to be entered at any number; `record` says what they are made of."""

    def __init__(self, config: RunConfig, tokenizer, split: str, made: Path | None):
        self.config, self.tokenizer, self.split, self.made = config, tokenizer, split, made
        self.record: dict | None = None  # for the provenance; None until the rows are read

    def __call__(self, start: int) -> Iterator[Batch]:
        settings, length = self.config.distill, self.config.distill.sequence_length
        rows = max(1, settings.batch_tokens // length)
        yield from packing.batches(self.documents, rows, length, pad_id(self.tokenizer), self.config.seed, start)

    @cached_property
    def documents(self) -> list[Document]:
        """The documents of the split; prints what was kept, changed and dropped.

        Raises UserError if a source cannot be read or nothing of it is kept.
        """
        settings = self.config.distill
        data, chosen = settings.data, []
        # A variant's loss may be on other tokens than the configuration's.
        on = {variant.recipe(settings).loss_on for variant in self.config.variants}
        maker = Maker(
            self.tokenizer, self.split, settings.sequence_length, data.long, data.min_answer_tokens or 1, "all" in on
        )
        rows = contents(self.config, self.made)
        while group := list(islice(rows, GROUP)):
            chosen += maker.documents(group)
        tally = maker.tally
        if not chosen:
            raise UserError(
                f"distill.data: nothing is left for the {self.split} split; dropped: {listed(tally.dropped)}"
            )
        tokens, answers = (sum(map(len, (d.ids for d in chosen))), sum(int(d.answers.sum()) for d in chosen))
        texts = f" and {tally.kept['texts']} texts" if tally.kept["texts"] else ""
        print(
            f"distill: {self.split} split of {tally.kept['chats']} conversations{texts}, {tokens} tokens, {answers} in "
            f"answers; changed: {listed(tally.changed)}; dropped: {listed(tally.dropped)}",
            flush=True,
        )
        counts = {"documents": len(chosen), "tokens": tokens, "answer_tokens": answers}
        self.record = {"source": data.source, "split": self.split, **counts, **tally.record()}
        return chosen


def stream_of(config: RunConfig, tokenizer, split: str = "train", made: Path | None = None) -> BatchStream:
    """The batches of the configuration, endless, to be entered at any number; the same number, the same batch.

    Rows are read when the first batch is asked for; UserError is raised then if they cannot be. `made` is where the
    rows of source `self` lie, if not in the run's results.
    """
    settings = config.distill
    if settings.data.source != "tasks":
        return RowStream(config, tokenizer, split, made)
    length = settings.sequence_length
    rows = max(1, settings.batch_tokens // length)
    return lambda start: stream.batches(config.tasks, tokenizer, rows, length, config.seed, start, split)
