# Sourced by the other scripts: where packages come from, uv, and what the project requires.
# uv reads its own settings, not pip's: hand pip's configured sources on, so that mirrors and local wheels count. The pip asked is
# the host's, since .venv has none; `list` and not `get`, which reads one of pip's files only.
pip_config=$(PATH=${PATH//"$PWD/.venv/bin:"/} python3 -m pip config list 2>/dev/null || true)
from_pip() { sed -n "s/^\(global\|install\)\.$1='\(.*\)'$/\2/p" <<<"$pip_config" | tail -n 1 | sed 's/\\n/ /g'; }
links=${PIP_FIND_LINKS:-$(from_pip find-links)}
index=${PIP_INDEX_URL:-$(from_pip index-url)}
[ -n "${UV_FIND_LINKS:-}" ] || [ -z "${links// /}" ] || export UV_FIND_LINKS="$(echo $links | tr ' ' ',')"
[ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${index// /}" ] || export UV_DEFAULT_INDEX="${index// /}"

if ! command -v uv >/dev/null 2>&1; then
  [ -x .local/uv/bin/uv ] || { python3 -m venv .local/uv && .local/uv/bin/python -m pip install --quiet uv; } || exit 1
  PATH="$PWD/.local/uv/bin:$PATH"
fi

# PyPI lacks the CPU builds of torch. Where the configured sources lack the pinned one too, add PyTorch's page of torch's wheels,
# or the page or directory that SWIFTKV_TORCH_LINKS names. PyTorch's index would not do: uv takes all that it lists from there alone.
offered() { echo "$1" | uv pip compile --quiet --no-deps --python-version 3.11 - >/dev/null; }
find_cpu_torch() {
  local torch page
  torch=$(sed -n 's/.*"\(torch==[^"]*\)".*/\1+cpu/p' pyproject.toml | head -n 1)
  if offered "$torch" 2>/dev/null; then return; fi
  page=${SWIFTKV_TORCH_LINKS:-$(sed -n 's/^torch-links = "\(.*\)"$/\1/p' pyproject.toml)}
  export UV_FIND_LINKS="${UV_FIND_LINKS:+$UV_FIND_LINKS,}$page"
  offered "$torch" && return
  echo "swiftkv: error: $torch is neither in the configured package sources nor on $page:" \
    "let SWIFTKV_TORCH_LINKS name a page or a directory that has it" >&2
  return 1
}

# The project's own requirements but for vLLM, which says itself which torch and Transformers it takes.
requirements() {
  python3 - <<'PYTHON'
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print("\n".join(project["dependencies"] + extras["suite"] + extras["dev"]))
PYTHON
}

overrides() {
  python3 -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["tool"]["uv"]["override-dependencies"]))'
}
