# Sourced by the other scripts: where packages come from, and what the project requires.
# uv reads its own settings, not pip's: hand pip's configured sources on, so that mirrors and local wheels count.
setting() { python3 -m pip config get "$1" 2>/dev/null | tr '\n' ' ' || true; }
from_pip() { local value; value=$(setting "global.$1"); [ -n "${value// /}" ] || value=$(setting "install.$1"); printf %s "$value"; }
links=${PIP_FIND_LINKS:-$(from_pip find-links)}
index=${PIP_INDEX_URL:-$(from_pip index-url)}
[ -n "${UV_FIND_LINKS:-}" ] || [ -z "${links// /}" ] || export UV_FIND_LINKS="$(echo $links | tr ' ' ',')"
[ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${index// /}" ] || export UV_DEFAULT_INDEX="${index// /}"

# The project's own requirements; each vLLM says itself which torch and Transformers it takes.
requirements() {
  python3 - <<'PYTHON'
import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
print("\n".join(re.sub("^(torch|transformers)==.*", r"\1", line) for line in wanted))
PYTHON
}

overrides() {
  python3 -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["tool"]["uv"]["override-dependencies"]))'
}
