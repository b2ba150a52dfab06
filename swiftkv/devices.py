"""GPUs for a command: `lease` takes free ones of this machine until the process ends.

Snakemake counts the GPU jobs that run at once but never says which device is whose; a scheduler that does says it in
CUDA_VISIBLE_DEVICES. So every command that computes on a GPU leases its devices here, out of those it was given: a lock
file per device, which the operating system releases however the process ends. Standard library alone.
"""

import fcntl
import os
import random
import re
import subprocess
import time
from pathlib import Path

from swiftkv.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "SWIFTKV_LEASED"  # tells child processes that their parent's devices are theirs
LOCKS = Path("/tmp/swiftkv-devices")  # one place for all users and jobs, whatever their TMPDIR
POLL_S = 2.0
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

    As for CUDA, an entry of -1 hides itself and all that follow, and an empty variable hides every device.
    """
    given = os.environ.get(VISIBLE)
    if given is None:
        return [name for name, _ in listed()]
    names = [name.strip() for name in given.split(",")]
    end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:end]


def identity(name: str, devices: list[tuple[str, str]]) -> str:
    """One name per device, whether it is given by index, by UUID or by the beginning of a UUID: the UUID if known."""
    fits = [uuid for index, uuid in devices if name == index or (not name.isdigit() and uuid.startswith(name))]
    return fits[0] if len(fits) == 1 else name


def lock(device: str) -> int | None:
    """The open lock file of a device, or None if another process holds it."""
    try:
        LOCKS.mkdir()
    except FileExistsError:
        pass
    else:
        LOCKS.chmod(0o777)  # for other users, whatever the umask
    file = os.open(LOCKS / f"{device.replace('/', '-')}.lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    os.set_inheritable(file, True)  # a command that replaces itself (torchrun) keeps its lease
    return file


def take(names: list[str], count: int) -> dict[str, int]:
    """Locks of the first `count` free devices by name; none if fewer are free."""
    devices, locks = listed(), {}
    for name in names:
        if len(locks) < count and (file := lock(identity(name, devices))) is not None:
            locks[name] = file
    if len(locks) < count:
        for file in locks.values():
            os.close(file)
        return {}
    return locks


def lease(count: int = 1) -> list[str]:
    """Wait for `count` free devices, set CUDA_VISIBLE_DEVICES to them, and hold them until this process ends.

    Nothing happens without a GPU, or in a child of a process that holds a lease. Raises UserError if fewer than
    `count` devices are visible.
    """
    names = visible()
    if not names or LEASED in os.environ:
        return []
    if count > len(names):
        raise UserError(f"{count} GPUs are needed, {len(names)} visible ({VISIBLE} or nvidia-smi: {', '.join(names)})")
    if not (locks := take(names, count)):
        print(f"waiting for {count} of GPUs {', '.join(names)}", flush=True)
    while not locks:
        time.sleep(POLL_S * random.uniform(0.5, 1))  # jitter: commands that need several must not wait in step
        locks = take(names, count)
    _held.extend(locks.values())
    os.environ[VISIBLE] = os.environ[LEASED] = ",".join(locks)
    return list(locks)


def fast_bfloat16(device) -> bool:
    """Whether bfloat16 matrix products beat float32 on a torch.device: on GPUs, and on CPUs with AVX-512."""
    import torch

    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
