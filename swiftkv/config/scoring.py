"""The sections about quality: accuracy on the tasks, the paper's protocol, diagnosis of students, divergence from the
base."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from swiftkv.config.fields import (
    UNIQUE,
    Count,
    Positive,
    PositiveShare,
    Section,
    Share,
    Text,
    WholeNumber,
    whole,
    wrong,
)

PaperTask = Literal[
    "arc_challenge", "winogrande", "hellaswag", "truthfulqa_mc2", "mmlu", "mmlu_cot", "gsm8k_cot", "ifeval", "mmlu_pro"
]
TextSet = Literal["qmsum", "gsm8k_test", "humaneval", "nq_passages"]


class Sampling(Section):
    """Answers are drawn with several seeds (left out: greedy, one answer per item)."""

    temperature: Positive = Field(description="Sampling temperature.")
    top_p: PositiveShare = Field(description="Smallest probability mass that tokens are drawn from.")
    seeds: whole(2) = Field(description="Answers per item, drawn with as many seeds from `seed` on.")


class RealSet(Section):
    """Examples of a public set."""

    items: Count = Field(description="Examples, drawn by the seed.")
    max_new_tokens: Count | None = Field(None, description="Generation limit in tokens, in place of the set's own.")
    chat_template: bool | None = Field(
        None, description="Whether its prompts are a user's turn, in place of `accuracy.chat_template`."
    )


class Infilling(RealSet):
    """HumanEval single-line infilling."""

    fim: bool | None = Field(
        None, description="Whether fill-in-the-middle tokens are used where the tokenizer has them (default true)."
    )


class Meetings(RealSet):
    """QMSum, query-focused summaries of meetings."""

    transcript: Literal["whole", "relevant"] | None = Field(
        None, description="Whole meeting (default), or the turns annotated as relevant to a specific query."
    )


class RealSets(Section):
    """The enterprise tasks on real data, beside the generated ones."""

    humaneval_infilling: Infilling | None = None
    humaneval: RealSet | None = Field(
        None, description="HumanEval, compared with the published solution; no pass@1, for generated code is never run."
    )
    defog: RealSet | None = Field(None, description="defog's text-to-SQL, judged by execution.")
    qmsum: Meetings | None = None
    nq_open: RealSet | None = Field(None, description="NQ-open with the gold passage.")


class Accuracy(Section):
    """Accuracy evaluation."""

    items_per_task: WholeNumber = Field(
        description="Held-out items of each generated task; 0 where real sets alone are asked for."
    )
    max_new_tokens: Count = Field(description="Generation limit, in tokens.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="Number format that models are scored in, in place of their own: bfloat16 is slow on CPUs without "
        "AVX-512.",
    )
    sampling: Sampling | None = None
    margin: PositiveShare = Field(
        0.02,
        description="Loss of score (0 to 1) that still counts as retained: the lower end of the interval must lie "
        "above minus this (default 0.02).",
    )
    floor: Share = Field(
        0.0,
        description="Score (0 to 1) that the base must reach on a task; others are shown, but count neither in the "
        "mean nor in a verdict (default 0).",
    )
    chat_template: bool = Field(
        False, description="Whether real tasks are put to the model as a user's turn (instruct models)."
    )
    real: RealSets | None = None
    undistilled: list[Text] = Field(
        description="Variants that are also scored undistilled. Where a file brings variants of its own and no such "
        "list, what it inherits keeps the names that are still there."
    )

    @model_validator(mode="after")
    def something_is_asked(self) -> Self:
        if not self.items_per_task and (self.real is None or not self.real.model_dump(exclude_none=True)):
            raise wrong("items_per_task", "0 is not allowed where there is no set under real; allowed is 1 or more")
        return self


class Protocol(Section):
    """The paper's accuracy tasks; not run where this key is absent."""

    loglikelihood: Literal["transformers", "vllm-full-prefill"] = Field(
        "transformers", description="What computes log-likelihoods (default transformers)."
    )
    generation: Literal["vllm-early-exit", "transformers"] = Field(
        "vllm-early-exit", description="What generates answers (default vllm-early-exit)."
    )
    tasks: Annotated[list[PaperTask], *UNIQUE] | None = Field(
        None, min_length=1, description="Some of the tasks (default all)."
    )
    max_new_tokens: Count | None = Field(None, description="Generation limit in tokens, in place of the tasks' own.")


class Diagnosis(Section):
    """Teacher-forced comparison of every student with the base."""

    items: Count = Field(description="Held-out items per task and difficulty.")
    difficulty: list[Positive] = Field(
        min_length=1, description="Records of a task, as multiples of those under `tasks`."
    )
    needles: Count = Field(description="Needle items per context length.")
    needle_tokens: list[whole(48)] = Field(
        min_length=1,
        description="Context lengths of the needle test, in tokens of prompt and answer; those beyond the model's "
        "max_position_embeddings are left out.",
    )


class Divergence(Section):
    """Distance of every arm from the base, teacher-forced on published texts; not measured where this key is absent."""

    sets: Annotated[list[TextSet], *UNIQUE] | None = Field(
        None,
        min_length=1,
        description="Some of the sets (default all): transcripts of QMSum's test meetings, GSM8K's test questions with "
        "answers, HumanEval's functions with solutions, gold passages of NQ-open.",
    )
    documents: whole(2) = Field(description="Documents per set, drawn by the seed. QMSum has 35, HumanEval 164.")
    max_tokens: whole(2) = Field(description="What is read of a document, in tokens from its start.")
    answer_tokens: Count = Field(
        description="Last tokens of a document that count as the answer; those before them are its prompt and leave at "
        "the cut. Documents that are no longer than this are passed over."
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The sets that are read."""
        return tuple(self.sets or get_args(TextSet))

    @model_validator(mode="after")
    def a_prompt_comes_before_the_answer(self) -> Self:
        if self.answer_tokens >= self.max_tokens:
            raise wrong(
                "answer_tokens",
                f"{self.answer_tokens} is not allowed; allowed is a whole number below max_tokens, {self.max_tokens}",
            )
        return self
