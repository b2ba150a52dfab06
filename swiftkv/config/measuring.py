"""The sections about measurements: gates, throughput, served load, accuracy, and what is looked at beside them."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from swiftkv.config.fields import (
    AS_WRITTEN,
    UNIQUE,
    Count,
    Name,
    NotNegative,
    Positive,
    PositiveShare,
    Section,
    Text,
    check_needs,
    conditions,
    whole,
    wrong,
)
from swiftkv.config.training import Shape

# Arms of the throughput stage that are no students: what they show is known to be 1.
BASE_AGAIN, L_EQUALS_L = CONTROLS = ("base-again", "l-equals-L")

# Keys of a served point by its kind: those it needs, and all that it knows.
POINT_NEEDS = {
    "rate": "input_len output_len duration_s",
    "concurrency": "input_len output_len requests_per_client",
    "trace": "trace length_scale duration_s",
}
POINT_OPTIONS = {"rate": "burstiness", "concurrency": "", "trace": "start_s sample"}
POINT_KEYS = {kind: f"name kind loads {keys} {POINT_OPTIONS[kind]}" for kind, keys in POINT_NEEDS.items()}


class Verify(Section):
    """Gates that every student passes before any number is taken."""

    prompt_lengths: list[Count] = Field(min_length=1, description="Prompt lengths of the equivalence check, in tokens.")
    generate: Count = Field(description="Greedy tokens generated per prompt.")
    longest_prompt: Count = Field(
        2048,
        description="Longest prompt of the equivalence check, in tokens; shorter where the model's context is "
        "(default 2048).",
    )
    max_num_batched_tokens: Count = Field(description="Chunk size of chunked prefill, in tokens.")
    error_multiple: Positive = Field(
        3.0,
        description="A student's logits may be this many times as far from Transformers in float64 as the base's are "
        "in the same setting, and more by as much as Transformers in float32 loses more of the student (default 3).",
    )
    # A logit is a sum of hidden_size products; added in another order it differs by some ulps however right it is.
    floor_ulps: NotNegative = Field(
        16,
        description="No limit is below this many float32 roundings (2^-24) of the largest logit (default 16), so that "
        "a base that happens to be exact fails no student.",
    )
    # TF32 rounds 2^13 times as coarsely as float32; the middle between the two, as factors go, is 2^6.5.
    base_multiple: Positive = Field(
        64.0,
        description="The base in vLLM may be this many times as far from Transformers in float64 as Transformers in "
        "float32 is on the same tokens (default 64): an engine that computes in less than float32 is further off.",
    )
    tolerance: Positive | None = Field(
        None, description="Of runs made when one limit held for every backend; read and not used."
    )


class BenchmarkModel(Shape):
    """Architecture of the benchmark model (random weights)."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="Weights and activations.")


class Point(Section):
    """One workload."""

    name: Name = Field(description="Stable id.")
    input_len: Count = Field(description="Prompt tokens per request.")
    output_len: Count = Field(description="Generated tokens per request.")
    num_requests: Count = Field(description="Concurrent requests.")
    prefix_share: Annotated[float, Field(ge=0, le=0.95), AS_WRITTEN] | None = Field(
        None,
        description="Share of each prompt that all prompts have in common and that lies in the prefix cache (whole KV "
        "blocks of it). Its presence switches prefix caching on.",
    )
    kv_tokens: Count | None = Field(
        None,
        description="Tokens of the base that the KV cache holds, rounded up to blocks that are whole in every arm; "
        "absent: all requests of every point.",
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto", description="Number format of the KV cache: the model's (auto), or FP8 in the same memory."
    )


class Latency(Section):
    """Unloaded latency, concurrency 1."""

    input_len: Count = Field(description="Prompt tokens.")
    output_len: whole(2) = Field(description="Generated tokens; one alone would have no TPOT.")
    rounds: Count = Field(description="Rounds over all arms.")


class Throughput(Section):
    """Interleaved throughput measurements."""

    model: BenchmarkModel
    max_num_batched_tokens: Count = Field(description="Tokens of one scheduler step.")
    repeats: Count = Field(description="Interleaved rounds of every workload, at least; fewer than 3 give no interval.")
    restarts: Count = Field(
        1,
        description="Processes that the rounds are dealt to, one after the other, each with engines of its own: from "
        "three on the intervals hold what differs between processes, too (default 1: it is in none).",
    )
    precision: Positive | None = Field(
        None,
        description="Half width, relative to the ratio, that the interval of every student's speed-up and of the A/A "
        "control is to have: rounds are added until it has, or max_minutes are over; absent: repeats alone.",
    )
    max_minutes: Positive | None = Field(
        None, description="Minutes of measuring in this stage after which no round is added (precision)."
    )
    controls: Annotated[list[Literal[CONTROLS]], *UNIQUE] = Field(
        [*CONTROLS],
        description="Controls beside the students (default both): base-again, a second measurement of the base in "
        "every round on the base's own engine, so that it costs no memory; l-equals-L, a student whose cut is the last "
        "layer, on an engine of its own.",
    )
    aa_tolerance: Positive = Field(
        0.02,
        description="The A/A control's interval must lie within 1 plus or minus this (default 0.02), or claims on the "
        "workload are too noisy to judge.",
    )
    # A scheduling hiccup of 10 ms stays within 1% of a second.
    min_seconds: NotNegative = Field(
        1.0,
        description="Least duration of a measurement, in seconds (default 1): where a batch is shorter, that of every "
        "arm is run as many times as the fastest arm needs, one after the other.",
    )
    points: list[Point] = Field(min_length=1, description="Workloads.")
    latency: Latency

    @model_validator(mode="after")
    def precision_has_an_end(self) -> Self:
        if (self.precision is None) != (self.max_minutes is None):
            alone, other = ("precision", "max_minutes") if self.max_minutes is None else ("max_minutes", "precision")
            raise wrong("", f"{other} is missing; {alone} needs it")
        return self

    @model_validator(mode="after")
    def every_restart_has_a_round(self) -> Self:
        if self.restarts == 2 or self.restarts > self.repeats:
            raise wrong("restarts", f"{self.restarts}; allowed are 1, and 3 to repeats, which are {self.repeats}")
        return self


class Slo(Section):
    """Service level objective of a request."""

    ttft_s: Positive = Field(description="Longest time to the first token, in seconds.")
    tpot_s: Positive = Field(description="Longest mean time per output token after the first, in seconds.")
    attainment: PositiveShare = Field(
        description="Share of the requests that must keep both limits at the saturation load."
    )


class Timeouts(Section):
    """When to give up, in seconds."""

    start_s: Positive = Field(description="Of a server's start, and of its warm-up.")
    measurement_s: Positive = Field(description="Of one load on one arm.")


class ServedPoint(Section):
    """One workload, measured at each of its loads."""

    model_config = ConfigDict(json_schema_extra=conditions("kind", POINT_NEEDS, POINT_KEYS))

    name: Name = Field(description="Stable id.")
    kind: Literal["rate", "concurrency", "trace"] = Field(
        description="rate: open loop at a number of requests per second; concurrency: closed loop with a number of "
        "clients; trace: arrivals and lengths of a trace."
    )
    loads: Annotated[list[Positive], *UNIQUE] = Field(
        min_length=1,
        description="Requests per second (rate), clients (concurrency), or multiples of the trace's own rate (trace).",
    )
    input_len: Count | None = Field(None, description="Prompt tokens per request (rate, concurrency).")
    output_len: Count | None = Field(None, description="Generated tokens per request (rate, concurrency).")
    duration_s: Positive | None = Field(
        None, description="Seconds in which requests arrive (rate, trace); those of a rate are rate times duration."
    )
    burstiness: Positive = Field(
        1.0,
        description="Shape of the gamma distribution of gaps (rate): 1 is Poisson (default), less is burstier, more is "
        "more even.",
    )
    requests_per_client: Count | None = Field(None, description="Requests that each client sends (concurrency).")
    trace: Text | None = Field(
        None, description="Known trace, or a CSV file with the columns arrival_s, prompt_tokens, output_tokens (trace)."
    )
    length_scale: Positive | None = Field(None, description="Factor on prompt and output tokens (trace).")
    sample: PositiveShare = Field(
        1,
        description="Share of the conversations that is replayed, that much faster for the same load (trace, "
        "default 1).",
    )
    start_s: NotNegative = Field(0, description="Second of the trace that is replayed first (trace, default 0).")

    @model_validator(mode="after")
    def has_the_keys_of_its_kind(self) -> Self:
        check_needs(self, "kind", POINT_NEEDS)
        allowed = POINT_KEYS[self.kind].split()
        for name in sorted(self.model_fields_set):
            if name not in allowed:
                raise wrong("", f"{name!r} is no key of kind {self.kind}; allowed are {', '.join(sorted(allowed))}")
        return self


class Served(Section):
    """Latency and goodput of servers under load, of the benchmark model of `throughput`; not run where this key is
    absent."""

    arms: Annotated[list[Text], *UNIQUE] = Field(
        description="Variants measured beside the base; inherited names of variants that are gone are left out, and if "
        "none is left, all variants are taken."
    )
    slo: Slo
    rounds: Count = Field(description="Interleaved rounds over all arms; fewer than 3 give no interval.")
    max_num_seqs: Count = Field(description="Requests that a server runs at once; further ones wait.")
    kv_tokens: Count | None = Field(
        None,
        description="Tokens that the base's KV cache holds; all arms have its bytes (default: max_num_seqs of the "
        "longest request).",
    )
    timeouts: Timeouts
    points: list[ServedPoint] = Field(min_length=1, description="Workloads.")

    @model_validator(mode="after")
    def points_have_names_of_their_own(self) -> Self:
        names = [point.name for point in self.points]
        if len(set(names)) < len(names):
            raise wrong("points", f"names must differ from each other, got {names}")
        return self


class Lengths(Section):
    """The 10:1 question."""

    traces: list[Text] = Field(description="Request traces, by their names in workflow/resources/traces/sources.csv.")


class Similarity(Section):
    """Layer-input similarity."""

    prompts: Count = Field(description="Prompts measured.")
