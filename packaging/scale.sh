#!/usr/bin/env bash
# Say which configuration `make reproduce` runs: its path on standard output, why on standard error.
# usage: packaging/scale.sh [SCALE [FLAVOUR]]   (default: gpu where nvidia-smi finds a GPU of 24 GB, else cpu)
set -euo pipefail
cd "$(dirname "$0")/.."

scale=${1:-}
flavour=${2:-}
needed=22000  # MiB; what a GPU of 24 GB says that it has
if [ -n "$scale" ]; then
  why="as asked"
elif [ "$flavour" = cpu ]; then
  scale=cpu why="FLAVOUR=cpu"
else
  sizes=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null || true)
  least=$(sort -n <<<"$sizes" | sed -n 1p)
  if ! [[ $least =~ ^[0-9]+$ ]]; then
    scale=cpu why="nvidia-smi finds no GPU"
  elif [ "$least" -lt "$needed" ]; then
    scale=cpu why="the smallest GPU has $least MiB, and scale gpu needs 24 GB"
  else
    scale=gpu why="nvidia-smi finds a GPU of $least MiB"
  fi
fi
file=config/$scale.yaml
[ "$scale" != cpu ] || file=config/config.yaml
if ! [ -f "$file" ]; then
  echo "make reproduce: no $file; SCALE is cpu or the name of a file there" >&2
  exit 2
fi
echo "make reproduce: scale $scale ($file): $why; SCALE=NAME takes another" >&2
echo "$file"
