#!/usr/bin/env bash
# Build a folder of parts that installs the suite on a CUDA machine without network (docs/gpu.md).
# usage: packaging/bundle.sh h200 [options]
#        packaging/bundle.sh full --vllm vllm==VERSION --torch VERSION [--python 3.12] [options]
#   h200   vLLM 0.26.0 reduced to dense models on a Hopper GPU, and what requirements/h200/target.txt does not list
#   full   this vLLM whole, and everything else but torch (that version) with torch's own requirements
# options: --out DIR, --data DIR and --model DIR (both may be repeated), --part-mib N
set -euo pipefail
cd "$(dirname "$0")/.."
. packaging/package_sources.sh
fail() { echo "bundle: $*" >&2; exit 2; }

flavour=${1:-}
[ $# -eq 0 ] || shift
vllm=vllm==0.26.0 torch=2.11.0 python=3.12 out='' data=() models=()
part_mib=48       # a transport of 64 MiB a call also carries the working tree
limit_mib=180     # of the h200 flavour
[ "$flavour" = h200 ] || { vllm='' torch=''; }
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || fail "$1: needs a value"
  case "$1" in
    --out) out=$2 ;;
    --data) data+=("$2") ;;
    --model) models+=("$2") ;;
    --part-mib) part_mib=$2 ;;
    --vllm|--torch|--python) [ "$flavour" = full ] || fail "$1: only for the flavour full"; declare "${1#--}=$2" ;;
    *) fail "unknown option '$1'; allowed are --out, --data, --model, --part-mib, --vllm, --torch, --python" ;;
  esac
  shift 2
done
case "$flavour" in
  h200) ;;
  full) [ -n "$vllm" ] && [ -n "$torch" ] || fail "full: needs --vllm and --torch" ;;
  *) fail "unknown flavour '$flavour': allowed are h200, full" ;;
esac
case "$part_mib" in ''|*[!0-9]*|0) fail "--part-mib $part_mib: allowed is a whole number from 1" ;; esac
for directory in ${data[@]+"${data[@]}"} ${models[@]+"${models[@]}"}; do
  [ -d "$directory" ] || fail "$directory: no such directory"
done
out=${out:-results/bundle/$flavour}
# Parts of an earlier bundle are replaced by name, so nothing else may lie there.
ours='^((packages|project)-[0-9]+|(packages|bundle)\.txt|install\.sh|SHA256SUMS|\.stage\..*)$'
other=$(ls -A "$out" 2>/dev/null | grep -Ev "$ours" | head -n 1) || true
[ -z "$other" ] || fail "--out $out: holds $other, which is no part of a bundle; name another directory"
mkdir -p "$out"
stage=$(mktemp -d "$out/.stage.XXXXXX")
trap 'rm -rf "$stage"' EXIT
tree=$stage/tree
mkdir -p "$tree/data" "$tree/models"

# A folder as xz-compressed parts of $out, the same bytes for the same files.
pack() { # name directory
  rm -f "$out/$1"-*
  tar -C "$2" --sort=name --owner=0 --group=0 --mtime="@$(git log -1 --format=%ct)" -c . | xz --lzma2=preset=4,dict=64MiB -T2 |
    split -b "${part_mib}M" -d -a 2 - "$out/$1-"
}

# Packages, installed for the other machine's Python, whichever runs here. The parts of an earlier bundle are kept if they
# hold the same: then only the project has to be carried again.
resolved=requirements/h200/bundle.lock
if [ "$flavour" = full ]; then
  resolved=$stage/resolved.txt
  { requirements; echo "$vllm"; } >"$stage/wanted.txt"
  { overrides; echo "torch==$torch"; } >"$stage/overrides.txt"
  compile=(uv pip compile --quiet --python-version "$python" --python-platform x86_64-manylinux_2_31 --no-header --no-annotate)
  echo "torch==$torch" >"$stage/torch.txt"
  present=$("${compile[@]}" "$stage/torch.txt" | sed -n 's/^\([a-z0-9][a-z0-9-]*\)==.*/--no-emit-package \1/p')
  # shellcheck disable=SC2086  # one option per package
  "${compile[@]}" "$stage/wanted.txt" --override "$stage/overrides.txt" $present --output-file "$resolved" >/dev/null
fi
holds="$flavour $python $part_mib $(cat "$resolved" packaging/reduce_vllm.py | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$out/packages.txt" 2>/dev/null)" != "$holds" ]; then
  rm -f "$out/packages.txt"
  uv pip install --quiet --target "$stage/packages/site" --python-version "$python" \
    --python-platform x86_64-manylinux_2_31 --no-deps --link-mode copy -r "$resolved"
  [ "$flavour" = full ] || python3 packaging/reduce_vllm.py "$stage/packages/site"
  pack packages "$stage/packages"
  echo "$holds" >"$out/packages.txt"
fi

# The project at its commit, with the metadata by which vLLM finds the plugin.
mkdir "$tree/project"
git archive HEAD | tar -x -C "$tree/project"
uv build --quiet --wheel --out-dir "$stage/wheel" "$tree/project"
rm -rf "$tree/project/build"
for directory in ${data[@]+"${data[@]}"}; do cp -r --no-preserve=mode "$directory"/. "$tree/data/"; done
for directory in ${models[@]+"${models[@]}"}; do cp -r --no-preserve=mode "$directory" "$tree/models/"; done

printf '%s\n' "flavour=$flavour" "python=$python" "torch=$torch" "commit=$(git rev-parse HEAD)" >"$out/bundle.txt"
pack project "$tree"
cp packaging/install.sh "$out/"
(cd "$out" && sha256sum packages-* project-* install.sh bundle.txt >SHA256SUMS)

echo "bundle: $out, for Python $python with torch $torch"
(cd "$out" && du -m --apparent-size packages-* project-*) | sed 's/^/bundle: MiB /'
total=$(cat "$out"/packages-* "$out"/project-* | wc -c)
echo "bundle: $((total >> 20)) MiB in all"
if [ "$flavour" = h200 ] && [ $((total >> 20)) -ge $limit_mib ]; then fail "$out: more than $limit_mib MiB"; fi
