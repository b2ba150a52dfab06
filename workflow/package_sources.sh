# Sourced by setup.sh and lock.sh.
# uv reads its own settings, not pip's: hand pip's configured sources on, so that mirrors and local wheels count.
setting() { python3 -m pip config get "$1" 2>/dev/null | tr '\n' ' ' || true; }
from_pip() { local value; value=$(setting "global.$1"); [ -n "${value// /}" ] || value=$(setting "install.$1"); printf %s "$value"; }
links=${PIP_FIND_LINKS:-$(from_pip find-links)}
index=${PIP_INDEX_URL:-$(from_pip index-url)}
[ -n "${UV_FIND_LINKS:-}" ] || [ -z "${links// /}" ] || export UV_FIND_LINKS="$(echo $links | tr ' ' ',')"
[ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "${index// /}" ] || export UV_DEFAULT_INDEX="${index// /}"
