#!/usr/bin/env bash
# Create the environment in .venv from the exported lock; does nothing if it is up to date.
# usage: packaging/setup.sh [cpu|cuda]   (default: cuda where nvidia-smi finds a GPU, else cpu)
set -euo pipefail
cd "$(dirname "$0")/.."

flavour=${1:-}
if [ -z "$flavour" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then flavour=cuda; else flavour=cpu; fi
fi
case "$flavour" in
  cpu) python=3.11 ;;
  cuda) python=3.12 ;;
  *) echo "setup: unknown flavour '$flavour': allowed are cpu, cuda" >&2; exit 2 ;;
esac
lock=requirements/$flavour.lock
stamp=.venv/.lock-sha256
want="$flavour $(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1) $PWD"
if [ -x .venv/bin/swiftkv ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then exit 0; fi

echo "setup: creating .venv ($flavour) ..."
. packaging/package_sources.sh
rm -f "$stamp"
uv venv --quiet --allow-existing --python "$python" .venv
[ "$flavour" = cuda ] || find_cpu_torch
uv pip sync --quiet --compile-bytecode --python .venv/bin/python "$lock"
uv pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$want" >"$stamp"
echo "setup: done"
