"""Installing this project elsewhere: commands without its environment around them, and a copy of the tree."""

import os
import shutil
import subprocess
from pathlib import Path

from swiftkv.config import ROOT


def outside(**changes: str) -> dict[str, str]:
    """The environment variables of a process that is to find nothing of this project's environment."""
    env = os.environ | changes
    for name in ("PIP_NO_DEPS", "PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    return env


def run(*command, cwd: Path, **changes: str) -> str:
    """The output of a command without this project's environment around it."""
    done = subprocess.run(command, cwd=cwd, env=outside(**changes), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def copy_tree(place: Path) -> Path:
    """Copy what git knows or would add, without what it ignores, into the new directory `place`."""
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(os.path.isfile, (ROOT / name for name in files)):
        target = place / name.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    return place
