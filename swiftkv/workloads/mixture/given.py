"""A user's own files: chats and texts as they are, and prompts, which the base answers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from swiftkv.errors import UserError
from swiftkv.workloads.chat import is_chat, is_text
from swiftkv.workloads.rows import TEXT, content, local_rows

PROMPT = "prompt"


def prompt(text: str, where: str) -> dict:
    """A row of a prompt. Raises UserError for an empty one."""
    if not text.strip():
        raise UserError(f"{where}: an empty prompt; give it text or remove the line")
    return {"messages": [{"role": "user", "content": text}]}


def lines(path: Path) -> Iterator[dict]:
    """A prompt a line. Raises UserError for a file that cannot be read or holds an empty line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not text:
        raise UserError(f"{path}: empty file, no prompts in it")
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        yield prompt(line, f"{path}:{number}")


def row_of(row, where: str) -> dict:
    """A line of a JSON Lines file as a row of the mix. Raises UserError for one that cannot be used."""
    if isinstance(row, dict) and is_text(row.get(PROMPT)) and TEXT not in row and not is_chat(row):
        return prompt(row[PROMPT], where)
    found = content(row, where)
    if isinstance(found, str):
        return {"text": found}
    if not any(turn["role"] == "user" for turn in found):
        raise UserError(f"{where}: no turn of a user")
    return {"messages": found}


def rows(paths: list[str], rng: Random) -> Iterator[dict]:
    """Every row of the files once, in random order. Raises UserError for a file or a line that cannot be used."""
    found: list[dict] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise UserError(f"{path}: no such file (distill.data.mix, kind file)")
        read = lines(path) if path.suffix == ".txt" else (row_of(row, where) for where, row in local_rows(path))
        found += read
    rng.shuffle(found)
    yield from found
