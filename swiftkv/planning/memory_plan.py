"""What every stage with a model needs of a GPU's memory, before anything is loaded (`swiftkv memory-plan`).

Weights and KV caches are counted; what else an engine takes is ENGINE, as measured for a model of 8 B parameters on an
H200 (results/reference/h200). Distillation: `planning.distillation`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from swiftkv import costmodel
from swiftkv.bench.plan import throughput_plan
from swiftkv.config import UNDISTILLED, RunConfig
from swiftkv.engines.engine import ENGINE_GIB, scoring_kv_gib
from swiftkv.engines.settings import BLOCK, DTYPE_BYTES, Arm
from swiftkv.errors import UserError
from swiftkv.planning import distillation, roofline
from swiftkv.planning.distillation import GIB, KEPT_FREE
from swiftkv.workloads import tasks

ENGINE = ENGINE_GIB * GIB
PROCESS = GIB  # of a process of its own on a GPU: CUDA's context and vLLM's workspaces
HOST_GIB = 6  # of a process of its own, of the machine's memory: PyTorch, vLLM and what it compiles
FLOAT64, FLOAT32, BFLOAT16 = 8, 4, 2
PASS = 1.5  # times its weights, what a model in Transformers takes with what it computes


@dataclass(frozen=True)
class Need:
    """What a stage takes of each of its GPUs, in bytes, and in words."""

    stage: str
    gpus: int
    each: float
    what: str


def own_weights(shape: Mapping, arm: Arm, dtype_bytes: int) -> float:
    """Bytes that a student does not share with the base: Q of its late layers, K and V of its late groups."""
    late, size = shape["num_hidden_layers"] - arm.cut, costmodel.head_dim(shape)
    heads = shape["num_attention_heads"] + 2 * shape["num_key_value_heads"] / arm.group
    return dtype_bytes * late * shape["hidden_size"] * heads * size


def side_by_side(shape: Mapping, arms: Sequence[Arm], ranks: int) -> tuple[float, float]:
    """Weights on a GPU when all engines are there, and what the last one takes on top while it loads.

    Engines of one GPU share their random weights (`vllm.shared_weights`), those of several do not.
    """
    dtype = DTYPE_BYTES[shape["dtype"]]
    base = roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, dtype)
    if ranks > 1:
        return sum(roofline.weight_bytes(shape, arm.cut, arm.group, dtype) for arm in arms) / ranks, 0.0
    return base + sum(own_weights(shape, arm, dtype) for arm in arms), base


def throughput(config: RunConfig) -> Need:
    """All arms side by side, for the engine flags that need most."""
    ranks, plan = config.tensor_parallel_size, throughput_plan(config)
    kv = max(engine_set.settings.kv_memory_bytes for engine_set in plan.engine_sets)
    engines = [arm for arm in plan.arms if not arm.runs_on]
    weights, loading = side_by_side(config.shape, engines, ranks)
    # Engines start one after the other: the largest moment is the loading of the last, or all of them at work.
    caches = kv / ranks + ENGINE
    each = weights + max(len(engines) * caches, (len(engines) - 1) * caches + loading)
    shared = "shared weights" if ranks == 1 else "weights of their own"
    return Need(
        "throughput", ranks, each, f"{len(engines)} engines side by side, {shared}, {kv / GIB:.3g} GiB of KV each"
    )


def verify_engine(config: RunConfig, shape: Mapping) -> float:
    """Bytes that an engine of the gates takes of each of its GPUs, in float32."""
    settings, ranks = config.verify, config.tensor_parallel_size
    weights = roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, FLOAT32)
    longest = min(settings.longest_prompt, shape.get("max_position_embeddings", settings.longest_prompt))
    lengths = [*settings.prompt_lengths * (len(tasks.TASKS) + 1), longest, longest]
    blocks = sum(2 + (length + 3 * settings.generate) // BLOCK for length in lengths)
    per_token = costmodel.kv_bytes_per_token(shape, shape["num_hidden_layers"], 1, FLOAT32)
    return (weights + blocks * BLOCK * per_token) / ranks + ENGINE


def verify(config: RunConfig, shape: Mapping, jobs: int = 1) -> Need:
    """Engines side by side, and the reference where there is room for it, too."""
    what = "an engine in float32" if jobs == 1 else f"{jobs} engines in float32 and their reference"
    beside = verify_reference(shape) + jobs * PROCESS if jobs > 1 else 0.0
    return Need("verify", config.tensor_parallel_size, jobs * verify_engine(config, shape) + beside, what)


def verify_reference(shape: Mapping) -> float:
    """Bytes of a model of the gates in Transformers, in float64 and in float32."""
    return PASS * roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, FLOAT64 + FLOAT32)


def verify_jobs(config: RunConfig, shape: Mapping, gpu_memory_gib: float | None, cores: int, memory_gib: float) -> int:
    """How many engines of the gates run side by side: on a GPU as many as its memory holds beside their reference, and
    as there are cores and `memory_gib` for their processes; without one (None), where an engine takes every core, and
    on several GPUs, one."""
    if gpu_memory_gib is None or config.tensor_parallel_size > 1:
        return 1
    left = (1 - KEPT_FREE) * gpu_memory_gib * GIB - verify_reference(shape)
    sessions = 3 * (1 + len(config.variants))  # of the base, of l = L, and three of each student
    processes = min(cores, memory_gib // HOST_GIB)
    return int(max(1, min(sessions, processes, left // (verify_engine(config, shape) + PROCESS))))


def own_bytes(shape: Mapping) -> int:
    """Bytes of a weight as the base's checkpoint has it, those of bfloat16 if it does not say."""
    return DTYPE_BYTES.get(shape.get("dtype") or shape.get("torch_dtype"), BFLOAT16)


def own_format(shape: Mapping) -> float:
    """Bytes of the base's weights as its checkpoint has them."""
    return roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, own_bytes(shape))


def accuracy(config: RunConfig, shape: Mapping, gpu_memory_gib: float | None = None) -> Need:
    """One engine in the model's own format, for the tasks and for the paper's protocol."""
    ranks = config.tensor_parallel_size
    weights = own_format(shape) / ranks
    kv_gib = scoring_kv_gib(weights / GIB, gpu_memory_gib)
    return Need("accuracy", ranks, weights + kv_gib * GIB + ENGINE, f"an engine with {kv_gib:.3g} GiB of KV")


def models(config: RunConfig, shape: Mapping) -> Need:
    """Base and a student in Transformers, side by side, for what compares their states."""
    return Need("models", 1, 2 * PASS * own_format(shape) + GIB, "base and a student in Transformers")


def divergence(config: RunConfig, shape: Mapping) -> Need:
    """Base and every arm in Transformers, side by side; what an arm has in common with the base is there once."""
    layers, size = shape["num_hidden_layers"], own_bytes(shape)
    weights = own_format(shape)
    for arm in config.accuracy_arms[1:]:
        variant = config.variant(arm.removesuffix(UNDISTILLED))
        kept = Arm(arm, variant.num_key_value_layers(layers), variant.key_value_group_size)
        whole = variant.recipe(config.distill).train == "layers" and not arm.endswith(UNDISTILLED)
        weights += own_format(shape) if whole else own_weights(shape, kept, size)
    return Need("divergence", 1, PASS * weights + GIB, f"{len(config.accuracy_arms)} models in Transformers")


def distill(config: RunConfig, shape: Mapping, gpu_memory_gib: float) -> Need:
    """A process of the distillation, with the micro-batch and the recomputation of the configuration."""
    planned = distillation.plan(
        config,
        shape,
        processes=config.fsdp_world_size,
        gpu_memory_gib=gpu_memory_gib,
        tflops=1.0,  # of no account for memory
        micro_batch_tokens=config.parallel.micro_batch_tokens,
        checkpoint_activations=config.parallel.recompute,
    )
    each = sum(planned.memory(planned.rows).values())
    return Need("distill", planned.processes, each, f"{planned.rows * planned.context:,} tokens at once")


def needs(config: RunConfig, shape: Mapping, gpu_memory_gib: float) -> list[Need]:
    """Of every stage that needs a GPU; what `models` is for runs on the CPU where there is no room.

    Raises UserError for a cut or a number of ranks that does not fit the shape.
    """
    for heads in (shape["num_key_value_heads"], config.shape["num_key_value_heads"]):
        if heads % config.tensor_parallel_size:
            raise UserError(
                f"parallel.tensor_parallel_size: {config.tensor_parallel_size} does not divide {heads} key-value heads"
            )
    return [
        distill(config, shape, gpu_memory_gib),
        verify(config, shape),
        throughput(config),
        accuracy(config, shape, gpu_memory_gib),
    ]


def show(config: RunConfig, base_dir: Path | None, gpu_memory_gib: float) -> bool:
    """Print the plan; whether every stage fits."""
    shape, source = distillation.shape_of(config, base_dir)
    budget, stages = (1 - KEPT_FREE) * gpu_memory_gib * GIB, needs(config, shape, gpu_memory_gib)
    rows = [
        (need.stage, need.gpus, f"{need.each / GIB:.1f}", "yes" if need.each <= budget else "no", need.what)
        for need in stages
    ]
    table = pd.DataFrame(rows, columns=["stage", "GPUs", "GiB of each", "fits", "what"])
    weights = roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, 1)
    print(f"memory-plan: shape from {source}; GPUs of {gpu_memory_gib:.4g} GiB, {KEPT_FREE:.0%} kept free")
    print(table.to_string(index=False))
    print(
        f"on the CPU where no GPU has room: gates' reference in float64, {FLOAT64 * weights / GIB:.3g} GiB; "
        f"the models of similarity and diagnosis, {2 * BFLOAT16 * weights / GIB:.3g} GiB"
    )
    return all(need.each <= budget for need in stages)
