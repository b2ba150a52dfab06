"""NQ-open with its gold passage (https://arxiv.org/abs/2307.03172): retrieval-augmented answering without retrieval."""

import re
import string

from swiftkv.workloads.real import published
from swiftkv.workloads.real.base import Example, RealTask
from swiftkv.workloads.tasks.base import Item, token_f1

FILE = "nq-open-oracle.jsonl.gz"
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def examples(settings: dict) -> list[Example]:
    """Every question of the published set with the passage that answers it."""
    return [example(number, row) for number, row in enumerate(published.rows(FILE))]


def example(number: int, row: dict) -> Example:
    """One question; any of the annotated answers counts."""
    (passage,) = row["ctxs"]
    return Example(
        id=f"nq_open/{number}",
        instruction=(
            "Answer the question in a few words, from the passage.\n\n"
            f"Passage: {passage['title']}\n{passage['text']}\n\nQuestion: {row['question']}?\n"
        ),
        lead="Answer:",
        answer=row["answers"][0],
        meta={"answers": row["answers"]},
    )


def words(text: str) -> list[str]:
    """The words that SQuAD's evaluation compares: lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def score(item: Item, text: str) -> dict[str, float]:
    """Score: F1 over words, of the answer that fits best (https://arxiv.org/abs/1606.05250); `exact_match` likewise."""
    given, answers = words(text), [words(answer) for answer in item.meta["answers"]]
    exact = float(given in answers)
    return {"score": max(exact, *(token_f1(answer, given) for answer in answers)), "exact_match": exact}


TASK = RealTask("nq_open", examples, score, ("score", "exact_match"), stop=("\n",), max_new_tokens=32, files=(FILE,))
