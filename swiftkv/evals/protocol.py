"""The paper's accuracy protocol: its seven tasks, IFEval and MMLU-Pro, every item kept, every arm by the same path."""

import dataclasses
import gc
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from swiftkv import files, outputs
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.evals import harness, paper_tasks
from swiftkv.evals.paper_tasks import GENERATION, PaperTask
from swiftkv.provenance import Provenance
from swiftkv.workloads.downloads import mirror_of
from swiftkv.workloads.tokens import count_tokens, load_tokenizer

MAX_LENGTH = 8192  # tokens of prompt and answer; MMLU-Pro's are the longest
TRANSFORMERS_BATCH = 8
MAX_NUM_BATCHED_TOKENS = 2048  # the authors' chunk of prefill
UNAVAILABLE = "not available offline"


def settings_of(config: RunConfig, model_dir: Path, task: PaperTask) -> dict:
    """How a task is run, equal for all arms: path, limits, and the keyword arguments of lm-eval's backend.

    No BOS is added: the chat templates bring theirs, and the authors' command lines ask for none elsewhere.
    """
    model, section = files.read_json(model_dir / "config.json"), config.protocol
    path = section.generation if task.kind == GENERATION else section.loglikelihood
    length = min(MAX_LENGTH, model.get("max_position_embeddings") or MAX_LENGTH)
    if path == harness.TRANSFORMERS:
        limits = {"max_length": length, "batch_size": TRANSFORMERS_BATCH}
    else:
        limits = {"max_model_len": length, **harness.vllm_settings(config, MAX_NUM_BATCHED_TOKENS)}
    new = section.max_new_tokens or task.max_gen_toks if task.kind == GENERATION else None
    return {
        "path": path,
        "max_gen_toks": new,
        "backend": {"dtype": harness.dtype_of(model), "add_bos_token": False, **limits},
    }


def check_templates(model_dir: Path, tokenizer, tasks: list[PaperTask]) -> None:
    """Raise UserError if a task needs a chat template and the tokenizer has none."""
    chats = [task.name for task in tasks if task.chat]
    if chats and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{model_dir}: the tokenizer has no chat_template, which the tasks {', '.join(chats)} need; "
            "use an instruct model or name other --tasks"
        )


def rows_of(arm: str, task: PaperTask, samples: list[dict], tokenizer, settings: dict) -> list[dict]:
    """One row per item: its id, hashes of item and prompt, what the model gave, and the score.

    `prompt_tokens` is the longest of the item's requests (log-likelihoods: with the continuation); `cut` tells that it
    was longer than the model takes and lost its beginning.
    """
    limit = settings["backend"].get("max_length") or settings["backend"]["max_model_len"]
    room = limit - (settings["max_gen_toks"] or 0)
    generated = task.kind == GENERATION
    texts = [["".join(request[:1] if generated else request) for request in s["arguments"]] for s in samples]
    rows = []
    for sample, requests in zip(samples, texts, strict=True):
        tokens = max(count_tokens(tokenizer, requests))
        rows.append(
            {
                "arm": arm,
                "task": task.name,
                "id": f"{sample['part']}-{sample['doc_id']}",
                "doc_hash": sample["doc_hash"],
                "prompt_hash": hashlib.sha256("\0".join(requests).encode()).hexdigest(),
                "prompt_tokens": tokens,
                "cut": tokens > room,
                "response": [given[0] for given in sample["resps"]],
                "prediction": sample["filtered_resps"][0] if generated else None,
                "target": sample["target"],
                "score": sample["score"],
            }
        )
    return json.loads(json.dumps(rows, default=str))


def summary_of(task: PaperTask, rows: list[dict], settings: dict, source: dict, limit: int | None) -> dict:
    """What protocol.json says of one task; `items_sha256` is the fingerprint of its items and prompts."""
    coverage = source["coverage"] + (f"; first {limit} of each part only" if limit else "")
    identity = [(row["id"], row["doc_hash"], row["prompt_hash"]) for row in rows]
    return {
        "path": settings["path"],
        "coverage": coverage,
        "items": len(rows),
        "cut": sum(row["cut"] for row in rows),
        "score": harness.mean_score(rows),
        "items_sha256": files.digest(identity, 64),
        "source": source,
        "settings": settings,
        "definition": dataclasses.asdict(task),
    }


@dataclass(frozen=True)
class ProtocolJob:
    """One task of one arm: how it runs, where its data come from, and the file that says it is done."""

    task: PaperTask
    settings: dict
    source: dict
    part: Path


def jobs_of(
    config: RunConfig, arm: str, model_dir: Path, hashes: dict, tasks: dict, work: Path, limit: int | None
) -> list[ProtocolJob]:
    """The jobs of `tasks`, a mapping of each task to its source; what decides a result names its part."""
    jobs = []
    for task, source in tasks.items():
        settings = settings_of(config, model_dir, task)
        key = harness.score_key(arm, hashes, settings, dataclasses.asdict(task), source, limit)
        jobs.append(ProtocolJob(task, settings, source, work / arm / f"{task.name}-{key}.json"))
    return jobs


def finish(arm: str, model_dir: Path, jobs: list[ProtocolJob], folder: Path, tokenizer, limit: int | None) -> None:
    """Evaluate the jobs whose part is missing, path by path, each with one model.

    The data of all are loaded before the first model is: what is missing shows at once.
    """
    todo = harness.to_do(f"protocol {arm}", jobs)
    loaded = {job.task: paper_tasks.load(folder, job.task) for job in todo}
    for path in dict.fromkeys(job.settings["path"] for job in todo):
        run_path(arm, model_dir, [job for job in todo if job.settings["path"] == path], loaded, tokenizer, limit)
        release_memory()


def run_path(arm: str, model_dir: Path, jobs: list[ProtocolJob], loaded: dict, tokenizer, limit: int | None) -> None:
    """Evaluate jobs of one path; their parts are written one at a time."""
    settings = jobs[0].settings
    with harness.backend(model_dir, settings["path"], settings["backend"]) as lm:
        for job in jobs:
            samples = paper_tasks.evaluate(lm, job.task, loaded[job.task], limit, job.settings["max_gen_toks"])
            rows = rows_of(arm, job.task, samples, tokenizer, job.settings)
            files.write_json(job.part, rows)
            harness.told(f"protocol {arm}", job.task.name, rows)


def release_memory() -> None:
    """Give the memory of a model that went out of scope back, so that the next one fits on the same GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def score_arm(
    config: RunConfig,
    arm: str,
    model_dir: Path,
    out_dir: Path,
    work: Path,
    mirror: Path | None = None,
    only: list[str] | None = None,
    limit: int | None = None,
) -> None:
    """Score one arm: `out_dir` gets TASK.jsonl.gz per task and protocol.json; finished tasks are kept in `work`.

    Data come from `mirror` or SWIFTKV_MIRROR where one is set, else from the hub. `limit`: the first items of each part
    of a task. Raises UserError for a missing model, data, package or chat template, and for an unknown task.
    """
    if config.protocol is None:
        raise UserError(f"{config.path}: no key 'protocol'; `protocol: {{}}` asks for the paper's protocol")
    if arm not in config.accuracy_arms:
        raise UserError(f"arm {arm!r}: not in the config; there are {config.accuracy_arms}")
    mirror, tokenizer = mirror_of(mirror), load_tokenizer(model_dir)
    sources = {task: paper_tasks.source_of(task, mirror) for task in paper_tasks.chosen(only or config.protocol.tasks)}
    available = {task: source for task, source in sources.items() if source}
    check_templates(model_dir, tokenizer, list(available))
    hashes, folder = harness.model_hashes(model_dir), work / arm / "tasks"
    jobs = jobs_of(config, arm, model_dir, hashes, available, work, limit)
    named = {task.name: source for task, source in sources.items()}
    written = [out_dir / "protocol.json", *(out_dir / f"{job.task.name}.jsonl.gz" for job in jobs)]
    with (
        outputs.alone(work / arm),
        Provenance("protocol", config, out=written, arm=arm, model_sha256=hashes, sources=named) as provenance,
    ):
        paper_tasks.write_tasks(folder, list(available), mirror)
        finish(arm, model_dir, jobs, folder, tokenizer, limit)
        write_results(arm, list(named), jobs, out_dir, limit, provenance)
        paper_tasks.discard_data(folder)


def write_results(
    arm: str, names: list[str], jobs: list[ProtocolJob], out_dir: Path, limit: int | None, provenance: Provenance
) -> None:
    """Write the items of each job, then protocol.json, which says so of tasks without data."""
    summaries = {name: {"coverage": UNAVAILABLE, "items": 0} for name in names}
    for job in jobs:
        rows = files.read_json(job.part)
        summaries[job.task.name] = summary_of(job.task, rows, job.settings, job.source, limit)
        files.write_jsonl(out_dir / f"{job.task.name}.jsonl.gz", rows)
    provenance.save(out_dir / "protocol.json")
    files.write_json(out_dir / "protocol.json", {"arm": arm, "tasks": summaries})
