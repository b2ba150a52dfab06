"""The paper's seven tasks, IFEval and MMLU-Pro as tasks of lm-eval: its own YAML files, included and given other data.

lm-eval has one chat-template setting per call, so the group's members are evaluated one by one.
Format: https://github.com/EleutherAI/lm-evaluation-harness/blob/v0.4.13/docs/task_guide.md
"""

import importlib.util
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.evals.paper_tasks import mirror as mirrored
from swiftkv.workloads import downloads

GROUP = "swiftkv_paper"
PREFIX = "swiftkv_"
WHOLE = "whole set"
GENERATION = "generation"


@dataclass(frozen=True)
class PaperTask:
    """One entry of tasks.yaml, whose head explains the fields. `max_gen_toks` is None for log-likelihoods."""

    name: str
    authors: str
    lm_eval: str
    kind: str
    num_fewshot: int
    chat: bool
    multiturn: bool
    metric: str
    filter: str
    revision: str
    max_gen_toks: int | None = None
    published: str | None = None
    seven: bool = False


def paper_tasks() -> dict[str, PaperTask]:
    """Every task of the protocol, by name."""
    table = yaml.safe_load((Path(__file__).parent / "tasks.yaml").read_text(encoding="utf-8"))
    return {name: PaperTask(name, **fields) for name, fields in table.items()}


def chosen(names: Iterable[str] | None) -> list[PaperTask]:
    """The named tasks, or all. Raises UserError for a name that is none."""
    known = paper_tasks()
    for name in names or ():
        if name not in known:
            raise UserError(f"protocol task {name!r}: unknown; allowed are {', '.join(known)}")
    return [task for task in known.values() if not names or task.name in names]


def parts_of(task: PaperTask) -> dict[str, Path]:
    """lm-eval's own files of a task: one, or one per subject, by the name they get here."""
    spec = importlib.util.find_spec("lm_eval")
    root = Path(spec.submodule_search_locations[0]) / "tasks" if spec else Path()
    paths = sorted(root.glob(task.lm_eval))
    if not paths:
        raise UserError(f"task {task.name!r}: lm-eval has no tasks/{task.lm_eval}; install lm-eval 0.4.13")
    if len(paths) == 1:
        return {PREFIX + task.name: paths[0]}
    subjects = [path.stem.removeprefix(task.lm_eval.split("/")[-1].split("*")[0]) for path in paths]
    return {f"{PREFIX}{task.name}_{subject}": path for subject, path in zip(subjects, paths, strict=True)}


def source_of(task: PaperTask, mirror: Path | None) -> dict | None:
    """Where the data come from, and `coverage`: what there is of the published set. None if the mirror has nothing."""
    if mirror is None:
        return {"from": "hub", "revision": task.revision, "coverage": WHOLE}
    held = mirrored.SETS.get(task.name)
    if held is None:
        return None
    path = mirror / "evals" / held.file
    if not path.is_file():
        raise downloads.unreadable(path, f"evals/{held.file}", f"task {task.name!r}", "no such file")
    return {"from": "mirror", "file": held.file, "sha256": files.sha256(path), "coverage": held.coverage}


def write_tasks(folder: Path, tasks: list[PaperTask], mirror: Path | None) -> None:
    """Write the YAML files of `tasks` and of the group that holds them into `folder`, and the mirror's data as JSON."""
    names = []
    for task in tasks:
        changes = mirrored.convert(task.name, mirror, folder) if mirror else None
        for name, path in parts_of(task).items():
            data = changes(path.stem) if changes else {"dataset_kwargs": {"revision": task.revision}}
            definition = {"include": str(path), "task": name, "num_fewshot": task.num_fewshot, **data}
            files.write_text(folder / f"{name}.yaml", yaml.safe_dump(definition))
            names.append(name)
    files.write_text(folder / f"{GROUP}.yaml", yaml.safe_dump({"group": GROUP, "task": names}))


def load(folder: Path, task: PaperTask) -> list:
    """lm-eval's Task objects, with their data. Raises UserError if the data or a package are not to be had."""
    import datasets
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    try:
        return list(manager.load(list(parts_of(task)))["tasks"].values())
    except ImportError as error:
        raise UserError(f"task {task.name!r}: {error}; install lm-eval's extra for it (lm-eval[ifeval])") from None
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"task {task.name!r}: no data ({reason}); set SWIFTKV_MIRROR where there is no network"
        ) from None


def evaluate(lm, task: PaperTask, loaded: list, limit: int | None, max_gen_toks: int | None) -> list[dict]:
    """lm-eval's samples of a task, greedy: one per item, `part` and `score` added, in the order of the set.

    `limit`: the first items of every part. Raises UserError for a score that is not a number.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    result = simple_evaluate(
        lm,
        tasks=loaded,
        limit=limit,
        apply_chat_template=task.chat,
        fewshot_as_multiturn=task.multiturn,
        gen_kwargs={"max_gen_toks": max_gen_toks} if task.kind == GENERATION else None,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),  # it would index all of lm-eval's tasks
    )
    samples = [
        {**sample, "part": name, "score": float(sample[task.metric])}
        for name in sorted(result["samples"])
        for sample in sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
        if sample["filter"] == task.filter
    ]
    check_finite(task, samples)
    return samples


def check_finite(task: PaperTask, samples: list[dict]) -> None:
    """Raise UserError for a score or a log-likelihood that is NaN or infinite."""
    for sample in samples:
        given = [] if task.kind == GENERATION else [logprob for logprob, _ in sample["filtered_resps"]]
        if not all(map(math.isfinite, [sample["score"], *given])):
            item = f"item {sample['doc_id']} of {sample['part']}"
            raise UserError(f"task {task.name!r}: {item} has a score or log-likelihood that is not finite")


def discard_data(folder: Path) -> None:
    """Remove the copies of the data that the datasets library made in `folder`."""
    shutil.rmtree(folder / mirrored.CACHE, ignore_errors=True)
