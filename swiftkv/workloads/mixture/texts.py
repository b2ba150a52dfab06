"""Corpora as plain text, and passages of them with an instruction, which the base answers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from swiftkv.workloads.corpora import corpus

USER = "distill.data.mix"
PASSAGE = (1200, 6000)  # characters, at least and at most
INSTRUCTIONS = (
    "Summarise the following passage in a few sentences.",
    "Summarise the passage in one paragraph for a reader who has not seen it.",
    "List the main points of the passage as short bullet points.",
    "Answer from the passage: which problem does it address, and what does it propose?",
    "Answer from the passage: what is decided or defined in it, and why?",
    "Answer from the passage: which limits, costs or open questions does it name?",
    "Explain the passage to a beginner.",
    "Write three questions that the passage answers, each with its answer.",
)


def shuffled_texts(names: list[str], mirror: Path | None, rng: Random) -> list[str]:
    """The texts of the corpora in random order. Raises UserError if one cannot be had."""
    found = [text for name in names for text in corpus(name, mirror, USER)]
    rng.shuffle(found)
    return found


def rows(names: list[str], mirror: Path | None, rng: Random) -> Iterator[dict]:
    """Every text of the corpora once. Raises UserError if one cannot be had."""
    for text in shuffled_texts(names, mirror, rng):
        yield {"text": text}


def passage(text: str, rng: Random) -> str | None:
    """Paragraphs from a random place of a text, about as long as PASSAGE says; None if there is too little."""
    paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    start, wanted, chosen = rng.randrange(max(1, len(paragraphs))), rng.randint(*PASSAGE), []
    for part in paragraphs[start:]:
        if sum(map(len, chosen)) + len(part) > wanted:
            break
        chosen.append(part)
    found = "\n\n".join(chosen)
    return found if len(found) >= PASSAGE[0] else None


def questions(names: list[str], mirror: Path | None, rng: Random) -> Iterator[dict]:
    """Passages with an instruction before or after them, without end. Raises UserError if a corpus cannot be had."""
    found = [text for text in shuffled_texts(names, mirror, rng) if len(text) >= PASSAGE[0]]
    while found:
        for text in found:
            if part := passage(text, rng):
                instruction = rng.choice(INSTRUCTIONS)
                pieces = rng.choice([(instruction, part), (part, instruction)])
                yield {"messages": [{"role": "user", "content": "\n\n".join(pieces)}]}
