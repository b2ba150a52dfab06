"""Write environment.yml from pyproject.toml and the CPU lock (`make lock`)."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Generated from pyproject.toml and requirements/cpu.lock by `make lock`; do not edit.
#   conda env create --file environment.yml
# No hashes: pip would then ask for one of torch, which differs between builds, and of the project itself.
"""


def pip_section() -> list[str]:
    """What pip is given: the page with torch's CPU builds, the lock's versions, a placeholder for every package that
    pyproject.toml overrides away (pip knows no overrides), and the project."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    lock = (ROOT / "requirements" / "cpu.lock").read_text()
    return [
        f"--find-links {tool['swiftkv']['torch-links']}",
        *(pin.rstrip("\\ ") for pin in re.findall(r"^[a-z0-9].*$", lock, re.MULTILINE)),
        *(f"./requirements/absent/{line.split(';')[0].strip()}" for line in tool["uv"]["override-dependencies"]),
        "--editable .",
    ]


def render() -> str:
    """The text of environment.yml."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    lines = [
        f"name: {name}",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
        "  - pip:",
        *(f"      - {line}" for line in pip_section()),
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(render())
    sys.exit(0)
