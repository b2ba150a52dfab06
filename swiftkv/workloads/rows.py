"""Rows of training data: lines of local files, or a random part of a pinned data set of the hub."""

from collections.abc import Iterator
from pathlib import Path

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.config.data import Dataset
from swiftkv.errors import UserError
from swiftkv.registry import FILES
from swiftkv.workloads.chat import ACCEPTED, is_chat, is_text, messages

# Rows among which the hub's stream draws the next one. A larger buffer draws more evenly and takes longer to fill.
SHUFFLE_BUFFER = 10_000
TEXT = "text"


def local_rows(path: str | Path) -> Iterator[tuple[str, object]]:
    """Place and content of each line. Raises UserError for a missing or empty file, or a line that is not JSON."""
    try:
        rows = files.read_jsonl(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as JSON Lines ({error})") from None
    if not rows:
        raise UserError(f"{path}: empty file, no rows in it")
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row


def hub_rows(settings: Dataset, seed: int) -> Iterator[tuple[str, object]]:
    """Place and content of `samples` rows of a data set, drawn by the seed, or of all rows if there are fewer.

    The set is streamed: its files come in random order, and each row is drawn from a buffer of SHUFFLE_BUFFER
    (https://huggingface.co/docs/datasets/stream#shuffle). So a small sample comes from all over a few random files and
    not evenly from the whole set. Raises UserError if the set cannot be had.
    """
    path, revision = settings.path, settings.revision
    try:
        from datasets import load_dataset

        name, split = settings.name, settings.split
        rows = load_dataset(path, name, split=split, revision=revision, streaming=True)
        drawn = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(settings.samples)
        number = 0
        for number, row in enumerate(drawn, 1):
            yield f"{path}, drawn row {number}", row
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"distill.data.datasets: {path} at revision {revision} cannot be read ({reason}); it needs a network, and "
            "`hf auth login` where access is gated"
        ) from None
    if number < settings.samples:
        print(f"distill: {path}: all its {number} rows, where {settings.samples} samples are asked for", flush=True)


def content(row, where: str) -> str | list[dict]:
    """A row's plain text (`{"text": ...}`), or its messages. Raises UserError for a row that holds neither."""
    if not isinstance(row, dict) or TEXT not in row or is_chat(row):
        return messages(row, where)
    if not is_text(row[TEXT]):
        raise UserError(f"{where}: {TEXT} {ascii(row[TEXT])[:80]} is not valid text; accepted is {ACCEPTED}")
    return row[TEXT]


def self_made(config: RunConfig) -> Path:
    """Where `swiftkv training-data` puts the rows of this configuration."""
    return config.results / FILES["training_data"].path


def local_files(config: RunConfig, made: Path | None = None) -> list[Path]:
    """The local files that the configured data consist of; `made` is what `training-data` wrote, if it lies elsewhere
    than `self_made` says. Raises UserError if one is missing."""
    data = config.distill.data
    if data.source == "self":
        paths, hint = [made or self_made(config)], "; `swiftkv training-data` makes it"
    else:
        paths, hint = list(map(Path, data.files or [])) if data.source == "jsonl" else [], ""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file{hint}")
    return paths


def contents(config: RunConfig, made: Path | None = None) -> Iterator[tuple[str, str | list[dict]]]:
    """Place and content of every row of the configured source. Raises UserError for what cannot be read."""
    data = config.distill.data
    if data.source == "hub":
        sources = (hub_rows(entry, config.seed) for entry in data.datasets)
    else:
        sources = map(local_rows, local_files(config, made))
    for rows in sources:
        for where, row in rows:
            yield where, content(row, where)
