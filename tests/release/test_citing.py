"""What others cite: BibTeX, CITATION.cff and the package agree; docs name every id; a run as RO-Crate."""

import re
import tomllib
from urllib.parse import unquote

import pytest
import yaml

from swiftkv import files
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.release import crate
from swiftkv.report import exhibits

CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def entries() -> dict[str, dict[str, str]]:
    """Fields of each BibTeX entry by its key, without braces."""
    text = (ROOT / "CITATION.bib").read_text()
    found = {}
    for key, body in re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        fields = re.findall(r"^  (\w+) *= \{(.*)\},$", body, re.MULTILINE)
        found[key] = {name: value.strip("{}") for name, value in fields}
    return found


def test_bibtex_says_what_citation_cff_says():
    suite, paper = entries()["swiftkv-repro"], entries()["swiftkv"]
    (cited,) = CFF["references"]
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in cited["authors"])
    assert (suite["title"], suite["version"], suite["license"]) == (CFF["title"], CFF["version"], CFF["license"])
    assert suite["author"] == CFF["authors"][0]["name"]
    assert (paper["title"], paper["url"], paper["year"]) == (cited["title"], cited["url"], str(cited["year"]))
    assert (paper["author"], paper["booktitle"]) == (authors, cited["collection-title"])


def test_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (CFF["version"], CFF["license"]) == (project["version"], project["license"])


def test_docs_list_every_figure_and_table():
    listed = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", (ROOT / "docs" / "citing.md").read_text(), re.MULTILINE)
    assert dict(listed) == exhibits.TEXTS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A result directory of two stages, one of which read the other's file."""
    monkeypatch.chdir(tmp_path)
    directory, config = tmp_path / "results" / "cpu", load_config(ROOT / "config" / "config.yaml")
    files.write_text(directory / "a dir" / "rows.jsonl", '{"x": 1}\n')
    files.write_text(directory / "tables" / "tab-x.csv", "x\n1\n")
    files.write_text(directory / "work" / "half.json", "{}")
    with Provenance("measure", config) as provenance:
        provenance.save(directory / "a dir" / "rows.jsonl")
    with Provenance("tables", config, inputs=[directory / "a dir" / "rows.jsonl"]) as provenance:
        provenance.save(directory / "tables" / "tables")
    return directory


def test_crate_holds_every_file_with_its_hash_and_every_stage(run):
    crate.write(run)
    graph = files.read_json(run / crate.METADATA)["@graph"]
    by_id = {entity["@id"]: entity for entity in graph}
    assert len(by_id) == len(graph)
    parts = {unquote(part["@id"]) for part in by_id["./"]["hasPart"]}
    assert parts == {path.relative_to(run).as_posix() for path in run.glob("[at]*/*")}
    for part in parts:
        entity = by_id[crate.quote(part)]
        assert entity["sha256"] == files.sha256(run / part)
        assert entity["contentSize"] == str((run / part).stat().st_size)
    tables = by_id["#tables/tables.provenance.json"]
    assert tables["object"] == {"@id": "a%20dir/rows.jsonl"} and tables["result"] == {"@id": "tables/tab-x.csv"}
    assert tables["startTime"] <= tables["endTime"] <= by_id["./"]["datePublished"]


def test_another_crate_is_not_replaced(run):
    (run / crate.METADATA).write_text('{"@graph": []}')
    with pytest.raises(UserError, match="was not written by `swiftkv crate`"):
        crate.write(run)


def test_every_reference_of_the_crate_leads_somewhere(run):
    crate.write(run)
    crate.write(run)  # its own file is no part of it
    graph = files.read_json(run / crate.METADATA)["@graph"]
    ids = {entity["@id"] for entity in graph}
    values = [
        value
        for entity in graph
        for field in entity.values()
        for value in (field if isinstance(field, list) else [field])
    ]
    named = {value["@id"] for value in values if isinstance(value, dict)}
    assert named - ids == {crate.SPECIFICATION}
    assert crate.METADATA not in {part["@id"] for part in next(e for e in graph if e["@id"] == "./")["hasPart"]}


def test_crate_of_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="no provenance records"):
        crate.write(tmp_path)
