"""Seconds of an engine step: the roofline of each part of the model on a machine, plus a fixed cost per step.

Every part takes max(FLOPs / rate, bytes / bandwidth): weights of the layers all tokens run, weights of the layers that
only tokens with logits run (nothing in a step without any), the vocabulary, and attention in either. The rate depends
on the tokens a part runs for; attention has its own. FLOPs and bytes are `costmodel`'s; what one part takes never hides
behind another. Roofline: S. Williams et al., CACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swiftkv import files
from swiftkv.costmodel import kv_bytes_per_token, kv_caches, layer_flops
from swiftkv.errors import UserError
from swiftkv.planning.simulator import Cost

# Bytes/s of memory and bytes of it, by the names of `costmodel.training.PEAKS`. Source: the same data sheets.
GPU_MEMORY = {
    "A100": (2.039e12, 80e9),  # SXM, 80 GB
    "H100 80GB HBM3": (3.35e12, 80e9),  # SXM
    "H100 PCIe": (2.0e12, 80e9),
    "H200": (4.8e12, 141e9),
    "B200": (8.0e12, 180e9),  # one of eight in a DGX B200
    "L40S": (0.864e12, 48e9),
    "L4": (0.3e12, 24e9),
    "A10": (0.6e12, 24e9),
}
EFFICIENCY = 0.4  # of a data sheet's FLOP/s; assumed, see docs/costmodel.md
BANDWIDTH_EFFICIENCY = 0.8  # of a data sheet's bytes/s; assumed
OVERHEAD_S = 0.002  # of a GPU step: scheduling, launches, sampling; assumed
BFLOAT16_BYTES = 2
MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class Machine:
    """What one device can do. `flops` is FLOP/s of matrix products at each count of `tokens`, ascending, linear in
    between and constant outside; `attention` is FLOP/s of attention (None: the last of `flops`); bandwidths in bytes/s;
    `memory` in bytes; `overhead_s` per step. `kind` says whether the figures are measured. Raises UserError for a rate
    that is not above 0."""

    name: str
    tokens: tuple[float, ...]
    flops: tuple[float, ...]
    bandwidth: float
    write_bandwidth: float
    memory: float
    overhead_s: float
    kind: str = PREDICTED
    attention: float | None = None

    def __post_init__(self):
        rates = (*self.tokens, *self.flops, self.bandwidth, self.write_bandwidth, self.memory, self.attention or 1.0)
        # So written that NaN is refused.
        if not (self.flops and all(rate > 0 for rate in rates) and 0 <= self.overhead_s < float("inf")):
            raise UserError(f"machine {self.name}: rates and memory must be above 0, the overhead at least 0")

    def times(self, count: int) -> "Machine":
        """`count` devices that share one model's matrices, communication not counted."""
        name = f"{count} x {self.name}" if count > 1 else self.name
        return replace(
            self,
            name=name,
            flops=tuple(count * rate for rate in self.flops),
            bandwidth=count * self.bandwidth,
            write_bandwidth=count * self.write_bandwidth,
            memory=count * self.memory,
            attention=self.attention and count * self.attention,
        )


def gpu(name: str, efficiency: float = EFFICIENCY, bandwidth_efficiency: float = BANDWIDTH_EFFICIENCY,
        overhead_s: float = OVERHEAD_S) -> Machine:  # fmt: skip
    """A GPU of the data-sheet table; `name` may be the start of one. Raises UserError for one that is not there."""
    from swiftkv.costmodel.training import PEAKS  # here, because it imports torch

    model = next((key for key in PEAKS if name and key.casefold().startswith(name.casefold())), None)
    if model is None:
        raise UserError(f"--gpu {name!r}: not in the table; allowed are {', '.join(PEAKS)}, or a file of calibrate")
    bandwidth, memory = GPU_MEMORY[model]
    bandwidth *= bandwidth_efficiency
    return Machine(model, (1.0,), (efficiency * PEAKS[model],), bandwidth, bandwidth, memory, overhead_s)


def calibrated(path: str | Path, overhead_s: float = OVERHEAD_S) -> Machine:
    """The machine that `swiftkv calibrate` measured. Raises UserError if the file is missing or is not one of its."""
    record = files.read_json(path)
    try:
        rates = [(float(row["tokens"]), float(row["flops"])) for row in record["model_flops"]]
        tokens, flops = zip(*sorted(rates), strict=True)
        bandwidth, write_bandwidth = float(record["read_bandwidth"]), float(record["kv_write_bandwidth"])
        memory, name = float(record["memory_bytes"]), str(record["device"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of `swiftkv calibrate` ({error!r})") from None
    return Machine(name, tokens, flops, bandwidth, write_bandwidth, memory, overhead_s, MEASURED)


def machine(name: str, efficiency: float, bandwidth_efficiency: float, overhead_s: float) -> Machine:
    """A calibrated machine if `name` is a file or ends in .json, else a GPU of the table. Raises UserError as those."""
    if name.endswith(".json") or Path(name).is_file():
        return calibrated(name, overhead_s)
    return gpu(name, efficiency, bandwidth_efficiency, overhead_s)


def cost(shape: Mapping, cut: int, group: int, machine: Machine, dtype_bytes: int = BFLOAT16_BYTES) -> Cost:
    """The parts of a model. Raises UserError for a bad shape or an impossible cut."""
    caches, layers = kv_caches(shape, cut, group), shape["num_hidden_layers"]
    layer, late_layers = layer_flops(shape), layers - cut
    early = layer["kv"] * caches + (layer["qo"] + layer["mlp"]) * cut
    late = (layer["qo"] + layer["mlp"]) * late_layers
    vocab = 2 * shape["hidden_size"] * shape["vocab_size"]
    kv = kv_bytes_per_token(shape, cut, group, dtype_bytes)
    # Floats throughout: numba would compile everything anew for another type of a field.
    return Cost(
        early_flops=float(early),
        early_bytes=early / 2 * dtype_bytes,  # a product is two FLOPs per weight
        late_flops=float(late),
        late_bytes=late / 2 * dtype_bytes,
        vocab_flops=float(vocab),
        vocab_bytes=vocab / 2 * dtype_bytes,
        attention_flops=float(layer["attention"]),
        kv_read_bytes=kv / caches,
        kv_write_bytes=float(kv),
        early_layers=float(cut),
        late_layers=float(late_layers),
        curve_tokens=np.array(machine.tokens, dtype=float),
        curve_flops=np.array(machine.flops, dtype=float),
        attention_rate=machine.attention or machine.flops[-1],
        bandwidth=machine.bandwidth,
        write_bandwidth=machine.write_bandwidth,
        overhead_s=machine.overhead_s,
    )


def weight_bytes(shape: Mapping, cut: int, group: int, dtype_bytes: int = BFLOAT16_BYTES) -> float:
    """Bytes of the model's matrices in memory, the input embedding included."""
    layer, caches = layer_flops(shape), kv_caches(shape, cut, group)
    body = (layer["qo"] + layer["mlp"]) // 2 * shape["num_hidden_layers"] + layer["kv"] // 2 * caches
    tables = 1 if shape.get("tie_word_embeddings") else 2  # the embedding, and the head if it has weights of its own
    return dtype_bytes * (body + tables * shape["hidden_size"] * shape["vocab_size"])
