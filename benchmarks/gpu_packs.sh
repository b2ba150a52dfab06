#!/usr/bin/env bash
# What a quarter of an hour of a GPU machine without network and without Snakemake holds, in packs (docs/gpu.md).
# usage: benchmarks/gpu_packs.sh PACK...      one after the other; packs that time nothing may also run beside others
#   gates     students of the embedded base, vLLM against Transformers, for every configuration of GATES
#   warm-up   compile the engines that `speed` needs
#   speed     throughput and latency of SPEED; while they are measured, `students` beside it stands still
#   students  the base of STUDENTS, its students distilled until second STUDENTS_BY, their trained tensors
#   carry-students=VARIANT,...   puts the tensors of these among what goes home (16 MB a file, 64 MB a call)
#   tasks     tasks and divergence of all these arms, side by side
# SPEED, GATES, STUDENTS   names of files in config/         HOME_DIR   gets what goes home, in files of at most 15.6 MiB
# A pack that ended well is skipped by the next call; logs and times are in results/packs.
set -uo pipefail
cd "$(dirname "$0")/.."
SPEED=${SPEED:-h200-pack} GATES=${GATES:-h200-pack h200-short} STUDENTS=${STUDENTS:-gpu}
FIRST_STEPS=${FIRST_STEPS:-40}       # of the first stage, from which the second one's speed is known
STUDENTS_BY=${STUDENTS_BY:-420}      # second of this script by which distillation should end
TASKS_S=${TASKS_S:-200}              # at most, for each arm
packs=results/packs
HOME_DIR=${HOME_DIR:-$packs/home}
models=results/$STUDENTS/models
timing=$packs/timing                 # is there while something is timed
export SWIFTKV_LEASED=${SWIFTKV_LEASED:-0}  # this script says what runs beside what
export PYTHONUNBUFFERED=1
mkdir -p "$packs/logs" "$HOME_DIR"
[ $# -gt 0 ] || { echo "usage: benchmarks/gpu_packs.sh PACK... (gates, warm-up, speed, students, tasks)" >&2; exit 2; }
for config in $SPEED $GATES $STUDENTS; do
  [ -f "config/$config.yaml" ] || { echo "gpu_packs: config/$config.yaml: no such file" >&2; exit 2; }
done

say() { echo "gpu_packs: [$SECONDS s] $*" | tee -a "$packs/logs/packs.log"; }
# note NAME COMMAND...: run a command with a log of its own; its time and exit code become a line of stages.tsv.
note() {
  local name=$1 began=$SECONDS code
  shift
  "$@" >>"$packs/logs/$name.log" 2>&1
  code=$?
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - began))" "$code" >>"$packs/logs/stages.tsv"
  [ $code = 0 ] || say "$name: failed ($code): $(tail -n 1 "$packs/logs/$name.log")"
  return $code
}
frozen() { # configuration: its settings in full, where its results go; prints the file
  mkdir -p "results/$1"
  python3 -c 'import sys; from dataclasses import replace; from swiftkv.config import freeze, load_config
freeze(replace(load_config(sys.argv[1]), path=sys.argv[2]))' "config/$1.yaml" "results/$1/config.yaml"
  echo "results/$1/config.yaml"
}
names() { # configuration, attribute: the names in it
  python3 -c 'import sys; from swiftkv.config import load_config
print(*(getattr(one, "name", one) for one in getattr(load_config(sys.argv[1]), sys.argv[2])))' "$1" "$2"
}
# all PID...: wait for these jobs; fails if one of them did.
all() {
  local job failed=0
  for job in "$@"; do wait "$job" || failed=1; done
  return $failed
}
# Parts of the archive NAME of these files, below HOME_DIR.
carry_home() {
  local name=$1
  shift
  rm -f "$HOME_DIR/$name".tar.*
  tar -c "$@" | split -b 15900K -d -a 1 - "$HOME_DIR/$name.tar."
}

gates() {
  local scale config variant jobs=() code
  for scale in $GATES; do
    (
      config=$(frozen "$scale")
      note "base-$scale" swiftkv fetch-base --config "$config" --out "results/$scale/models/base" || exit 1
      for variant in $(names "$config" variants); do
        note "convert-$scale-$variant" swiftkv convert --config "$config" --base "results/$scale/models/base" \
          --variant "$variant" --out "results/$scale/models/$variant" &
      done
      wait
      note "verify-$scale" swiftkv verify --config "$config" --base "results/$scale/models/base" \
        --models "results/$scale/models" --out "results/$scale/verify/gates.json"
    ) &
    jobs+=($!)
  done
  all "${jobs[@]}"
  code=$?
  # shellcheck disable=SC2046  # a list of files
  carry_home gates $(find results -path 'results/*/verify/*' -type f) "$packs/logs"
  return $code
}

warm_up() {
  local config arm jobs=()
  config=$(frozen "$SPEED")
  for arm in $(python3 -c 'import sys; from swiftkv.bench.plan import throughput_plan; from swiftkv.config import load_config
print(*(arm.name for arm in throughput_plan(load_config(sys.argv[1])).arms if not arm.runs_on))' "$config"); do
    note "warm-up-$arm" python3 benchmarks/plugin_cuda.py warm-up "$arm" --config "$config" \
      --models "results/$SPEED/work/throughput/models" &
    jobs+=($!)
  done
  all "${jobs[@]}"
}

speed() {
  local config log=$packs/logs/throughput.log job code
  config=$(frozen "$SPEED")
  : >"$log"
  note throughput swiftkv throughput --config "$config" --out "results/$SPEED/throughput" --work "results/$SPEED/work/throughput" &
  job=$!
  while kill -0 $job 2>/dev/null; do
    if [ ! -e "$timing" ] && grep -q 'engines are warm' "$log"; then touch "$timing"; say "speed: measuring"; fi
    sleep 0.1
  done
  wait $job
  code=$?
  rm -f "$timing"
  carry_home speed --exclude='*.safetensors' "results/$SPEED" "$packs/logs"
  return $code
}

# A configuration that trains so many steps, from the tensors in a directory if one is given.
with_steps() { # out steps [starts]
  python3 - "config/$STUDENTS.yaml" "$@" <<'PYTHON'
import sys
from dataclasses import replace
from pathlib import Path

import yaml

from swiftkv.config import freeze, load_config

parent, out, steps, *starts = sys.argv[1:]
variants = [dict(variant) for variant in load_config(parent).raw["variants"]]
for variant in variants:
    variant |= {"start": f"{starts[0]}/{variant['name']}"} if starts else {}
laid = {"extends": str(Path(parent).resolve()), "variants": variants, "distill": {"steps": int(steps)}}
Path(out).write_text(yaml.safe_dump(laid))
freeze(replace(load_config(out), path=out))
PYTHON
}
# Distil in a process group of its own, which stands still while something is timed.
distil() { # name config out [tokens of a micro-batch; as many as fit]
  local job still='' began=$SECONDS code
  setsid swiftkv distill --config "$2" --base "$models/base" --out "$3" --work "results/$STUDENTS/work/distill-$1" \
    ${4:+--micro-batch-tokens "$4"} ${DATA:+--data "$DATA"} >>"$packs/logs/distill-$1.log" 2>&1 &
  job=$!
  while kill -0 $job 2>/dev/null; do
    if [ -e "$timing" ] && [ -z "$still" ]; then
      kill -STOP -- -$job && still=yes && say "distill-$1: stands still"
    elif [ ! -e "$timing" ] && [ -n "$still" ]; then
      kill -CONT -- -$job && still='' && say "distill-$1: goes on"
    fi
    sleep 0.1
  done
  wait $job
  code=$?
  printf '%s\t%s\t%s\n' "distill-$1" "$((SECONDS - began))" "$code" >>"$packs/logs/stages.tsv"
  say "distill-$1: $code: $(tail -n 1 "$packs/logs/distill-$1.log")"
  return $code
}
exports() { # config models out
  local variant jobs=()
  for variant in $(names "$1" variants); do
    note "export-$variant" swiftkv export --config "$1" --variant "$variant" --model "$2/$variant" --trained-only \
      --out "$3/$variant" &
    jobs+=($!)
  done
  all "${jobs[@]}"
}
students() {
  local first=results/$STUDENTS/first.yaml config=results/$STUDENTS/config.yaml rate steps
  mkdir -p "results/$STUDENTS"
  [ -f "$models/base/config.json" ] ||
    note base swiftkv fetch-base --config "config/$STUDENTS.yaml" --out "$models/base" || return 1
  say "students: base is there"
  with_steps "$first" "$FIRST_STEPS"
  # Engines may start beside it, and what they will take of the GPU's memory is not known here.
  distil first "$first" "results/$STUDENTS/first" 4096 || return 1
  exports "$first" "results/$STUDENTS/first" "results/$STUDENTS/starts" || return 1
  rate=$(grep -o '[0-9]* tok/s' "$packs/logs/distill-first.log" | sort -n | tail -n 1 | cut -d' ' -f1)
  # The second stage starts, and its students are written, in about half a minute.
  steps=$(python3 -c 'import sys; from swiftkv.config import load_config
rate, left, least = map(float, sys.argv[2:]); batch = load_config(sys.argv[1]).distill.batch_tokens
print(max(int(least), int(rate * left / batch)))' "config/$STUDENTS.yaml" "${rate:-0}" \
    "$((STUDENTS_BY - SECONDS - 30))" "$FIRST_STEPS")
  say "students: first stage at ${rate:-?} tokens/s, so $steps steps more"
  with_steps "$config" "$steps" "results/$STUDENTS/starts"
  distil second "$config" "$models" || return 1
  exports "$config" "$models" "results/$STUDENTS/trained" || return 1
}
carry_students() { # variant...: those of them, with the curves and logs
  carry_home students "results/$STUDENTS"/{first,config}.yaml "results/$STUDENTS/first"/distill.jsonl* "$models"/distill.jsonl* \
    "$models/base/config.json.provenance.json" "$packs/logs" $(printf "results/$STUDENTS/trained/%s " "$@")
}

tasks() {
  local config=results/$STUDENTS/config.yaml arm jobs=() code
  for arm in $(names "$config" accuracy_arms); do
    case $arm in
      *-undistilled) note "convert-$arm" swiftkv convert --config "$config" --base "$models/base" \
        --variant "${arm%-undistilled}" --out "$models/$arm" & jobs+=($!) ;;
    esac
  done
  all "${jobs[@]}"
  jobs=()
  for arm in $(names "$config" accuracy_arms); do
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} note "accuracy-$arm" timeout "$TASKS_S" swiftkv accuracy --config "$config" --arm "$arm" \
      --model "$models/$arm" --out "results/$STUDENTS/accuracy/$arm" --work "results/$STUDENTS/work/accuracy/$arm" &
    jobs+=($!)
  done
  if grep -q '^divergence:' "$config"; then
    note divergence timeout "$TASKS_S" swiftkv divergence --config "$config" --base "$models/base" --models "$models" \
      --out "results/$STUDENTS/divergence" --work "results/$STUDENTS/work/divergence" &
    jobs+=($!)
  fi
  all "${jobs[@]}"
  code=$?
  # shellcheck disable=SC2046  # a list of files
  carry_home tasks "$config" "$packs/logs" \
    $(find "results/$STUDENTS/accuracy" "results/$STUDENTS/divergence" -type f 2>/dev/null)
  return $code
}

open=0
for pack in "$@"; do
  if [ -e "$packs/logs/$pack.done" ]; then say "$pack: finished before"; continue; fi
  case $pack in
    gates | speed | students | tasks) "$pack" && code=0 || code=$? ;;
    warm-up) warm_up && code=0 || code=$? ;;
    carry-students=*) carry_students $(tr , ' ' <<<"${pack#*=}") && code=0 || code=$? ;;
    *) echo "gpu_packs: unknown pack '$pack'; allowed are gates, warm-up, speed, students, carry-students=VARIANT,..., tasks" >&2; exit 2 ;;
  esac
  if [ $code = 0 ]; then touch "$packs/logs/$pack.done"; say "$pack: done"; else open=1; say "$pack: not done"; fi
done
exit $open
