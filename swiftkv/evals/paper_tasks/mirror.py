"""The sets of the mirror in the shape that lm-eval's own tasks expect, so that prompts are the same.

They are written into the work directory at run time; nothing of them is part of the repository.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from swiftkv import files
from swiftkv.errors import UserError

CACHE = "datasets"
LETTERS = "ABCD"
# Shots come from the test set where the mirror has no training set; lm-eval leaves out the item that is asked.
SHOTS_FROM_TEST = {"training_split": None, "validation_split": None, "test_split": "test", "fewshot_split": "test"}


@dataclass(frozen=True)
class Mirrored:
    """A file below the mirror's evals/, what it covers, its rows for lm-eval, and further keys that change."""

    file: str
    coverage: str
    rows: Callable[[Path], Iterable[dict]] | None = None
    changes: dict = field(default_factory=dict)


def arc(path: Path) -> Iterator[dict]:
    """Questions of four choices, as the task has them; the file fills up three choices by repeating one."""
    for row in files.read_jsonl(path):
        if len(set(row["choices"])) == len(LETTERS):
            choices = {"text": row["choices"], "label": list(LETTERS)}
            question = row["query"].removeprefix("Question: ")
            yield {"question": question, "choices": choices, "answerKey": LETTERS[row["gold"]]}


def winogrande(path: Path) -> Iterator[dict]:
    """The blank first: the file has both sentences up to the blank filled in, which the task would put together."""
    for row in files.read_jsonl(path):
        first, second = row["context_options"]
        sentence = f"_ {row['continuation']}"
        yield {"sentence": sentence, "option1": first, "option2": second, "answer": str(row["gold"] + 1)}


def hellaswag(path: Path) -> Iterator[dict]:
    """One row per question; the file has one per choice, with and without a context."""
    seen = {row["doc"]["ind"]: row["doc"] for row in files.read_jsonl(path)}
    for doc in seen.values():
        yield {"query": doc["query"], "choices": doc["choices"], "label": doc["gold"]}


def truthfulqa(path: Path) -> Iterator[dict]:
    """Choices and labels as lists, as on the hub."""
    for row in files.read_json(path):
        targets = {"choices": list(row["mc2_targets"]), "labels": list(row["mc2_targets"].values())}
        yield {"question": row["question"], "mc2_targets": targets}


SETS = {
    "arc_challenge": Mirrored("arc_challenge.jsonl", "test set without the 4 questions of three choices", arc),
    "winogrande": Mirrored("winogrande.jsonl", "whole set; shots from the same set", winogrande, SHOTS_FROM_TEST),
    "hellaswag": Mirrored(
        "hellaswag_1000_rc_5shot.jsonl.gz",
        "1,000 of 10,042 questions; shots from the same set",
        hellaswag,
        {**SHOTS_FROM_TEST, "process_docs": None},  # the file has the processed texts
    ),
    "truthfulqa_mc2": Mirrored(
        "truthfulqa_mc.json", "whole set", truthfulqa, {"test_split": "test", "validation_split": None}
    ),
    "mmlu": Mirrored("mmlu_hails_arrow.tar.xz", "whole set"),
    "mmlu_cot": Mirrored("mmlu_hails_arrow.tar.xz", "whole set"),
    "gsm8k_cot": Mirrored("gsm8k_test.jsonl", "whole set", files.read_jsonl),
}


def changes_of(kind: str, data_files: dict[str, Path], folder: Path) -> dict:
    """The keys by which a task reads local files instead of the hub's."""
    located = {split: str(path.resolve()) for split, path in data_files.items()}
    kwargs = {"data_files": located, "cache_dir": str((folder / CACHE).resolve())}
    return {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": kwargs}


def subjects(archive: Path, folder: Path) -> Path:
    """MMLU's Arrow files, one directory per subject. Raises UserError for an archive that cannot be read."""
    unpacked = folder / f"mmlu-{files.sha256(archive)[:8]}"
    if not unpacked.is_dir():
        try:
            with files.atomic_dir(unpacked) as temporary, tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UserError(f"{archive}: cannot be unpacked ({error})") from None
    root = next(unpacked.rglob("mmlu_no_train"), None)
    if root is None:
        raise UserError(f"{archive}: holds no mmlu_no_train/")
    return root


def convert(task: str, mirror: Path, folder: Path) -> Callable[[str], dict]:
    """Put the data of a task into `folder`; gives the keys that change for each of its parts, by lm-eval's file name.

    Raises UserError for a file that is missing, empty or not in the published shape.
    """
    held, path = SETS[task], mirror / "evals" / SETS[task].file
    if held.rows is None:
        root = subjects(path, folder)
        return lambda stem: changes_of("arrow", arrow_files(root / stem.removeprefix("mmlu_")), folder)
    try:
        rows = list(held.rows(path))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not in the shape of the published file ({error!r})") from None
    if not rows:
        raise UserError(f"{path}: no rows")
    data = folder / f"{task}.jsonl"
    files.write_jsonl(data, rows)
    return lambda stem: changes_of("json", {"test": data}, folder) | held.changes


def arrow_files(subject: Path) -> dict[str, Path]:
    """The test questions of a subject, and the shots. Raises UserError if there are none."""
    by_split = {split: next((subject / split).glob("*.arrow"), None) for split in ("test", "dev")}
    if None in by_split.values():
        raise UserError(f"mmlu: subject {subject.name!r} is not in the mirror")
    return by_split
