"""Rows to distil on, made for the base itself (`swiftkv training-data`, `distill.data.source: self`).

Every entry of the mix gives rows in an order of the seed. They are taken, but for repetitions and those that overlap an
evaluation set, until the entry has its share of the tokens or its number of rows. What has no answer is answered by the
base. Written are the rows of all entries in one random order, and a card.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from jinja2 import TemplateError

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.config.data import Data, MixEntry
from swiftkv.distill.answers import Answerer
from swiftkv.distill.data_card import card
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files
from swiftkv.provenance import Provenance
from swiftkv.registry import names
from swiftkv.workloads import downloads, overlap
from swiftkv.workloads.chat import ChatTemplate
from swiftkv.workloads.documents import encode_texts, listed
from swiftkv.workloads.mixture import MAKERS, Setting, answered, text_of
from swiftkv.workloads.tokens import load_tokenizer

STAGE = "training-data"
TOGETHER = 64  # rows that are looked at, and answered, together, at most
BARREN = 64  # groups in a row of which no row is taken: the kind has no more
MISFITS = 16  # rows in a row that are longer than what is left of a share


@dataclass
class Part:
    """What was taken of an entry: its rows, their tokens, and what was left out, by reason."""

    entry: MixEntry
    wanted: float  # tokens, or rows where the entry says so
    rows: list[dict] = field(default_factory=list)
    tokens: int = 0
    dropped: Counter = field(default_factory=Counter)

    @property
    def left(self) -> float:
        """What is still to be taken."""
        return self.wanted - (len(self.rows) if self.entry.rows else self.tokens)

    @property
    def together(self) -> int:
        """How many rows are looked at, and answered, together: not many more than are wanted."""
        return min(TOGETHER, 2 * self.entry.rows) if self.entry.rows else TOGETHER

    def fits(self, tokens: int) -> bool:
        """Whether a row of so many tokens may be taken: the first one always, lest a small share be empty."""
        return not self.rows or bool(self.entry.rows) or tokens <= self.left

    def take(self, row: dict, tokens: int) -> None:
        self.rows.append({"kind": self.entry.kind, **row})
        self.tokens += tokens

    def record(self) -> dict:
        """For the provenance and the card."""
        return {
            "kind": self.entry.kind,
            "wanted": {"rows" if self.entry.rows else "tokens": round(self.wanted)},
            "rows": len(self.rows),
            "tokens": self.tokens,
            "dropped": dict(self.dropped),
        }


def parts_of(data: Data) -> list[Part]:
    """An empty Part per entry of the mix that is to have anything."""
    total = sum(entry.share or 0 for entry in data.mix)
    wanted = [entry.rows or data.tokens * entry.share / total for entry in data.mix]
    return [Part(entry, number) for entry, number in zip(data.mix, wanted, strict=True) if number]


class Builder:
    """Fills the parts of a mix. A text that one part has taken is a repetition in the others."""

    def __init__(self, setting: Setting, evaluation: overlap.Overlap, answerer: Answerer):
        self.setting, self.evaluation, self.answerer = setting, evaluation, answerer
        self.template: ChatTemplate | None = None
        self.seen: set[bytes] = set()

    def fill(self, part: Part) -> None:
        """Take what `part` wants or can have. Raises UserError if that is nothing."""
        barren = misfits = 0
        for group in self.groups(part):
            before = len(part.rows)
            for row, tokens in self.measured(group, part):
                if part.left <= 0:
                    break
                if part.fits(tokens):
                    part.take(row, tokens)
                    misfits = 0
                else:
                    misfits += 1
            barren = 0 if len(part.rows) > before else barren + 1
            if part.left <= 0 or misfits >= MISFITS or barren >= BARREN:
                break
        left_out = listed(part.dropped)
        print(
            f"{STAGE}: {part.entry.kind}: {len(part.rows)} rows, {part.tokens} tokens; dropped: {left_out}", flush=True
        )
        if not part.rows:
            raise UserError(f"distill.data.mix: nothing is left of kind {part.entry.kind}; dropped: {left_out}")

    def groups(self, part: Part) -> Iterator[list[dict]]:
        """The part's rows in groups, answered, without repetitions and overlaps."""
        kind, size = part.entry.kind, part.together
        source = self.answerer.prompts(size, part.dropped) if kind == "own" else MAKERS[kind](part.entry, self.setting)
        while group := list(islice(source, size)):
            fresh = [row for row in group if self.is_new(row, part) and self.is_clean(row, part)]
            asked = [row for row in fresh if not answered(row)]
            made = self.answerer.answered(asked, part.dropped)
            if asked:
                print(f"{STAGE}: {kind}: {len(part.rows)} rows so far, {len(made)} more answered", flush=True)
            # The base may know an evaluation set by heart.
            yield [row for row in fresh if answered(row)] + [row for row in made if self.is_clean(row, part)]

    def is_new(self, row: dict, part: Part) -> bool:
        """Whether no row before says the same, white space aside."""
        digest = blake2b(" ".join(text_of(row).split()).encode(), digest_size=16).digest()
        if digest in self.seen:
            part.dropped["repetitions"] += 1
            return False
        self.seen.add(digest)
        return True

    def is_clean(self, row: dict, part: Part) -> bool:
        """Whether a row overlaps no evaluation set."""
        if name := self.evaluation.of(text_of(row)):
            part.dropped[f"overlapping {name}"] += 1
        return name is None

    def measured(self, group: list[dict], part: Part) -> list[tuple[dict, int]]:
        """The rows with their tokens, chats in the base's template; those that it refuses are counted."""
        tokenizer, found = self.setting.tokenizer, []
        for row in group:
            if "text" in row:
                (ids,) = encode_texts(tokenizer, [row["text"]])
            else:
                self.template = self.template or ChatTemplate(tokenizer)
                try:
                    text = self.template.text(row["messages"])
                except TemplateError as error:
                    part.dropped[f"refused by the chat template ({error})"] += 1
                    continue
                ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            found.append((row, len(ids)))
        return found


def user_files(data: Data) -> list[Path]:
    """The files that the mix names."""
    return [Path(path) for entry in data.mix or () for path in entry.files or ()]


def run(config: RunConfig, base_dir: Path, out_dir: Path, work: Path, mirror: Path | None) -> None:
    """Write the rows of `distill.data.mix` for the base in `base_dir`, and their card, into `out_dir`.

    Raises UserError for another source of data, for files, corpora or evaluation sets that cannot be had, and for a
    kind of which nothing is left.
    """
    base_dir, out_dir, data = Path(base_dir), Path(out_dir), config.distill.data
    if data.source != "self":
        raise UserError(
            f"{config.path}: distill.data.source is {data.source}; {STAGE} makes the rows of source self, from mix"
        )
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    tokenizer, mirror = load_tokenizer(base_dir), downloads.mirror_of(mirror)
    rows_file, card_file = (out_dir / name for name in names(STAGE))
    inputs = [*weight_files(base_dir), *user_files(data)]
    with Provenance(STAGE, config, inputs=inputs, out=[rows_file, card_file]) as provenance:
        setting, evaluation = Setting(config, tokenizer, mirror), overlap.checked(mirror)
        print(f"{STAGE}: evaluation sets: {', '.join(evaluation.names)}", flush=True)
        answerer = Answerer(config, base_dir, Path(work), tokenizer)
        builder, parts = Builder(setting, evaluation, answerer), parts_of(data)
        try:
            for part in parts:
                builder.fill(part)
        finally:
            answerer.close()
        rows = [row for part in parts for row in part.rows]
        setting.rng("order").shuffle(rows)
        record = {
            "parts": [part.record() for part in parts],
            "evaluation_sets": evaluation.names,
            "answered_by_the_base": {"generated": answerer.written, **answerer.sampling},
        }
        provenance.record["training_data"] = record
        files.write_jsonl(rows_file, rows)
        files.write_text(card_file, card(config, base_dir, record))
        provenance.save(rows_file)
