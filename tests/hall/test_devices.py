"""Leases of GPUs, on a machine that only claims to have some: a stand-in for nvidia-smi, and real processes."""

import os
import re
import select
import subprocess
import sys

import pytest

from swiftkv import devices
from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance

TWO = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)\n"
SPLIT = (
    "GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)\n  MIG 3g.20gb     Device  0: (UUID: MIG-c0-1)\n"
    "  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-aaaa-1/2/0)\nGPU 1: NVIDIA A100 (UUID: GPU-bbbb-2)\n"
)
HOLD = "from swiftkv import devices; print(','.join(devices.lease({count}, {gib})), flush=True); input()"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes nvidia-smi list the given devices; locks lie in a directory of their own."""
    for name in (devices.VISIBLE, devices.LEASED):
        monkeypatch.setenv(name, "")  # so that what `lease` sets ends with the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(devices, "LOCKS", tmp_path / "locks")

    def make(listing: str, gib: int = 80):
        (tmp_path / "list").write_text(listing)
        uuids = re.findall(r"UUID: (GPU-\w+-\d)\)", listing)
        (tmp_path / "memory").write_text("".join(f"{uuid}, {1024 * gib}\n" for uuid in uuids))
        script = f'#!/bin/sh\n[ "$1" = -L ] && cat {tmp_path}/list || cat {tmp_path}/memory\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return make


@pytest.fixture
def start(tmp_path):
    """Start a process that leases devices and holds them until a line comes in; all end with the test."""
    started = []

    def run(count: int = 1, gib: float | None = None, **variables: str) -> subprocess.Popen:
        code = (
            f"from swiftkv import devices; from pathlib import Path; devices.LOCKS = Path({str(tmp_path / 'locks')!r})"
        )
        command = [sys.executable, "-c", f"{code}; devices.POLL_S = 0.1; {HOLD.format(count=count, gib=gib)}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def leased(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_processes_get_devices_of_their_own_and_wait_for_a_free_one(machine, start):
    machine(TWO)
    first, second = start(), start()
    assert {leased(first), leased(second)} == {"0", "1"}
    third = start()
    first.kill()  # however the holder ends
    assert leased(third) in {"0", "1"} and third.poll() is None


def test_index_and_uuid_are_one_device(machine, start):
    machine(TWO)
    first = start(CUDA_VISIBLE_DEVICES="GPU-aaaa")  # CUDA takes the beginning of a UUID
    assert leased(first) == "GPU-aaaa"
    second = start(CUDA_VISIBLE_DEVICES="0,1")
    assert leased(second) == "1"


def test_several_devices_at_once_and_children_share_them(machine, monkeypatch):
    machine(TWO)
    monkeypatch.setenv(devices.VISIBLE, "1,0")
    assert devices.lease(2) == ["1", "0"] and os.environ[devices.VISIBLE] == "1,0"
    assert devices.lease(2) == []  # as in a child, which inherits the environment
    for file in devices._held:
        os.close(file)
    devices._held.clear()


def test_lease_survives_that_the_command_replaces_itself(machine, tmp_path, start):
    machine(TWO)
    lock = f"from pathlib import Path; from swiftkv import devices; devices.LOCKS = Path({str(tmp_path / 'locks')!r})"
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'print(0, flush=True); input()'])"
    command = [sys.executable, "-c", f"{lock}; devices.lease(2); {again}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as replaced:
        assert replaced.stdout.readline() == "0\n"
        assert devices.take(["0", "1"], 1) == {}
        replaced.kill()


def waits(process: subprocess.Popen) -> bool:
    """Whether a process says within a second that it waits, and nothing else."""
    said = []
    while select.select([process.stdout], [], [], 1.0)[0]:
        said.append(process.stdout.readline())
    return len(said) <= 1 and all(line.startswith("waiting for") for line in said) and process.poll() is None


ONE = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\n"


def test_commands_that_time_nothing_share_a_device_as_its_memory_holds(machine, start):
    """80 GiB, a tenth of it kept free: twice 30 GiB and 10 GiB fit, 30 GiB more do not, until a holder dies."""
    machine(ONE)
    first, second, small = start(gib=30), start(gib=30), start(gib=10)
    assert [leased(process) for process in (first, second, small)] == ["0"] * 3
    third = start(gib=30)
    assert waits(third)
    second.kill()
    assert leased(third) == "0" and first.poll() is None


def test_a_command_that_times_something_is_alone_and_comes_before_those_that_ask_later(machine, start):
    machine(ONE)
    sharing = start(gib=10)
    assert leased(sharing) == "0"
    alone = start()
    assert waits(alone)
    later = start(gib=10)
    assert waits(later)
    sharing.kill()
    assert leased(alone) == "0"
    assert not select.select([later.stdout], [], [], 0.5)[0]
    alone.kill()
    assert leased(later) == "0"


@pytest.mark.parametrize("gib", [73.0, 500.0])
def test_more_memory_than_a_device_can_give_takes_it_whole(machine, gib):
    machine(ONE)
    held = devices.take(["0"], 1, gib)
    assert len(held["0"]) == 1 and devices.take(["0"], 1, 1.0) == {}
    devices.release(held["0"])


def test_an_instance_of_a_split_gpu_is_taken_whole(machine):
    """nvidia-smi tells the memory of whole GPUs alone."""
    machine(SPLIT)
    held = devices.take(["MIG-c0-1"], 1, 1.0)
    assert len(held["MIG-c0-1"]) == 1
    devices.release(held["MIG-c0-1"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),
        (" 1 , 0", ["1", "0"]),
        ("MIG-c0-1", ["MIG-c0-1"]),
        ("NoDevFiles", []),  # Slurm, in a job without a GPU
        ("1,NoDevFiles,0", ["1"]),
    ],
)
def test_what_was_inherited_is_respected(machine, monkeypatch, given, expected):
    machine(TWO)
    if given is not None:
        monkeypatch.setenv(devices.VISIBLE, given)
    assert devices.visible() == expected


def test_instances_stand_for_a_split_gpu(machine):
    machine(SPLIT)
    assert devices.visible() == ["MIG-c0-1", "MIG-GPU-aaaa-1/2/0", "1"]
    assert devices.take(devices.visible(), 3).keys() == set(devices.visible())


def test_machine_without_a_gpu_leases_nothing(monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.lease(4) == [] and devices.VISIBLE not in os.environ


def test_more_than_there_are_is_refused(machine):
    machine(TWO)
    with pytest.raises(UserError, match="3 GPUs are needed, 2 visible"):
        devices.lease(3)


# The allocator

SHOW = "import os; print(os.environ.get('GLIBC_TUNABLES'), os.getpid(), flush=True)"


def command(tmp_path, name: str, **variables: str) -> str:
    """The tunables that a script finds which begins as the command does."""
    script = tmp_path / name
    script.write_text(f"from swiftkv import devices; devices.keep_memory(); {SHOW}")
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    process = subprocess.Popen(
        [sys.executable, script],
        env=environment | variables | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    tunables, number = process.communicate()[0].split()
    assert number == str(process.pid)  # whoever started the command can stop it
    return tunables


def test_the_command_begins_again_with_an_allocator_that_keeps_memory(tmp_path):
    assert command(tmp_path, "swiftkv") == devices.KEEP_MEMORY


@pytest.mark.parametrize("variables", [{"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, {"LD_PRELOAD": "libc.so.6"}])
def test_what_the_user_chose_stays(tmp_path, variables):
    assert command(tmp_path, "swiftkv", **variables) == variables.get("GLIBC_TUNABLES", "None")


def test_a_program_that_uses_the_package_is_left_alone(tmp_path):
    assert command(tmp_path, "notebook") == "None"


def test_records_name_the_allocator(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert Provenance("test").record["allocator"] == "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert Provenance("test").record["allocator"] == "the system's"
