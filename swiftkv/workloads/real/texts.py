"""Published texts that distillation does not use, for what reads them instead of answering (`swiftkv divergence`).

A document is whole: the transcript of a meeting, a question with its worked answer, a function with its docstring and
body, a passage of Wikipedia.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from swiftkv.workloads.real import humaneval, nq_open, published, qmsum

USER = "divergence"  # the section of the configuration that needs these files
GSM8K_TEST = "gsm8k_test.jsonl"


@dataclass(frozen=True)
class Text:
    """A document of a published set."""

    id: str
    text: str


def meetings() -> list[Text]:
    """The transcripts of QMSum's test meetings."""
    rows = published.rows(qmsum.FILE, USER)
    return [Text(f"qmsum/{n}", qmsum.transcript(row["meeting_transcripts"])) for n, row in enumerate(rows)]


def word_problems() -> list[Text]:
    """GSM8K's test questions, each with its worked answer."""
    rows = published.rows(GSM8K_TEST, USER)
    return [Text(f"gsm8k_test/{n}", f"{row['question']}\n{row['answer']}") for n, row in enumerate(rows)]


def functions() -> list[Text]:
    """HumanEval's prompts, each with its published solution."""
    return [
        Text(row["task_id"], row["prompt"] + row["canonical_solution"]) for row in published.rows(humaneval.FILE, USER)
    ]


def passages() -> list[Text]:
    """The gold passages of NQ-open, each once: several questions may share one."""
    found: dict[str, str] = {}
    for number, row in enumerate(published.rows(nq_open.FILE, USER)):
        (passage,) = row["ctxs"]
        found.setdefault(f"{passage['title']}\n{passage['text']}", f"nq_passages/{number}")
    return [Text(identity, text) for text, identity in found.items()]


TEXTS: dict[str, Callable[[], list[Text]]] = {
    "qmsum": meetings,
    "gsm8k_test": word_problems,
    "humaneval": functions,
    "nq_passages": passages,
}


FILES = {"qmsum": qmsum.FILE, "gsm8k_test": GSM8K_TEST, "humaneval": humaneval.FILE, "nq_passages": nq_open.FILE}


def shuffled(name: str, seed: int) -> list[Text]:
    """A set in an order that depends on its name and the seed alone, so that fewer documents are the first of more.

    Raises UserError if the published file cannot be had or is not the pinned version.
    """
    texts = TEXTS[name]()
    Random(f"{name}/{seed}").shuffle(texts)
    return texts
