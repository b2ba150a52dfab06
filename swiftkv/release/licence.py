"""Under which licence a student stands: its base's, as the base's card or licence file names it."""

import re
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.release.evidence import Evidence

LICENCE_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
LICENCE_TEXTS = {  # how a licence file begins -> the hub's identifier
    r"Apache License\s+Version 2\.0": r"apache-2.0",
    r"LLAMA (\d(?:\.\d)?) COMMUNITY LICENSE": r"llama\1",
}


def licence_files(evidence: Evidence) -> list[Path]:
    """Licence files of the base, or else of the student; the embedded base has the project's own."""
    places = [evidence.base_dir, evidence.directory, ROOT if evidence.base.get("source") == "embedded" else None]
    for place in filter(None, places):
        if paths := sorted({path for pattern in LICENCE_FILES for path in place.glob(pattern) if path.is_file()}):
            return paths
    return []


def licence(evidence: Evidence) -> dict:
    """license, license_name and license_link as the base's card has them, or else after its licence file.

    "other" if neither says. Raises UserError if the card's front matter is not valid.
    """
    path = evidence.base_dir and evidence.base_dir / "README.md"
    try:
        front = (metadata_load(path) if path and path.is_file() else None) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: front matter is not valid YAML ({' '.join(str(error).split())})") from None
    if front.get("license"):
        return {name: front[name] for name in ("license", "license_name", "license_link") if name in front}
    for path in licence_files(evidence):
        for pattern, name in LICENCE_TEXTS.items():
            if match := re.search(pattern, path.read_text("utf-8", "replace")):
                return {"license": match.expand(name)}
    return {"license": "other"}


def licence_text(evidence: Evidence, licence: dict) -> str:
    """Which licence holds, and what to do where the base names none."""
    name = licence.get("license_name") if licence["license"] == "other" else licence["license"]
    stated = [f"`{name}`"] * bool(name) + [f"[{path.name}]({path.name})" for path in licence_files(evidence)]
    if stated:
        return f"That of the base: {', '.join(stated)}."
    return "The base names no licence, so this model names none: ask the owner of the base before you pass it on."
