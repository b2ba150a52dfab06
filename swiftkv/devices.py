"""GPUs for a command, and the memory allocator of all that compute.

Snakemake counts the GPU jobs that run at once but never says which device is whose; a scheduler that does says it in
CUDA_VISIBLE_DEVICES. So every command that computes on a GPU leases its devices here, out of those it was given, by
locks on files, which the operating system releases however the process ends. A command that times something holds a
device alone; commands that time nothing share it, as many as its memory holds. Standard library alone.
"""

import fcntl
import math
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

from swiftkv.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "SWIFTKV_LEASED"  # tells child processes that their parent's devices are theirs
LOCKS = Path("/tmp/swiftkv-devices")  # one place for all users and jobs, whatever their TMPDIR
POLL_S = 2.0
NAMED = r"\d+|(GPU|MIG)-[\w/-]+"  # a device by its index or (the beginning of) its UUID
UNITS = 100  # in which those who share a device's memory take it
KEPT_FREE = 0.1  # of a GPU's memory: driver, communication buffers, fragmentation
_held: list[int] = []  # open lock files; closing one ends its lease


def listed() -> list[tuple[str, str]]:
    """(name, UUID) of every device as nvidia-smi lists them: an index for a GPU, the UUID for each instance of a GPU
    that is split (MIG). Empty without nvidia-smi."""
    try:
        text = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    devices: list[tuple[str, str]] = []
    for index, uuid in re.findall(r"^\s*(?:GPU (\d+): .*|MIG .*)\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", text, re.MULTILINE):
        if not index and devices and devices[-1][0].isdigit():
            devices.pop()  # the GPU that this first instance is part of
        devices.append((index or uuid, uuid))
    return devices


def visible() -> list[str]:
    """The devices this process may use, by the names that CUDA_VISIBLE_DEVICES has or could have for them.

    As for CUDA, an entry that names no device hides itself and all that follow: -1, nothing, or what Slurm writes where
    a job has no GPU, NoDevFiles.
    """
    given = os.environ.get(VISIBLE)
    if given is None:
        return [name for name, _ in listed()]
    names = [name.strip() for name in given.split(",")]
    end = next((place for place, name in enumerate(names) if not re.fullmatch(NAMED, name)), len(names))
    return names[:end]


def identity(name: str, devices: list[tuple[str, str]]) -> str:
    """One name per device, whether it is given by index, by UUID or by the beginning of a UUID: the UUID if known."""
    fits = [uuid for index, uuid in devices if name == index or (not name.isdigit() and uuid.startswith(name))]
    return fits[0] if len(fits) == 1 else name


def memory_gib() -> dict[str, float]:
    """Memory of each whole GPU by UUID. Empty without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {uuid: int(mib) / 1024 for uuid, mib in re.findall(r"^(GPU-[\w-]+), (\d+)$", text, re.MULTILINE)}


def lock(name: str, shared: bool = False) -> int | None:
    """An open lock file, or None if another process holds it in a way that excludes this one."""
    try:
        LOCKS.mkdir()
    except FileExistsError:
        pass
    else:
        LOCKS.chmod(0o777)  # for other users, whatever the umask
    file = os.open(LOCKS / f"{name.replace('/', '-')}.lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    os.set_inheritable(file, True)  # a command that replaces itself (torchrun) keeps its lease
    return file


def release(files: list[int]) -> None:
    """Close lock files."""
    for file in files:
        os.close(file)


def hold(device: str, units: int | None) -> list[int]:
    """Locks on a device, alone (`units` None) or with that many units of its memory; none if it is not free. Who would
    share it stands back where somebody waits for the whole of it."""
    if units is None:
        return [] if (whole := lock(device)) is None else [whole]
    if (turn := lock(f"{device}.turn", shared=True)) is None:
        return []
    os.close(turn)
    if (part := lock(device, shared=True)) is None:
        return []
    held = [part]
    for number in range(UNITS):
        if len(held) <= units and (unit := lock(f"{device}.unit{number}")) is not None:
            held.append(unit)
    if len(held) <= units:
        release(held)
        return []
    return held


def take(names: list[str], count: int, gib: float | None = None) -> dict[str, list[int]]:
    """Locks of the first `count` free devices by name, alone, or with `gib` of each one's memory; none if fewer are
    free."""
    devices, sizes, held = listed(), memory_gib() if gib else {}, {}
    for name in names:
        device = identity(name, devices)
        size = (1 - KEPT_FREE) * sizes.get(device, 0.0)  # of a part of a GPU the size is not known: it is taken whole
        units = None if not size or gib > size else math.ceil(gib / size * UNITS)
        if len(held) < count and (files := hold(device, units)):
            held[name] = files
    if len(held) < count:
        release([file for files in held.values() for file in files])
        return {}
    return held


def lease(count: int = 1, gib: float | None = None) -> list[str]:
    """Wait for `count` free devices, set CUDA_VISIBLE_DEVICES to them, and hold them until this process ends: alone,
    or, if `gib` is given, with that much of each one's memory, beside others that share it.

    Nothing happens without a GPU, or in a child of a process that holds a lease. Raises UserError if fewer than
    `count` devices are visible.
    """
    names = visible()
    if not names or LEASED in os.environ:
        return []
    if count > len(names):
        raise UserError(f"{count} GPUs are needed, {len(names)} visible ({VISIBLE} or nvidia-smi: {', '.join(names)})")
    if not (held := take(names, count, gib)):
        part = f", {gib:.3g} GiB each," if gib else ""
        print(f"waiting for {count} of GPUs {', '.join(names)}{part}", flush=True)
    turns: list[int] = []
    ids = [identity(name, devices) for devices in ([] if held else [listed()]) for name in names]
    while not held:
        for device in ids if gib is None else ():  # nobody new shares the devices that this command waits for
            if len(turns) < count and (turn := lock(f"{device}.turn")) is not None:
                turns.append(turn)
        time.sleep(POLL_S * random.uniform(0.5, 1))  # jitter: commands that need several must not wait in step
        held = take(names, count, gib)
    release(turns)
    _held.extend(file for files in held.values() for file in files)
    os.environ[VISIBLE] = os.environ[LEASED] = ",".join(held)
    return list(held)


def fast_bfloat16(device) -> bool:
    """Whether bfloat16 matrix products beat float32 on a torch.device: on GPUs, and on CPUs with AVX-512."""
    import torch

    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


TUNABLES = "GLIBC_TUNABLES"
# glibc gives large blocks back to the system as soon as they are free and faults them in again, page by page; with
# these it keeps them, in large pages where the system grants some (docs/results/distillation.md has what that gains).
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"hugetlb": 1, "mmap_threshold": 2**34, "trim_threshold": 2**34, "mmap_max": 0}.items()
)


def allocator() -> str:
    """What decides how this process gets memory, for records: libraries that replace malloc, and glibc's tunables."""
    named = {name: os.environ.get(name) for name in ("LD_PRELOAD", TUNABLES)}
    return ", ".join(f"{name}={value}" for name, value in named.items() if value) or "the system's"


def keep_memory() -> None:
    """Start this command again with KEEP_MEMORY, which glibc reads when a process starts; its children inherit it.

    Nothing happens where the variable is set, be it to nothing, where malloc is another library's, or where this
    process is not the command `swiftkv` but something that calls it.
    """
    program = [os.path.basename(word) for word in sys.orig_argv[1:4]]
    if TUNABLES in os.environ or os.environ.get("LD_PRELOAD") or not {"swiftkv", "swiftkv.cli"} & {*program}:
        return
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return
    if library.startswith("glibc"):
        os.environ[TUNABLES] = KEEP_MEMORY
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
