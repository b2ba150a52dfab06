"""The section about the training data of a distillation."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from swiftkv.config.fields import (
    UNIQUE,
    Commit,
    Count,
    NotNegative,
    PositiveShare,
    Section,
    Share,
    Text,
    check_needs,
    conditions,
    wrong,
)

DATA_NEEDS = {"jsonl": "files", "hub": "datasets", "self": "mix"}
# Keys of an entry of the mix by its kind: those it needs, and all that it knows.
MIX_NEEDS = {
    "text": "corpora",
    "code": "",
    "tasks": "",
    "sql": "",
    "file": "files",
    "documents": "corpora",
    "own": "",
}
MIX_OPTIONS = {"code": "fim", "tasks": "tasks"}
MIX_KEYS = {kind: f"kind share rows {keys} {MIX_OPTIONS.get(kind, '')}" for kind, keys in MIX_NEEDS.items()}
ANSWERED = ("file", "documents", "own")  # kinds whose answers the base may have to write
Corpus = Literal["peps", "rust_rfcs", "gsm8k"]
Long = Literal["truncate", "split", "drop"]


class Dataset(Section):
    """One dataset."""

    path: Text = Field(description="Repository id of the dataset.")
    revision: Commit = Field(description="Commit of the dataset repository.")
    name: Text | None = Field(None, description="Configuration of the dataset, if it has several.")
    split: Text = Field(description="Split to read.")
    samples: Count = Field(
        description="Rows to take, drawn at random by the seed as a stream allows: from a buffer of 10,000 rows, which "
        "the set's files fill in random order; all rows where there are fewer."
    )


class MixEntry(Section):
    """One kind of rows."""

    model_config = ConfigDict(
        json_schema_extra={
            **conditions("kind", MIX_NEEDS, MIX_KEYS),
            "oneOf": [{"required": ["share"]}, {"required": ["rows"]}],
        }
    )

    kind: Literal["text", "code", "tasks", "sql", "file", "documents", "own"] = Field(
        description="text: corpora of the mirror; code: functions of Python's standard library; tasks: the generated "
        "tasks as chats; sql: generated text-to-SQL; file: chats, prompts or texts of one's own; documents: passages "
        "of corpora with an instruction; own: prompts that the base writes itself. The base answers what has no answer."
    )
    share: NotNegative | None = Field(
        None, description="Share of the tokens of the mix, in proportion to the other entries' shares; this or rows."
    )
    rows: Count | None = Field(None, description="Number of rows, beside the tokens of the mix; this or share.")
    corpora: Annotated[list[Corpus], *UNIQUE] | None = Field(
        None, min_length=1, description="Corpora of the mirror (text, documents)."
    )
    fim: Share | None = Field(
        None,
        description="Share of the functions that are written as fill-in-the-middle, where the tokenizer has the marks "
        "for it (code, default 0.5).",
    )
    tasks: Annotated[list[Text], *UNIQUE] | None = Field(
        None, min_length=1, description="Some of the tasks under `tasks` (tasks, default all)."
    )
    files: list[Text] | None = Field(
        None,
        min_length=1,
        description="JSON Lines of chats, texts or {prompt: ...} (.jsonl, .jsonl.gz, .jsonl.xz), or a prompt a line "
        "(.txt) (file).",
    )

    @model_validator(mode="after")
    def has_the_keys_of_its_kind(self) -> Self:
        check_needs(self, "kind", MIX_NEEDS)
        allowed = MIX_KEYS[self.kind].split()
        for name in sorted(self.model_fields_set):
            if name not in allowed:
                raise wrong("", f"{name!r} is no key of kind {self.kind}; allowed are {', '.join(sorted(allowed))}")
        if (self.share is None) == (self.rows is None):
            raise wrong("", "share or rows is missing" if self.share is None else "share and rows exclude each other")
        return self


class Answers(Section):
    """How the base writes answers."""

    temperature: NotNegative | None = Field(None, description="Temperature of sampling; 0 is greedy (default 0.7).")
    top_p: PositiveShare | None = Field(None, description="Nucleus of sampling (default 0.95).")
    max_new_tokens: Count | None = Field(None, description="Longest answer, in tokens (default 512).")


class Data(Section):
    """Training data: the four tasks, local files, pinned sets from the hub, or rows made for the base."""

    model_config = ConfigDict(json_schema_extra=conditions("source", DATA_NEEDS))

    source: Literal["tasks", "jsonl", "hub", "self"] = Field(
        description="tasks: generated from the seed; jsonl: files of chats and texts; hub: datasets; self: what "
        "`swiftkv training-data` makes of `mix`."
    )
    files: list[Text] | None = Field(
        None,
        min_length=1,
        description="JSON Lines (.jsonl, .jsonl.gz, .jsonl.xz) with a conversation or a {text: ...} a line "
        "(source jsonl).",
    )
    datasets: list[Dataset] | None = Field(
        None, min_length=1, description="Datasets, interleaved in proportion to their samples (source hub)."
    )
    min_answer_tokens: Count | None = Field(None, description="Conversations with fewer answer tokens are left out.")
    long: Long | None = Field(
        None,
        description="What becomes of a chat or text longer than a row: its first tokens are taken (default for chats), "
        "it becomes several rows' documents (default for texts), or it is left out.",
    )
    mix: list[MixEntry] | None = Field(None, min_length=1, description="What the rows are made of (source self).")
    tokens: Count | None = Field(None, description="Tokens that the entries with a share have together (source self).")
    answers: Answers | None = None

    @property
    def base_writes(self) -> bool:
        """Whether the base may have to write something of the mix."""
        return any(entry.kind in ANSWERED for entry in self.mix or ())

    @model_validator(mode="after")
    def has_what_its_source_needs(self) -> Self:
        check_needs(self, "source", DATA_NEEDS)
        shares = [entry.share for entry in self.mix or () if entry.share is not None]
        if shares and not sum(shares):
            raise wrong("mix", "the shares sum to 0; give at least one entry a share above 0")
        if shares and self.tokens is None:
            raise wrong("", "tokens is missing; it is what the shares of mix are shares of")
        return self
