"""A run as an RO-Crate: `swiftkv crate DIR` writes ro-crate-metadata.json beside the results, for archives and readers.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) with the Process Run Crate profile 0.5: every provenance record becomes an
action of this suite, with the files that it read and made. The file is written by hand because the library `rocrate`
describes a crate by copying its files, and these stay where they are.
"""

import mimetypes
from pathlib import Path
from urllib.parse import quote

import yaml

from swiftkv import files
from swiftkv.audit.verify_results import RECORD, hashed_files
from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.provenance import hardware_label

METADATA = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
CONTEXT = [f"{SPECIFICATION}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
SOFTWARE, MAINTAINERS = "#swiftkv-repro", "#maintainers"
FORMATS = {
    ".jsonl": "application/jsonl", ".yaml": "application/yaml", ".md": "text/markdown", ".tex": "application/x-tex",
    ".tsv": "text/tab-separated-values", ".log": "text/plain", ".gz": "application/gzip",
    ".ipynb": "application/x-ipynb+json", ".safetensors": "application/octet-stream",
}  # fmt: skip


def result_files(directory: Path) -> list[str]:
    """Files of a run, relative to it; unfinished work and an earlier description are none of them."""
    paths = (path.relative_to(directory).as_posix() for path in files.finished(directory, "**/*"))
    return [path for path in paths if not path.startswith("work/") and path != METADATA]


def reference(*ids: str) -> list[dict] | dict:
    """References to entities, a single one bare as RO-Crate recommends; what is no id yet is a path."""
    entities = [{"@id": name if name.startswith("#") else quote(name)} for name in ids]
    return entities[0] if len(entities) == 1 else entities


def file_entity(directory: Path, name: str) -> dict:
    path = directory / name
    kind = FORMATS.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    facts = {"name": name, "encodingFormat": kind, "contentSize": str(path.stat().st_size)}
    return {"@id": quote(name), "@type": "File", **facts, "sha256": files.sha256(path)}


def made_by(name: str, present: list[str]) -> list[str]:
    """The files that the record `name` speaks of: the one it is named after, else all of its folder."""
    result = name.removesuffix(RECORD)
    if result in present:
        return [result]
    folder = result.rpartition("/")[0]
    return [file for file in present if file.rpartition("/")[0] == folder and not file.endswith(RECORD)]


def action(directory: Path, name: str, record: dict, present: list[str]) -> dict:
    """A provenance record as a CreateAction."""
    machine = f"; {hardware_label(record['hardware'])}" if record.get("hardware") else ""
    read = [file for file in hashed_files(directory, record) if file in present]
    commit = (record.get("git") or {}).get("sha")
    return {
        "@id": f"#{quote(name)}",
        "@type": "CreateAction",
        "name": f"{record.get('stage')}: {name.removesuffix(RECORD)}",
        "description": f"{' '.join(record.get('command', []))} (commit {commit}{machine})",
        "startTime": record["start"],
        "endTime": record["end"],
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "instrument": {"@id": SOFTWARE},
        "agent": {"@id": MAINTAINERS},
        "object": reference(*read),
        "result": reference(*made_by(name, present)),
    }


def about() -> list[dict]:
    """The software, who keeps it, the licence and the profile, from CITATION.cff."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    paper = cited["references"][0]
    return [
        {"@id": SOFTWARE, "@type": "SoftwareApplication", "name": cited["title"], "softwareVersion": cited["version"],
         "url": paper["url"], "license": {"@id": LICENCE}, "author": {"@id": MAINTAINERS},
         "citation": {"@id": paper["url"]}},
        {"@id": MAINTAINERS, "@type": "Organization", "name": cited["authors"][0]["name"]},
        {"@id": paper["url"], "@type": "ScholarlyArticle", "name": paper["title"]},
        {"@id": LICENCE, "@type": "CreativeWork", "name": cited["license"]},
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": SPECIFICATION}},
    ]  # fmt: skip


def describe(directory: Path) -> dict:
    """The crate's metadata. Raises UserError for a directory without provenance records."""
    present = result_files(directory)
    records = {name: files.read_json(directory / name) for name in present if name.endswith(RECORD)}
    if not records:
        raise UserError(f"{directory}: no provenance records (*{RECORD}) in it; a crate is made of a finished run")
    actions = [action(directory, name, record, present) for name, record in records.items()]
    scale = next((record["scale"] for record in records.values() if record.get("scale")), directory.name)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"SwiftKV, reproduced: results of scale {scale}",
        "description": "Measurements of SwiftKV students and their base, figures, tables, and a verdict on each claim.",
        "datePublished": max(record["end"] for record in records.values()),
        "license": {"@id": LICENCE},
        "author": {"@id": MAINTAINERS},
        "publisher": {"@id": MAINTAINERS},
        "conformsTo": {"@id": PROFILE},
        "hasPart": reference(*present),
        "mentions": reference(*(entity["@id"] for entity in actions)),
    }
    return {"@context": CONTEXT, "@graph": [*about(), root, *(file_entity(directory, f) for f in present), *actions]}


def write(directory: Path) -> None:
    """Write the metadata file of the crate into `directory`. Raises UserError as `describe` does, and if another
    crate is there."""
    path = directory / METADATA
    if path.exists() and f'"{SOFTWARE}"' not in path.read_text(encoding="utf-8"):
        raise UserError(f"{path}: exists and was not written by `swiftkv crate`; move it elsewhere first")
    metadata = describe(directory)
    files.write_json(path, metadata)
    print(f"{path}: {sum(entity['@type'] == 'File' for entity in metadata['@graph'])} files")
