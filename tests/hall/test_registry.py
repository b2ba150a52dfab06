"""The registry of result files: no fact in it contradicts another, and nothing is said of a file that it lacks."""

from collections import Counter
from itertools import product

import pytest

from swiftkv import files, registry
from swiftkv.audit.recompute import PARTLY, RECIPES
from swiftkv.config import ROOT
from swiftkv.registry import FILES, REGISTERED
from swiftkv.report import exhibits

EVIDENCE = sorted(path for path in (ROOT / "results" / "reference").glob("*/*") if (path / "verify").is_dir())
DRAWN = {"sample_seed"}  # key of a row that older evidence lacks


@pytest.mark.parametrize("fact", ["name", "path"])
def test_no_two_files_share(fact):
    counts = Counter(getattr(file, fact) for file in REGISTERED)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("file", REGISTERED, ids=lambda file: file.name)
def test_what_is_compared_is_a_table(file):
    """Keys are columns that every such file has; what has no keys is not compared, so nothing may say how."""
    assert {*file.keys} <= {*file.columns} | DRAWN
    assert file.keys or not (file.ratios or file.ignored or file.agreement is not registry.Agreement.COMPUTED)


def test_every_table_of_the_exhibits_has_its_source():
    tables = {*exhibits.TABLES, *exhibits.SERVED_TABLES}
    assert {table for file in REGISTERED for table in file.tables} == tables
    assert all(registry.shown_in(table) for table in tables)


def test_recipes_are_for_registered_files():
    """And for the tables made from them."""
    forms = ("csv", "md", "tex")
    shown = {f"tables/{name}.{form}" for name, form in product(exhibits.TABLES, forms)}
    shown |= {f"served/{name}.{form}" for name, form in product(exhibits.SERVED_TABLES, forms)}
    unknown = {*RECIPES} - shown - {"tables/tables.tex"} - {file.path for file in REGISTERED}
    assert not unknown and {*PARTLY} <= {*RECIPES}


def test_every_registered_table_is_evidence():
    kept = {file.pattern for file in REGISTERED if file.evidence} | {registry.COUNTS}
    assert kept >= {file.pattern for file in REGISTERED if file.columns}
    assert {file.evidence for file in REGISTERED if file.evidence} <= {*registry.KEPT}


@pytest.mark.parametrize("evidence", EVIDENCE, ids=lambda path: path.name)
def test_committed_files_have_the_records_that_the_registry_says(evidence):
    for file in FILES.values():
        for path in files.finished(evidence, file.pattern):
            assert path.with_name(f"{path.name}.provenance.json").is_file() == file.recorded, path


def test_an_unknown_stage_is_refused():
    assert registry.names("lengths") == ["lengths.csv", "lengths_quantiles.csv"]
    with pytest.raises(ValueError, match="guess: no stage"):
        registry.names("guess")
