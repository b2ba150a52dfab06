"""FLOPs of a distillation step, and FLOP/s of the device: together the share of its peak that a run reaches (MFU).

Counted as in `costmodel`: matrix products alone, attention causal. The gradient of a product costs its forward FLOPs
again for the input, and once more for the weight if that is trained. `context` is the tokens of a document: each
token sees (context + 1) / 2 positions on average, positions with loss included.
"""

import re
from collections.abc import Mapping

import torch
from torch.utils.benchmark import Timer

from swiftkv.costmodel import kv_caches, layer_flops
from swiftkv.devices import fast_bfloat16

# FLOP/s in bfloat16 without sparsity, by torch's name of the GPU. Source: NVIDIA's data sheets and product pages
# (https://www.nvidia.com/en-us/data-center/: a100, h100, h200, hgx, l40s, l4, products/a10-gpu), halved where they
# count sparsity.
PEAKS = {
    "A100": 312e12,
    "H100 80GB HBM3": 989e12,  # SXM
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
OTHER_MODELS = r"\b(MIG|NVL)\b"  # slices of these GPUs, and their slower cards
MEASURED_S = 0.2


def attention_flops(shape: Mapping, context: int) -> int:
    """Attention of one layer for one token, on average."""
    return layer_flops(shape)["attention"] * (context + 1) // 2


def forward_flops(shape: Mapping, layers: int, tokens: int, context: int) -> int:
    """Forward pass of `tokens` tokens through `layers` layers of the base model."""
    layer = layer_flops(shape)
    return layers * tokens * (layer["kv"] + layer["qo"] + layer["mlp"] + attention_flops(shape, context))


def head_flops(shape: Mapping, tokens: int) -> int:
    """Logits of `tokens` tokens."""
    return 2 * shape["hidden_size"] * shape["vocab_size"] * tokens


def student_flops(
    shape: Mapping,
    cut: int,
    group: int,
    tokens: int,
    loss_tokens: int,
    context: int,
    recompute: bool = False,
    run_tokens: int | None = None,
) -> int:
    """Late half of one student, forward and backward; 0 at cut = L, where nothing is trained.

    K and V are projected for all `tokens`; the layers run at `run_tokens` (default: at the `loss_tokens`), the head
    at `loss_tokens`. `recompute` adds the second forward of activation checkpointing. Raises UserError for an
    impossible cut or group.
    """
    layer, late = layer_flops(shape), shape["num_hidden_layers"] - cut
    groups = kv_caches(shape, cut, group) - cut
    if not late:
        return 0
    run = late * (loss_tokens if run_tokens is None else run_tokens)
    q = o = layer["qo"] // 2
    # Attention holds no weights, but its two products have gradients of both inputs: as dear as a trained product.
    trained = layer["kv"] * tokens * groups + run * (q + attention_flops(shape, context))
    frozen = run * (o + layer["mlp"])
    first_q_input = q * run // late  # x_l needs no gradient
    again = trained + frozen - run * layer["mlp"] // 3 if recompute else 0  # nothing needs the last product's result
    return 3 * trained + 2 * frozen - first_q_input + again + 2 * head_flops(shape, loss_tokens)


def step_flops(
    shape: Mapping,
    students: list[tuple[int, int]],
    tokens: int,
    loss_tokens: int,
    context: int,
    recompute: bool = False,
    run_tokens: int | None = None,
) -> int:
    """One training step: the teacher's pass over `tokens` with logits at `loss_tokens`, and `student_flops` of every
    student, given as (cut, group). What checkpointing adds belongs to a cost, not to an MFU.
    """
    teacher = forward_flops(shape, shape["num_hidden_layers"], tokens, context) + head_flops(shape, loss_tokens)
    return teacher + sum(
        student_flops(shape, cut, group, tokens, loss_tokens, context, recompute, run_tokens) for cut, group in students
    )


def data_sheet(gpu: str) -> float | None:
    """Peak of a GPU by torch's name for it, None if PEAKS has not got it."""
    if re.search(OTHER_MODELS, gpu):
        return None
    return next((peak for model, peak in PEAKS.items() if re.search(rf"\b{model}\b", gpu)), None)


def measured(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few matrix products timed here."""
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * side**3 / min(timer.blocked_autorange(min_run_time=MEASURED_S).times)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """FLOP/s of matrix products in the dtype that distillation uses there, and where the figure is from: the GPU's
    data sheet, or a measurement here (a quarter of a second)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if peak := data_sheet(name):
        return peak, f"data sheet of {name}, dense bfloat16"
    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    return measured(device, dtype), f"measured on {name}, {str(dtype).removeprefix('torch.')}"
