#!/usr/bin/env bash
# Create the environment in .venv from the exported lock; does nothing if it is up to date.
# usage: workflow/setup.sh [cpu|cuda]   (default: cuda where nvidia-smi finds a GPU, else cpu)
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

. workflow/package_sources.sh

echo "setup: creating .venv ($flavour) ..."
if ! command -v uv >/dev/null 2>&1; then
  [ -x .local/uv/bin/uv ] || { python3 -m venv .local/uv && .local/uv/bin/python -m pip install --quiet uv; }
  PATH="$PWD/.local/uv/bin:$PATH"
fi
rm -f "$stamp"
uv venv --quiet --allow-existing --python "$python" .venv
if ! uv pip sync --quiet --compile-bytecode --python .venv/bin/python "$lock" 2>.setup-error; then
  cat .setup-error >&2
  if [ "$flavour" = cpu ] && grep -qi "torch" .setup-error; then
    echo "setup: none of the configured package sources offers the CPU build of torch that requirements/cpu.lock asks for." >&2
    echo "setup: add PyTorch's own CPU index and try again:" >&2
    echo "setup:   UV_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make $(basename "${MAKE_GOAL:-reproduce}")" >&2
  fi
  rm -f .setup-error
  exit 1
fi
rm -f .setup-error
uv pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$want" >"$stamp"
echo "setup: done"
