#!/usr/bin/env bash
# The stages of a GPU machine without Snakemake, one command after the other, each with a time limit (docs/gpu.md).
# usage: benchmarks/h200.sh SCALE [STAGE...]     SCALE is that of config/SCALE.yaml: h200-short, h200, h100, ...
#   LIMIT_S=N   stop after about N seconds; run it again to go on: finished stages are skipped, others resume
#   JOBS=N      engines side by side in the stage correctness (a GPU takes 6)
#   RECIPE      options of benchmarks/distill_recipe.py (default: a Llama of 1.2 B parameters, rows of 1,024 tokens;
#               a tiny one in a rehearsal)
set -uo pipefail
cd "$(dirname "$0")/.."
scale=${1:?usage: benchmarks/h200.sh SCALE [STAGE...]}
shift
[ -f "config/$scale.yaml" ] || { echo "h200: config/$scale.yaml: no such file" >&2; exit 2; }
out=results/$scale
config=$out/config.yaml
models=$out/models
stages=("$@")
LIMIT_S=${LIMIT_S:-86400}
JOBS=${JOBS:-1}
case $scale in
  *-rehearsal) recipe="--shape 64 128 8 2 1 512 --rows 2 --length 64 --repeats 3" ;;
  *) recipe="--shape 2048 5632 24 16 8 32000 --rows 16 --length 1024" ;;
esac
RECIPE=${RECIPE:-$recipe}
mkdir -p "$out/logs"
open=0

# stage NAME LIMIT_S COMMAND...: a stage that fails is tried again by the next run.
stage() {
  local name=$1 limit=$2 left code began=$SECONDS
  shift 2
  if [ ${#stages[@]} -gt 0 ] && [[ " ${stages[*]} " != *" $name "* ]]; then return; fi
  if [ -e "$out/logs/$name.done" ]; then echo "h200: $name: finished before"; return; fi
  left=$((LIMIT_S - SECONDS))
  if [ "$left" -lt 5 ]; then echo "h200: $name: not begun, time is up"; open=1; return; fi
  timeout --kill-after=20 "$((left < limit ? left : limit))" "$@" >>"$out/logs/$name.log" 2>&1
  code=$?
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - began))" "$code" >>"$out/logs/stages.tsv"
  case $code in
    0) touch "$out/logs/$name.done"; echo "h200: $name: done in $((SECONDS - began)) s" ;;
    124 | 137) echo "h200: $name: time is up after $((SECONDS - began)) s; run it again to go on"; open=1 ;;
    *) echo "h200: $name: failed ($code): $(tail -n 1 "$out/logs/$name.log")"; open=1 ;;
  esac
}

arms=$(python3 -c 'import sys; from dataclasses import replace; from swiftkv.config import freeze, load_config
run = load_config(sys.argv[1])
freeze(replace(run, path=sys.argv[2]))
print(*run.accuracy_arms)' "config/$scale.yaml" "$config") || exit 2
SECONDS=0

stage correctness 600 \
  python3 benchmarks/plugin_cuda.py correctness --config "$config" --out "$out/plugin/correctness.json" --jobs "$JOBS"
stage throughput 3600 \
  swiftkv throughput --config "$config" --out "$out/throughput" --work "$out/work/throughput"
stage profile 600 \
  python3 benchmarks/decode_profile.py --config "$config" --out "$out/plugin/profile.json" \
  --models "$out/work/throughput/models"
# shellcheck disable=SC2086  # RECIPE holds several options
stage recipe 600 \
  python3 benchmarks/distill_recipe.py $RECIPE --out "$out/benchmarks/distill-recipe.json"

stage base 1500 \
  swiftkv fetch-base --config "$config" --out "$models/base" --work "$out/work/base"
stage distill 900 \
  swiftkv distill --config "$config" --base "$models/base" --out "$models" --work "$out/work/distill"
stage verify 900 \
  swiftkv verify --config "$config" --base "$models/base" --models "$models" --out "$out/verify/gates.json"
for arm in $arms; do
  case $arm in
    *-undistilled) stage "convert-$arm" 120 swiftkv convert --config "$config" --base "$models/base" \
      --variant "${arm%-undistilled}" --out "$models/$arm" ;;
  esac
  stage "accuracy-$arm" 600 \
    swiftkv accuracy --config "$config" --arm "$arm" --model "$models/$arm" --out "$out/accuracy/$arm" \
    --work "$out/work/accuracy/$arm"
done
stage accuracy-summary 120 \
  swiftkv accuracy-summary --config "$config" --arms "$out/accuracy" --out "$out/accuracy/summary.csv"
stage similarity 300 \
  swiftkv similarity --config "$config" --base "$models/base" --out "$out/similarity/similarity.csv"
stage diagnose 900 \
  swiftkv diagnose --config "$config" --base "$models/base" --models "$models" --out "$out/diagnosis"
stage lengths 300 \
  swiftkv lengths --config "$config" --base "$models/base" --out "$out/lengths"

stage claims 120 swiftkv claims --config "$config" --out "$out"
stage figures 300 swiftkv figures --partial --config "$config" --out "$out/figures"
stage tables 120 swiftkv tables --partial --config "$config" --out "$out/tables"

# What goes home: everything but weights, token streams and tokenizers. Stages that were finished elsewhere count as such
# only where they do not depend on weights, which stay here.
mkdir -p "$out/pack"
rm -f "$out"/pack/*
{
  find "$out" -type f ! -path "$out/pack/*" ! -name '*.safetensors' ! -name '*.done' ! -path '*/work/base/*' \
    ! -path '*/work/distill/*'
  for name in correctness throughput profile recipe; do
    [ ! -e "$out/logs/$name.done" ] || echo "$out/logs/$name.done"
  done
} | sort | tar -c -T - | xz -6 | split -b 15M -d -a 2 - "$out/pack/results.tar.xz."
(cd "$out/pack" && du -k --apparent-size results.tar.xz.*) | sed 's/^/h200: pack, KiB: /'
exit "$open"
