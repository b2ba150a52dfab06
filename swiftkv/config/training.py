"""The sections about models: the base, its training, the students and their distillation."""

import re
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from swiftkv.config.data import Data
from swiftkv.config.fields import (
    AS_WRITTEN,
    UNIQUE,
    Commit,
    Count,
    GgufName,
    Name,
    NotNegative,
    Positive,
    PositiveShare,
    Section,
    Seed,
    Sha256,
    Share,
    Text,
    WholeNumber,
    check_needs,
    conditions,
    whole,
    wrong,
)

BASE_NEEDS = {"embedded": "path", "local": "path", "hub": "path revision", "package": "path sha256"}
GGUF, GGUF_KEYS = ".gguf", ("file", "sha256")
PACKAGE = r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*"
Width = whole(32)
Length = whole(64)
LossOn = Literal["answers", "all"]
Schedule = Literal["cosine", "linear"]
Init = Literal["group-mean", "first-layer", "cut-layer"]
Train = Literal["qkv", "layers"]
# What is said of a key of the distillation, whether it is every student's or one's own.
STEPS = "Optimiser steps; 0 leaves the students undistilled."
LEARNING_RATE = "Peak learning rate."
WARMUP = "Share of the steps that warm up."
TEMPERATURE = "T of the distillation loss."
HIDDEN_LOSS = "Weight of the hidden-state MSE."
LOSS_ON = "Tokens that enter the loss."
SCHEDULE = "Fall of the learning rate to zero after the warm-up."
INIT = (
    "Where a group's K and V projections start: mean of its layers' (the published choice), its first layer's, or "
    "those of the layer at the cut."
)
TRAIN = (
    "Trained weights: q, k, v and the norm of SwiftKV alone (published), or every weight of every decoder layer (full "
    "fine-tuning; embeddings and head stay)."
)


class Base(Section):
    """The base model."""

    model_config = ConfigDict(
        json_schema_extra=conditions("source", BASE_NEEDS) | {"dependentRequired": {"file": ["sha256"]}}
    )

    source: Literal["embedded", "train", "local", "hub", "package"] = Field(
        description="embedded: shipped with the project; train: train it here; local: a directory or a GGUF file; hub: "
        "a pinned repository, or one GGUF file of it; package: the GGUF file in a Python package."
    )
    path: Text | None = Field(
        None,
        description="Directory (embedded, local), GGUF file (local), repository id (hub) or name==version (package).",
    )
    revision: Commit | None = Field(None, description="Commit of the hub repository; required for hub.")
    file: GgufName | None = Field(
        None,
        description="GGUF file of the hub repository; of a package, the one to take where it holds several. "
        "Its weights are dequantised.",
    )
    sha256: Sha256 | None = Field(
        None, description="Of the GGUF file; required for package and for a file of the hub, optional for a local one."
    )

    @property
    def is_gguf(self) -> bool:
        """Whether the base is read from one GGUF file."""
        by_name = self.source == "local" and str(self.path).lower().endswith(GGUF)
        return by_name or self.source == "package" or self.file is not None

    @model_validator(mode="after")
    def has_what_its_source_needs(self) -> Self:
        check_needs(self, "source", BASE_NEEDS)
        if self.source == "package" and not re.fullmatch(PACKAGE, str(self.path)):
            raise wrong("path", f"{self.path!r} is not allowed; allowed is name==version for source package")
        if self.file is not None and self.source not in ("hub", "package"):
            raise wrong("file", f"is a key of the sources hub and package, not of {self.source}; leave it out")
        if self.file is not None and self.sha256 is None:
            raise wrong("", "sha256 is missing; file needs it (that of the GGUF file, as the hub shows it)")
        if self.sha256 is not None and not self.is_gguf:
            raise wrong("sha256", "is that of a GGUF file, and this base is none; leave it out, or name the file")
        return self


class Difficulty(Section):
    """Difficulty of one task."""

    records: Count = Field(description="Records (functions, columns, log lines, facts) in one context.")
    values: Count = Field(description="Values a record carries (parameters, fields).")


class Tasks(Section):
    """Difficulty of the four enterprise tasks, and of tasks of one's own: modules of swiftkv/workloads/tasks."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Difficulty]

    code: Difficulty = Field(description="Code completion: functions, parameters.")
    sql: Difficulty = Field(description="Text-to-SQL: tables, columns.")
    summarise: Difficulty = Field(description="Summarisation: log lines, facts kept.")
    rag: Difficulty = Field(description="RAG: passages, facts asked for.")


class Stage(Section):
    """One stage."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["recall"]}, {"required": ["difficulty"]}]})

    difficulty: PositiveShare | None = Field(None, description="Share of the records of a full context.")
    sequence_length: Length = Field(
        description="Tokens of a row: one context, then as many questions with answers as fit."
    )
    tokens: Count = Field(description="Training tokens of the stage.")
    prompt_weight: NotNegative = Field(
        description="Weight of the mean loss on prompt tokens; that on answer tokens has 1."
    )
    recall: Difficulty | None = Field(
        None, description="Warm-up on the recall task instead of the four tasks: lines, names per line."
    )

    @model_validator(mode="after")
    def is_of_one_kind(self) -> Self:
        if self.recall is None and self.difficulty is None:
            raise wrong("", "recall or difficulty is missing")
        if self.recall is not None and self.difficulty is not None:
            raise wrong("", "recall and difficulty exclude each other")
        return self


class PlainText(Section):
    """Plain text among the training rows; its tokens count as a prompt's."""

    share: Annotated[float, Field(gt=0, lt=1), AS_WRITTEN] = Field(description="Share of the rows of a batch.")
    sources: Annotated[list[Literal["peps", "rust_rfcs", "gsm8k", "python"]], *UNIQUE] = Field(
        min_length=1, description="Corpora of the mirror, and Python sources of this machine."
    )
    python_bytes: Count = Field(description="How much of the Python sources is taken, in bytes.")


class Shape(Section):
    """The architecture of a model."""

    hidden_size: Width = Field(description="Width of the residual stream.")
    intermediate_size: Width = Field(description="Width of the MLP.")
    num_hidden_layers: Count = Field(description="Layers L.")
    num_attention_heads: Count = Field(description="Query heads.")
    num_key_value_heads: Count = Field(description="Key/value heads (GQA).")
    vocab_size: whole(256) = Field(description="Size of the vocabulary.")


class TrainBase(Shape):
    """Recipe of the embedded base model."""

    batch_tokens: Count = Field(description="Tokens per optimiser step.")
    learning_rate: Positive = Field(description=LEARNING_RATE)
    cooldown: Share = Field(description="Share of the run over which the learning rate falls to zero.")
    stages: list[Stage] = Field(min_length=1, description="Curriculum, from easy to full difficulty.")
    rope_theta: Annotated[float, Field(gt=1), AS_WRITTEN] = Field(
        description="Base of the rotary embedding's wavelengths."
    )
    max_position_embeddings: Length | None = Field(
        None, description="Longest context of the model, in tokens (default 2048)."
    )
    text: PlainText | None = None


class OwnDistill(Section):
    """Distillation settings of this student alone, in place of those under `distill`."""

    steps: WholeNumber | None = Field(None, description=STEPS)
    learning_rate: Positive | None = Field(None, description=LEARNING_RATE)
    warmup: Share | None = Field(None, description=WARMUP)
    schedule: Schedule | None = Field(None, description=SCHEDULE)
    temperature: Positive | None = Field(None, description=TEMPERATURE)
    hidden_loss: NotNegative | None = Field(None, description=HIDDEN_LOSS)
    loss_on: LossOn | None = Field(None, description=LOSS_ON)
    init: Init | None = Field(None, description=INIT)
    train: Train | None = Field(None, description=TRAIN)


class Variant(Section):
    """One student."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["skip"]}, {"required": ["cut"]}]})

    name: Name = Field(description="Name of the arm.")
    skip: Annotated[float, Field(ge=0, lt=1), AS_WRITTEN] | None = Field(
        None, description="Share of layers that prompt tokens skip, (L - l) / L."
    )
    cut: Count | None = Field(
        None,
        description="Layers l that prompt tokens run, in place of `skip`: for models of the depth of "
        "`throughput.model` alone.",
    )
    key_value_group_size: Count | None = Field(
        None, description="Late layers that share one KV cache (AcrossKV); 1 = none."
    )
    start: Text | None = Field(
        None,
        description="Directory with the trained tensors of an earlier student of the same base, cut and group, from "
        "which the distillation goes on in place of the converted ones; with `distill: {steps: 0}`, that student.",
    )
    distill: OwnDistill | None = None

    @model_validator(mode="after")
    def has_one_depth(self) -> Self:
        if (self.skip is None) == (self.cut is None):
            raise wrong("", "skip or cut is missing" if self.skip is None else "skip and cut exclude each other")
        return self


class Parallel(Section):
    """How one job uses several GPUs. Where there are none, processes of a CPU."""

    tensor_parallel_size: Count = Field(
        1,
        description="GPUs of an engine: gates, throughput, served load, accuracy, the paper's protocol. Divides the "
        "key-value heads.",
    )
    fsdp_world_size: Count = Field(1, description="Processes of the distillation, over which FSDP2 shards the model.")
    micro_batch_tokens: Count | None = Field(
        None, description="Tokens of a process at once in the distillation; its whole part of a step unless given."
    )
    recompute: bool = Field(
        False, description="Run late layers again in the backward pass of the distillation: less memory, more time."
    )


class Distill(Section):
    """Distillation of every student in one run."""

    steps: WholeNumber = Field(description=STEPS)
    batch_tokens: Count = Field(description="Tokens per step.")
    learning_rate: Positive = Field(description=LEARNING_RATE)
    warmup: Share = Field(description=WARMUP)
    temperature: Positive = Field(description=TEMPERATURE)
    hidden_loss: NotNegative = Field(description=HIDDEN_LOSS)
    loss_on: LossOn = Field(description=LOSS_ON)
    sequence_length: Length = Field(
        description="Tokens of a row: one context, then as many questions with answers as fit."
    )
    schedule: Schedule = Field(description=SCHEDULE)
    init: Init = Field(description=INIT)
    train: Train = Field(description=TRAIN)
    data: Data


class AblationArm(Section):
    """One arm."""

    name: Name = Field(description="Name of the arm.")
    distill: OwnDistill | None = None
    tasks: dict[str, Difficulty] | None = Field(
        None, min_length=1, description="Training tasks in place of the four that it is judged on."
    )
    published: Text | None = Field(
        None, description="Id in config/published.csv of the same arm's published mean accuracy."
    )


class Ablations(Section):
    """Choices of the distillation recipe, compared on the same students and seeds (`swiftkv ablate`)."""

    seeds: Annotated[list[Seed], *UNIQUE] = Field(
        min_length=1, description="Seeds of the training data; every arm is trained once for each."
    )
    probes: Count = Field(description="Held-out batches that every arm is judged on.")
    arms: list[AblationArm] = Field(
        min_length=2, description="The arms; the first is the recipe that the others are compared with."
    )
