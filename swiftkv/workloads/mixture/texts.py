"""Corpora as plain text, and passages of them with an instruction, which the base answers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from swiftkv.workloads.corpora import corpus

USER = "distill.data.mix"
LEAST = 5  # a passage has at least this part of the characters that it may have
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


def passage(text: str, most: int, rng: Random) -> str | None:
    """Paragraphs from a random place of a text, `most` characters at most; None if they are too few there."""
    paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    start, wanted, chosen = rng.randrange(max(1, len(paragraphs))), rng.randint(most // LEAST, most), []
    for part in paragraphs[start:]:
        if len("\n\n".join([*chosen, part])) > wanted:
            break
        chosen.append(part)
    found = "\n\n".join(chosen)
    return found if len(found) >= most // LEAST else None


def questions(names: list[str], mirror: Path | None, most: int, rng: Random) -> Iterator[dict]:
    """Passages of `most` characters at most, with an instruction before or after them, without end.

    Raises UserError if a corpus cannot be had.
    """
    found = [text for text in shuffled_texts(names, mirror, rng) if len(text) >= most // LEAST]
    given = True
    while given:
        given = False
        for text in found:
            if part := passage(text, most, rng):
                given, instruction = True, rng.choice(INSTRUCTIONS)
                pieces = rng.choice([(instruction, part), (part, instruction)])
                yield {"messages": [{"role": "user", "content": "\n\n".join(pieces)}]}
