"""Write environment.yml from pyproject.toml, the one place of the pins (`make lock`)."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Generated from pyproject.toml by `make lock`; do not edit.
# vLLM's metadata asks for packages that break it beside a CPU torch, so let pip take the lock as it stands:
#   PIP_NO_DEPS=1 conda env create --file environment.yml
"""


def render() -> str:
    """The text of environment.yml: Python and the exported CPU lock, whose pins pyproject.toml decides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [
        *project["dependencies"],
        *project["optional-dependencies"]["cpu"],
        *project["optional-dependencies"]["dev"],
    ]
    lines = [
        "name: swiftkv",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
    ]
    lines += ["  - pip:", "      - --requirement requirements/cpu.lock", "      - --editable ."]
    return HEAD + "# Pinned: " + ", ".join(pin for pin in pins if "==" in pin) + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(render())
    sys.exit(0)
