"""What the machine was doing while something was timed: load, stolen time, clocks. What cannot be read is left out."""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from swiftkv import devices

PROC = Path("/proc")
STEAL = 7  # field of a line of /proc/stat, after user, nice, system, idle, iowait, irq, softirq (man 5 proc_stat)


def cpu_times(proc: Path = PROC) -> list[int]:
    """Ticks of all CPUs by kind, as the first line of /proc/stat has them, without those of guests, which are counted
    as user time; empty where there is no such file."""
    try:
        first = (proc / "stat").read_text().partition("\n")[0]
    except OSError:
        return []
    return [int(field) for field in first.split()[1:9]]


def stolen_percent(before: list[int], after: list[int]) -> float | None:
    """Share of the CPUs' time that the hypervisor gave to other machines, in percent; None where it is not counted."""
    total = sum(after) - sum(before)
    if len(before) <= STEAL or len(after) <= STEAL or total <= 0:
        return None
    return 100 * (after[STEAL] - before[STEAL]) / total


def cpu_mhz(proc: Path = PROC) -> float | None:
    """Mean clock of the CPUs as Linux gives it; None where it does not."""
    try:
        clocks = re.findall(r"^cpu MHz\s*: ([\d.]+)", (proc / "cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return sum(map(float, clocks)) / len(clocks) if clocks else None


def gpu_state() -> dict[str, float]:
    """`gpu_mhz` (of the multiprocessors) and `gpu_celsius` of the first GPU that this process may use; empty without
    pynvml, without a GPU, and where the driver does not tell."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        if not (names := devices.visible()):
            return {}
        by_index = names[0].isdigit()
        handle = (pynvml.nvmlDeviceGetHandleByIndex if by_index else pynvml.nvmlDeviceGetHandleByUUID)(
            int(names[0]) if by_index else names[0]
        )
        return {
            "gpu_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "gpu_celsius": pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        }
    except pynvml.NVMLError:
        return {}


def watched(measure: Callable[[], dict]) -> dict:
    """What `measure` returns, and beside it: `wall_s` that it took, everything round what it timed included;
    `load_1m`, the load average at its end; `stolen_percent` over it; `cpu_mhz`, `gpu_mhz` and `gpu_celsius` at its
    end, where they can be read."""
    start, before = time.monotonic(), cpu_times()
    row = measure()
    seen = {
        "wall_s": time.monotonic() - start,
        "load_1m": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "stolen_percent": stolen_percent(before, cpu_times()),
        "cpu_mhz": cpu_mhz(),
        **gpu_state(),
    }
    return row | {name: value for name, value in seen.items() if value is not None}


def noise(rows: Sequence[dict]) -> dict[str, float | None]:
    """What a summary says of the machine during `rows`: the highest load average, and the stolen time over all of them
    in percent; None where it was not recorded."""
    load = [row["load_1m"] for row in rows if "load_1m" in row]
    stolen = [(row["wall_s"], row["stolen_percent"]) for row in rows if "stolen_percent" in row]
    seconds = sum(wall for wall, _ in stolen)
    return {
        "load_1m": max(load, default=None),
        "stolen_percent": sum(wall * share for wall, share in stolen) / seconds if seconds else None,
    }
