"""Processes of a command: they end with it, and where there is no room for what they share, one line says so."""

import shutil
import subprocess
import sys
import time

import psutil
import pytest

from swiftkv.config import ROOT
from tests.helpers.faults import can_mount

BUSY = """
import sys, time
from swiftkv.engines.processes import in_new_process
in_new_process(exec, "import os, time; print('at work', flush=True); time.sleep(600)")
"""
SHARING = """
import resource, signal, sys
from swiftkv import cli
from swiftkv.engines.processes import in_new_process
if sys.argv[1] == "limited":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
cli.end_in_one_line(lambda: in_new_process(abs, -1))
"""
# A file system of its own, which nobody else sees, with no room left.
FULL = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 1M /dev/zero > /dev/shm/all 2>/dev/null; exec "$@"'


def test_a_process_ends_when_its_command_is_killed():
    with subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout.readline() == "at work\n"
        started = psutil.Process(command.pid).children(recursive=True)
        command.kill()
        command.wait()
        _, left = psutil.wait_procs(started, timeout=20)
        for process in left:
            process.kill()
    assert started and not left


@pytest.mark.parametrize(("way", "reason"), [("limited", "File too large"), ("mounted", "No space left on device")])
def test_full_shared_memory_is_named(way, reason, tmp_path):
    line = [sys.executable, "-c", SHARING, way]
    if way == "mounted":
        if not (can_mount(tmp_path) and shutil.which("unshare")):
            pytest.skip("no file system can be mounted here")
        line = ["unshare", "--mount", "bash", "-c", FULL, "-", *line]
    begin = time.monotonic()
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2 and time.monotonic() - begin < 60
    (said,) = ended.stderr.splitlines()
    assert said.startswith(f"swiftkv: error: /dev/shm: {reason}; ")
