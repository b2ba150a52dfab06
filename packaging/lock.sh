#!/usr/bin/env bash
# Resolve the pins of pyproject.toml into requirements/{cpu,cuda}.lock and environment.yml, and the bundle's into
# requirements/h200/bundle.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/package_sources.sh

export_lock() { # flavour python-version [more uv options]
  uv pip compile --quiet pyproject.toml --extra "$1" --extra suite --extra dev --python-version "$2" --generate-hashes --no-header \
    --no-emit-index-url --no-emit-find-links --output-file "requirements/$1.lock" "${@:3}"
}
find_cpu_torch
export_lock cpu 3.11
UV_FIND_LINKS= export_lock cuda 3.12
# torch's CPU builds come from different places (PyTorch's index, a mirror) with a wheel per Python: pin the version only.
python3 - <<'PYTHON'
import re
from pathlib import Path

lock = Path("requirements/cpu.lock")
lock.write_text(re.sub(r"(?m)^(torch==\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", r"\1\n", lock.read_text()))
PYTHON
python3 packaging/export_environment.py

# What the machine of the h200 bundle lacks.
present=$(sed -n 's|^\([a-z0-9][a-z0-9-]*\).*|--no-emit-package \1|p' requirements/h200/target.txt)
UV_FIND_LINKS= uv pip compile --quiet requirements/h200/wanted.txt --constraint requirements/h200/target.txt \
  --override requirements/h200/overrides.txt --python-version 3.12 --python-platform x86_64-manylinux_2_31 \
  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links $present \
  --output-file requirements/h200/bundle.lock
