"""What a run needs and whether this machine has it, before anything is loaded (`swiftkv preflight`): access to the
repositories, disk, memory, GPUs, driver; then hours and cost.

Hours are those of the distillation's plan, and of other stages where a run of the scale has recorded them.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch

from swiftkv import devices
from swiftkv.config import UNDISTILLED, RunConfig
from swiftkv.errors import UserError
from swiftkv.files import REFERENCE
from swiftkv.planning import distillation, memory_plan, roofline
from swiftkv.planning.access import NO, UNKNOWN, YES, Finding, access, fits
from swiftkv.planning.distillation import GIB, DistillationPlan
from swiftkv.workloads.downloads import mirror_of

STATE_BYTES = 12  # of a trained number in a checkpoint: itself and AdamW's two moments, in float32
OTHER_DISK = 0.5 * GIB  # logs, rows, figures
OLDEST_DRIVER = {"12": 525, "13": 580}  # of NVIDIA, for a major version of CUDA


# Disk, memory, GPUs


def disk(config: RunConfig, shape: Mapping, planned: DistillationPlan | None) -> list[Finding]:
    """Of each stage that writes much; models that are there already need nothing."""
    weights = memory_plan.own_format(shape)
    arms = [arm for arm in config.accuracy_arms[1:] if not config.model_dir(arm).is_dir()]
    students, controls = ([a for a in arms if a.endswith(UNDISTILLED) is which] for which in (False, True))
    loads = config.base.source != "embedded" and not (config.results / "models" / "base").is_dir()
    states = 2 * STATE_BYTES * sum(s.parameters for s in planned.students) if planned and students else 0
    parts = {
        "base": weights if loads else 0,
        f"distill ({len(students)} students, their checkpoints)": len(students) * weights + states,
        f"convert ({len(controls)} controls)": len(controls) * weights,
        "all others": OTHER_DISK,
    }
    place = config.results.absolute()
    place = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free, total = shutil.disk_usage(place).free, sum(parts.values())
    stages = ", ".join(f"{name} {size / GIB:.3g}" for name, size in parts.items() if size)
    return [Finding("disk", f"{said(total)}: {stages}", f"{said(free)} free", fits(total <= free))]


def memory(config: RunConfig, shape: Mapping, gpu_memory_gib: float | None) -> Finding:
    """Main memory: what a run of this scale has taken, else the models that the CPU holds."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    taken = {stage: row["max_rss"] * 2**20 for stage, row, _ in recorded(config.scale)} if not gpu_memory_gib else {}
    if taken:
        stage = max(taken, key=taken.get)
        needed = f"{said(taken[stage])} ({stage}, as recorded)"
        return Finding("memory", needed, said(here), fits(taken[stage] < here))
    count = roofline.weight_bytes(shape, shape["num_hidden_layers"], 1, 1)
    # A GPU that has no room for the gates' reference leaves it to the CPU; without one every model is there.
    need = memory_plan.HOST_GIB * GIB
    reference = memory_plan.verify_reference(shape)
    if not gpu_memory_gib:
        need += max(reference, memory_plan.PASS * memory_plan.FLOAT32 * count)
    elif reference > (1 - devices.KEPT_FREE) * gpu_memory_gib * GIB:
        need += memory_plan.FLOAT64 * count
    return Finding("memory", said(need), said(here), fits(need < here))


def said(size: float) -> str:
    return f"{size / GIB:.3g} GiB"


def gpus(config: RunConfig, shape: Mapping, gib: float | None, count: int) -> list[Finding]:
    """Of every stage of the memory plan on GPUs of `gib`; a run without any needs none."""
    if not gib:
        return [Finding("GPU", "none, the CPU does all", "none", YES)]
    budget = (1 - devices.KEPT_FREE) * gib * GIB
    return [
        Finding(
            f"GPU memory, {need.stage}",
            f"{need.gpus} x {said(need.each)}: {need.what}",
            f"{count} x {gib:.4g} GiB, {devices.KEPT_FREE:.0%} kept free",
            fits(need.each <= budget and need.gpus <= count),
        )
        for need in memory_plan.needs(config, shape, gib)
    ]


def driver() -> list[Finding]:
    """NVIDIA's driver and PyTorch's build, where there is a GPU."""
    if not devices.visible():
        return []
    build = torch.version.cuda
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    version = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False).stdout.split()
    if build is None:
        return [Finding("driver", "a CUDA build of PyTorch (FLAVOUR=cuda)", "a CPU build", NO)]
    oldest, major = OLDEST_DRIVER.get(build.partition(".")[0]), re.match(r"\d+", version[0] if version else "")
    if not oldest or not major:
        return [Finding("driver", f"one for CUDA {build}", version[0] if version else "no answer", UNKNOWN)]
    return [Finding("driver", f"{oldest} or later for CUDA {build}", version[0], fits(int(major[0]) >= oldest))]


# Time and cost


def recorded(scale: str) -> list[tuple[str, pd.Series, Path]]:
    """Job, row of its benchmark and the run's directory, of this machine's run of `scale`, else of a published one."""
    places = [Path("results") / scale, *sorted(REFERENCE.glob(f"*/{scale}"))]
    for place in places:
        if tables := sorted(place.glob("benchmarks/*.tsv")):
            return [(path.stem, pd.read_csv(path, sep="\t").iloc[-1], place) for path in tables]
    return []


def hours(config: RunConfig, planned: DistillationPlan | None, gpu: bool = True) -> tuple[dict[str, float], list[str]]:
    """Hours of stages by name, and in words where they are from and what is not known. A CPU's peak, which a plan
    measures, is no better known than what a run has taken; GPUs differ, and theirs is."""
    rows, found = recorded(config.scale), Counter()
    if not gpu and any(job.startswith("distill") for job, *_ in rows):
        planned = None
    for job, row, _ in rows:
        stage = job.partition("-")[0]  # the arms of a stage are jobs of their own
        if stage != "distill" or planned is None:
            found[stage] += float(row["s"]) / 3600
    words = [f"{', '.join(found)}: as recorded in {os.path.relpath(rows[0][2])}, jobs added up"] if found else []
    if planned is not None:
        found["distill"] = planned.hours(planned.run_flops)
        words.append(f"distill: {planned.utilisation:.0%} of {planned.tflops:.4g} TFLOP/s a process")
    if not rows:
        others = "every stage but distill" if found else "every stage"
        words.append(f"not known: {others}; no run of scale {config.scale} has been recorded")
    return found, words


def duration(hours: float) -> str:
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def report(findings: Iterable[Finding], found: Mapping[str, float], words: list[str]) -> list[str]:
    """The lines that are printed."""
    lines = [f"{one.enough:<9}  {one.what}: needs {one.needed}; here: {one.here}" for one in findings]
    stages = ", ".join(f"{stage} {duration(value)}" for stage, value in found.items())
    time = f"{duration(sum(found.values()))} ({stages})" if found else "not known"
    return [*lines, f"time: {time}", *(f"  {line}" for line in words)]


def run(
    config: RunConfig,
    base_dir: Path | None,
    gpu_memory_gib: float | None = None,
    gpu_count: int | None = None,
    tflops: float | None = None,
    price: float | None = None,
    mirror: Path | None = None,
) -> bool:
    """Print what the run needs, and return whether nothing is missing, as far as can be known.

    What is not given of the GPUs is this machine's; `price` is US dollars per hour of a GPU, or of the machine where
    there is none. Raises UserError for a cut that does not fit the model.
    """
    here = devices.memory_gib() if devices.visible() else {}
    gib = gpu_memory_gib or min(here.values(), default=None)
    count = gpu_count or len(here) or 1
    shape, source = distillation.shape_of(config, base_dir)
    try:
        planned, *_ = distillation.here(
            config, base_dir, config.fsdp_world_size, gib, tflops, config.parallel.micro_batch_tokens,
            config.parallel.recompute, 1.0,
        )  # fmt: skip
    except UserError as error:
        if not str(error).startswith("plan: nothing is trained"):
            raise
        planned = None
    findings = [
        *access(config, mirror_of(mirror)),
        *disk(config, shape, planned),
        memory(config, shape, gib),
        *gpus(config, shape, gib, count),
        *(driver() if gpu_memory_gib is None else []),
    ]
    found, words = hours(config, planned, bool(gib))
    used = max(config.fsdp_world_size, config.tensor_parallel_size)
    total = sum(found.values()) * used
    lines = report(findings, found, words)
    if price is not None:
        least = "at least " if any(word.startswith("not known") for word in words) else ""
        used_hours = f"{total:.2g} hours of a GPU or machine at {price:g}"
        lines.append(f"cost: {least}{total * price:,.2f} US dollars, {used_hours}")
    print(f"preflight: {config.path} (scale {config.scale}), shape from {source}")
    print("\n".join(lines), flush=True)
    missing = [one.what for one in findings if one.enough == NO]
    print(f"preflight: missing are {', '.join(missing)}" if missing else "preflight: nothing is missing")
    return not missing
