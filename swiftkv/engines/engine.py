"""vLLM engines for the other stages: opened with the suite's settings, closed so that the next one fits.

One process can hold several engines at once (`in_process=True`); measured in turn they share threads and noise.
`in_process=False` gives each engine processes of its own, as `vllm serve` does.
"""

import gc
import importlib.util
import os
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path

from swiftkv import devices, files
from swiftkv.devices import KEPT_FREE
from swiftkv.errors import UserError

GIB = 1 << 30
# gpu_memory_utilization: with kv_cache_memory_bytes only a check of what is free at the start. Its default admits one
# engine to a GPU.
BESIDE_OTHERS = 0.01
ENGINE_GIB = 1  # of a GPU, beside weights and KV cache: CUDA graphs, activations, the allocator's own
# KV cache of an engine that scores answers, at most and at least on a GPU, and on a CPU. It is named because vLLM
# otherwise measures what is free while it starts, and fails ("Error in memory profiling") when another process ends
# meanwhile.
SCORING_KV_GIB, LEAST_SCORING_KV_GIB, SCORING_KV_CPU_GIB = 8, 2, 1
SHARED = "shared_dummy"
RANDOM_WEIGHTS = ("dummy", SHARED)
# vLLM reads these when it is imported, so they are set before. A user's own setting wins.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Triton, which computes attention in float32 on GPUs, would round the products to TF32.
    "TRITON_F32_DEFAULT": "ieee",
}
FEW_CORES = 4
THREADS = "VLLM_CPU_OMP_THREADS_BIND"
V2_LOGITS_PROCESSORS = "v1/worker/gpu/sample/logits_processor/interface.py"  # students have one, see `guards`
in_this_process: weakref.WeakSet = weakref.WeakSet()


def thread_binding(cores: list[int], ranks: int) -> str:
    """VLLM_CPU_OMP_THREADS_BIND for `ranks` processes that share `cores` evenly, such as "0,1" or "0|1"."""
    return "|".join(",".join(map(str, cores[rank::ranks])) for rank in range(ranks))


def bind_threads(ranks: int) -> None:
    """Give every tensor-parallel rank its share of a small machine's cores, unless the user said something else.

    By default vLLM keeps one core free of worker threads: half of a two-core machine.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    ours = [thread_binding(cores, number) for number in range(1, len(cores) + 1)]  # of an engine before, perhaps
    if ranks <= len(cores) <= FEW_CORES and os.environ.get(THREADS, ours[0]) in ours:
        os.environ[THREADS] = ours[ranks - 1]


def keep_one_runner() -> None:
    """Run base models, too, on the V1 model runner where V2 does not take students (before 0.31): nothing but the model
    may differ between arms."""
    spec = importlib.util.find_spec("vllm")
    if spec and not (Path(spec.origin).parent / V2_LOGITS_PROCESSORS).exists():
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")


def prepare_environment(in_process: bool, ranks: int = 1) -> None:
    """Set what vLLM and its processes read from the environment."""
    from swiftkv.vllm.plugin import DIE_WITH_PARENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    os.environ[DIE_WITH_PARENT] = "1"
    # It would override kv_cache_gib.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    bind_threads(ranks)
    keep_one_runner()


def load_vllm():
    """Import vLLM with the plugin registered. Raises UserError if it is not installed."""
    try:
        import vllm
        from vllm.plugins import load_general_plugins
    except ImportError as error:
        raise UserError(f"vLLM cannot be imported ({error}); install the extra 'cpu' or 'cuda'") from None
    vllm.envs.disable_envs_cache()
    load_general_plugins()
    from swiftkv.vllm.plugin import register

    register()
    # On a CPU, an engine's start looks into every object of every loaded module, and fails on one of llvmlite (which
    # numba loads, hence `swiftkv.planning.simulator`) that claims to have any attribute.
    sys.modules.pop("llvmlite.binding.ffi", None)
    return vllm


def check_model(model_dir: Path, max_model_len: int, load_format: str) -> None:
    """Raise UserError for a model directory that vLLM cannot serve at `max_model_len` tokens."""
    if load_format in RANDOM_WEIGHTS:
        if not (model_dir / "config.json").is_file():
            raise UserError(f"{model_dir}: not a model directory (config.json is missing)")
    else:
        from swiftkv.modeling.checkpoint import check_checkpoint

        check_checkpoint(model_dir)
    longest = files.read_json(model_dir / "config.json").get("max_position_embeddings")
    if longest is not None and max_model_len > longest:
        raise UserError(f"{model_dir}: max_model_len {max_model_len} exceeds max_position_embeddings {longest}")


def share_weights(load_format: str, one_process: bool) -> str:
    """SHARED instead of "dummy" where the models of all engines lie in one process, but on a CPU: vLLM packs each
    engine's weights there."""
    from vllm.platforms import current_platform

    if load_format == "dummy" and one_process and not current_platform.is_cpu():
        load_format = SHARED
    if load_format == SHARED:
        from swiftkv.vllm import shared_weights

        shared_weights.register(SHARED)
    return load_format


def memory_arguments(kv_bytes: float, on_cpu: bool) -> dict:
    """vLLM's arguments for an engine whose KV cache takes `kv_bytes` of each of its devices, beside other engines."""
    beside_others = {} if on_cpu else {"gpu_memory_utilization": BESIDE_OTHERS}
    return {"kv_cache_memory_bytes": int(kv_bytes), **beside_others}


def scoring_kv_gib(weights_gib: float, device_gib: float | None) -> float:
    """GiB of KV cache of an engine that scores answers, on a GPU that holds `weights_gib` of its weights and has
    `device_gib` (None: not known): what a small one has left, no more than SCORING_KV_GIB."""
    if device_gib is None:
        return SCORING_KV_GIB
    left = (1 - KEPT_FREE) * device_gib - weights_gib - ENGINE_GIB
    return min(SCORING_KV_GIB, max(LEAST_SCORING_KV_GIB, left))


def scoring_kv_gib_here(weight_bytes: int, ranks: int, on_cpu: bool) -> float:
    """GiB of KV cache that an engine that scores, or writes, answers takes of each of its `ranks` devices here."""
    if on_cpu:
        return SCORING_KV_CPU_GIB / ranks
    smallest = min(devices.memory_gib().values(), default=None)
    return scoring_kv_gib(weight_bytes / GIB / ranks, smallest)


def engine_arguments(model_dir: Path, full_prefill: bool, kv_cache_gib: float, extra: dict) -> dict:
    """The suite's defaults for `vllm.LLM`, `extra` laid over them."""
    from vllm.platforms import current_platform

    from swiftkv.vllm.guards import FULL_PREFILL_KEY

    on_cpu = current_platform.is_cpu()
    arguments = {
        "model": str(model_dir),
        "skip_tokenizer_init": not any(model_dir.glob("token*")),
        "generation_config": "vllm",
        "enforce_eager": on_cpu,
        **memory_arguments(kv_cache_gib * GIB, on_cpu),
        "hf_overrides": {FULL_PREFILL_KEY: True} if full_prefill else {},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    arguments["hf_overrides"] |= extra.pop("hf_overrides", {})
    return arguments | extra


def make_engine(
    model_dir: str | Path,
    *,
    dtype: str = "float32",
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    enable_prefix_caching: bool = False,
    full_prefill: bool = False,
    seed: int = 0,
    load_format: str = "auto",
    kv_cache_gib: float = 1,
    in_process: bool = True,
    **extra,
):
    """A `vllm.LLM` for a base model or a student.

    full_prefill: every token runs every layer, so prompt log-probabilities are right (default: early exit).
    load_format "dummy": random weights, from a config.json alone. kv_cache_gib: size of the KV cache.
    extra: further arguments of `vllm.LLM`. Raises UserError for a bad model directory or setting.
    """
    model_dir = Path(model_dir)
    check_model(model_dir, max_model_len, load_format)
    prepare_environment(in_process, extra.get("tensor_parallel_size", 1))
    vllm = load_vllm()
    load_format = share_weights(load_format, in_process and extra.get("tensor_parallel_size", 1) == 1)
    arguments = engine_arguments(model_dir, full_prefill, kv_cache_gib, extra)
    try:
        engine = vllm.LLM(
            **arguments,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            seed=seed,
            load_format=load_format,
        )
    except ValueError as error:
        raise UserError(f"{model_dir}: vLLM refused the engine: {' '.join(str(error).split())}") from error
    if in_process:
        in_this_process.add(engine)
    return engine


def close_engine(engine) -> None:
    """Shut an engine down and free its memory, leaving other engines of this process alive."""
    client, ours = engine.llm_engine.engine_core, engine in in_this_process
    in_this_process.discard(engine)
    if ours and in_this_process:
        # EngineCore.shutdown would also take down the distributed state that the other engines share, and so does, from
        # vLLM 0.31 on, a private finalizer of the client when nothing refers to it any more.
        if finalizer := getattr(client, "_finalizer", None):
            finalizer.detach()
        client.engine_core.model_executor.shutdown()
        gc.unfreeze()
        gc.collect()
    else:
        client.shutdown()


@contextmanager
def engine(model_dir: str | Path, **settings):
    """`make_engine` for a with statement."""
    opened = make_engine(model_dir, **settings)
    try:
        yield opened
    finally:
        close_engine(opened)
