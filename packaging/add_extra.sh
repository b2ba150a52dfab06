#!/usr/bin/env bash
# Add the packages of an optional extra of pyproject.toml to .venv; what the lock has installed stays as it is.
# usage: packaging/add_extra.sh EXTRA
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/package_sources.sh
.venv/bin/python - "$1" <<'PYTHON' | uv pip install --quiet --python .venv/bin/python --requirement -
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]]))
PYTHON
