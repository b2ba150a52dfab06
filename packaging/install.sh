#!/usr/bin/env bash
# Install the bundle beside this script, without network, under one directory; then say what works.
# usage: bash install.sh PREFIX     (PYTHON=python3 is the interpreter that has torch)
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash install.sh PREFIX" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
fail() { echo "install: $*" >&2; exit 2; }
of() { sed -n "s/^$1=//p" "$here/bundle.txt"; }

(cd "$here" && sha256sum --quiet -c SHA256SUMS) || fail "a part is missing or damaged; carry it again"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "$(of python)" ] || fail "$python is Python $version; this bundle is for $(of python)"
torch=$("$python" -c 'from importlib.metadata import version; print(version("torch"))') || fail "$python has no torch"
[ "${torch%%+*}" = "$(of torch)" ] || fail "torch is $torch; this bundle is for $(of torch)"

# What an earlier installation left is replaced; a folder of another hand's is not.
for name in site project; do
  [ ! -e "$1/$name" ] || [ -f "$1/SHA256SUMS" ] || [ -f "$1/.unfinished" ] || fail "$1/$name exists and is no installation of this bundle"
done
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
if ! cmp -s "$here/SHA256SUMS" "$prefix/SHA256SUMS"; then
  touch "$prefix/.unfinished"
  rm -rf "$prefix/site" "$prefix/project"
  for archive in packages project; do
    cat "$here/$archive"-* | "$python" -c 'import sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz").extractall(sys.argv[1], filter="data")' "$prefix"
  done
  mkdir -p "$prefix/bin"
  printf '#!/bin/sh\nexec "%s" -m swiftkv.cli "$@"\n' "$(command -v "$python")" >"$prefix/bin/swiftkv"
  chmod +x "$prefix/bin/swiftkv"
  cat >"$prefix/env.sh" <<ENV
export PATH="$prefix/bin:\$PATH" PYTHONPATH="$prefix/project:$prefix/site\${PYTHONPATH:+:\$PYTHONPATH}"
export SWIFTKV_MIRROR="$prefix/data" HF_HUB_OFFLINE=1 VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_NO_USAGE_STATS=1
ENV
  cp "$here/SHA256SUMS" "$prefix/SHA256SUMS"
  rm "$prefix/.unfinished"
fi
. "$prefix/env.sh"
echo "install: in $prefix; before use: . $prefix/env.sh && cd $prefix/project"
cd "$prefix/project"
swiftkv self-check
