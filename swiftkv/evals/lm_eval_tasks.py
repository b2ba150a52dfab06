"""The held-out items of a task as a local lm-eval task: a JSON Lines file and a YAML file, made at run time.

Nothing is fetched: `dataset_path: json` reads the local file, and the defaults of lm-eval are not indexed.
Format: https://github.com/EleutherAI/lm-evaluation-harness/blob/v0.4.13/docs/task_guide.md
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import yaml

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.workloads import real, tasks
from swiftkv.workloads.tasks import Item

VERSION = 1.0
PREFIX = "swiftkv_"
CACHE = "datasets"
STOP = ("\n",)  # beside EOS, which lm-eval adds: every answer to a generated task is one line
METRICS = ("score", "exact_match")


class SeededSampling(NamedTuple):
    """How answers are drawn; torch's generator starts from `seed` before every task."""

    temperature: float
    top_p: float
    seed: int


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """lm-eval's hook: judge one generation (called by the name that the YAML gives)."""
    item = item_of(doc)
    judged = real.SETS[item.task].score(item, results[0]) if item.task in real.SETS else tasks.score(item, results[0])
    return {name: judged[name] for name in metrics_of(item.task)}


def metrics_of(task: str) -> tuple[str, ...]:
    """What is recorded of every answer to a task."""
    return real.SETS[task].metrics if task in real.SETS else METRICS


def doc_of(item: Item) -> dict:
    """An item as a flat row; `meta` is JSON text, for its shape differs from item to item."""
    return {**dataclasses.asdict(item), "meta": json.dumps(item.meta)}


def item_of(doc: dict) -> Item:
    """The item that `doc_of` made into a row."""
    return Item(**{**doc, "meta": json.loads(doc["meta"])})


def task_yaml(task: str, data: Path, max_new_tokens: int, sampling: SeededSampling | None = None) -> str:
    """The YAML of one generate_until task on `data`, greedy without `sampling`; its cache stays beside the data."""
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling else {"temperature": 0.0}
    definition = {
        "task": PREFIX + task,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data.resolve())},
            "cache_dir": str(data.resolve().parent / CACHE),
        },
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {
            "until": list(real.SETS[task].stop if task in real.SETS else STOP),
            "do_sample": sampling is not None,
            **drawn,
            "max_gen_toks": max_new_tokens,
        },
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics_of(task)],
        "num_fewshot": 0,
        "metadata": {"version": VERSION},
    }
    return yaml.safe_dump(definition) + f"process_results: !function {__name__}.process_results\n"


def write_task(
    folder: Path, task: str, items: list[Item], max_new_tokens: int, sampling: SeededSampling | None = None
) -> None:
    """Write the data and the YAML of a task into `folder`. Raises UserError if there are no items."""
    if not items:
        raise UserError(f"task {task!r}: no test rows")
    data = folder / f"{task}.jsonl"
    files.write_jsonl(data, map(doc_of, items))
    files.write_text(folder / f"{task}.yaml", task_yaml(task, data, max_new_tokens, sampling))


def evaluate(
    lm, task: str, items: list[Item], max_new_tokens: int, folder: Path, sampling: SeededSampling | None = None
) -> tuple[list[dict], dict]:
    """Generate and score with lm-eval: its sample of each item, in the order of `items`, and its record.

    `lm` is an lm-eval LM. Raises UserError if a prediction is missing or a prompt reached the model altered.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    write_task(folder, task, items, max_new_tokens, sampling)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    seed = {"torch_random_seed": sampling.seed} if sampling else {}
    result = simple_evaluate(lm, tasks=[PREFIX + task], task_manager=manager, **seed)
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    return in_order(task, items, result["samples"][PREFIX + task]), record(result, PREFIX + task)


def in_order(task: str, items: list[Item], samples: list[dict]) -> list[dict]:
    """The sample of each item. Raises UserError unless each has a prediction, made from its prompt."""
    given = {sample["doc"]["id"]: sample for sample in samples}
    if missing := [item.id for item in items if not given.get(item.id, {}).get("filtered_resps")]:
        raise UserError(f"task {task!r}: {len(missing)} predictions are missing, the first for {missing[0]}")
    if altered := [item.id for item in items if given[item.id]["arguments"][0][0] != item.prompt]:
        raise UserError(f"task {task!r}: the prompt of {altered[0]} reached the model altered")
    return [given[item.id] for item in items]


def record(result: dict, name: str) -> dict:
    """What is worth keeping of lm-eval's result, without machine paths: scores, definition, versions."""
    definition = {k: v for k, v in result["configs"][name].items() if k not in ("dataset_kwargs", "metadata")}
    essentials = {
        "results": result["results"][name],
        "n_samples": result["n-samples"][name],
        "higher_is_better": result["higher_is_better"][name],
        "definition": definition,
        "version": result["versions"][name],
        "seeds": {k: v for k, v in result["config"].items() if k.endswith("_seed")},
    }
    return json.loads(json.dumps(essentials, default=str))
