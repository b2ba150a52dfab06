"""QMSum: summarise a meeting under a query (https://arxiv.org/abs/2104.05938)."""

import re
from functools import cache

from swiftkv.workloads.real import published
from swiftkv.workloads.real.base import Example, RealTask
from swiftkv.workloads.tasks.base import Item

FILE = "qmsum_test.jsonl"
NOISE = re.compile(r"\s*\{\s*\w+\s*\}")  # {vocalsound}, {disfmarker}
STOP = ("\n\n", "\nQuery:")


def examples(settings: dict) -> list[Example]:
    """Every query on the whole transcript, or each specific query on the turns annotated as relevant to it."""
    relevant = settings.get("transcript", "whole") == "relevant"
    kinds = ("specific",) if relevant else ("general", "specific")
    return [
        example(f"qmsum/{meeting}/{kind}/{number}", row["meeting_transcripts"], query, relevant)
        for meeting, row in enumerate(published.rows(FILE))
        for kind in kinds
        for number, query in enumerate(row[f"{kind}_query_list"])
    ]


def transcript(turns: list[dict]) -> str:
    """Turns of a meeting as text, a line each, without the marks of noises."""
    return "".join(f"{turn['speaker']}: {NOISE.sub('', turn['content']).strip()}\n" for turn in turns)


def example(identity: str, turns: list[dict], query: dict, relevant: bool) -> Example:
    """One query; its spans give the first and last relevant turn."""
    if relevant:
        spans = [(int(first), int(last)) for first, last in query["relevant_text_span"]]
        turns = [turn for first, last in spans for turn in turns[first : last + 1]]
    return Example(
        id=identity,
        instruction=(
            f"Transcript of a meeting:\n\n{transcript(turns)}\n"
            f"Answer the query from the transcript, in one paragraph.\n\nQuery: {query['query']}\n"
        ),
        lead="Answer:",
        answer=query["answer"],
        meta={},
    )


@cache
def scorer():
    """ROUGE-1 and ROUGE-L with Porter stemming (https://aclanthology.org/W04-1013)."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def score(item: Item, text: str) -> dict[str, float]:
    """Score: F-measure of ROUGE-L; `length_ratio` is words of the summary over words of the reference."""
    rouge = scorer().score(item.answer, text)
    return {
        "score": rouge["rougeL"].fmeasure,
        "exact_match": float(text.split() == item.answer.split()),
        "rouge1": rouge["rouge1"].fmeasure,
        "length_ratio": len(text.split()) / len(item.answer.split()),
    }


METRICS = ("score", "exact_match", "rouge1", "length_ratio")
TASK = RealTask("qmsum", examples, score, METRICS, stop=STOP, max_new_tokens=300, files=(FILE,))
