"""Published texts: made from evidence, and the committed ones are what the committed evidence says."""

import re
import shutil

import pytest

from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.release import ledger, publish
from swiftkv.results import Results
from tests.helpers.synthetic_results import build

SHOWN = re.compile(r"\[figures and tables\]\(results/reference/([\w-]+)/cpu\)\.\n<!-- /results -->")


@pytest.fixture(scope="module")
def config():
    return load_config(ROOT / "config" / "config.yaml")


@pytest.fixture
def results(config, tmp_path):
    scale = build(tmp_path, config)
    claims = "id,statement,source,published,measured,ci_low,ci_high,unit,hardware,verdict,evidence\n"
    (scale / "claims.csv").write_text(claims + "a,s,p,1,1,1,1,x,h,partly,e\nb,s,p,1,,,,x,,not measured,e\n")
    return Results(config.scale, scale)


def test_results_block_has_a_row_per_arm_and_the_tally(results, config):
    block = publish.results_block(results, "results/reference/x/cpu")
    for variant in config.variants:
        assert f"| `{variant.name}` |" in block
    assert "2 claims: 1 partly, 1 not measured" in block and "SYNTHETIC TEST DATA" in block


def test_text_outside_the_markers_stays(results):
    text = "before\n<!-- results -->old<!-- /results -->\nafter\n"
    made = publish.between(text, "results", "new")
    assert made == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    with pytest.raises(UserError, match="stages"):
        publish.between(text, "stages", "new")


def test_evidence_keeps_results_and_leaves_models_and_machine_paths_out(results, tmp_path):
    publish.copy_evidence(results, tmp_path / "kept")
    assert Results(results.scale, tmp_path / "kept").parameters.equals(results.parameters)
    kept = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert {"claims.csv", "summary.csv", "samples.jsonl", "gates.json", "documents.jsonl"} <= kept
    assert not [name for name in kept if name.endswith(".safetensors")]
    (results.directory / "claims.md").write_text(f"see {ROOT}/results")
    with pytest.raises(UserError, match=r"claims\.md: names a directory of this machine"):
        publish.copy_evidence(results, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_committed_texts_are_what_the_committed_evidence_says(config):
    """That of the machine that the README shows; others are kept beside it."""
    [machine] = SHOWN.findall((ROOT / "README.md").read_text("utf-8"))
    for path, text in publish.texts(config, machine).items():
        assert path.read_text("utf-8") == text, f"{path}: run `swiftkv publish` instead of editing it"


def test_ledger_has_a_column_per_run_with_verdicts(results, tmp_path):
    for machine in ("a", "b"):
        shutil.copytree(results.directory, tmp_path / "reference" / machine / "cpu")
    other = tmp_path / "reference" / "b" / "cpu" / "claims.csv"
    other.write_text(other.read_text().replace("a,s,p,1,1,1,1,x,h,partly", "a,s,p,1,1.5,1.4,1.6,x,h,not gated"))
    (tmp_path / "reference" / "b" / "sweep").mkdir()  # no verdicts
    text = ledger.page(tmp_path / "reference")
    assert "| `a` | 1 x | 1 [1, 1], partly | 1.5 [1.4, 1.6], not gated |" in text
    assert "| `b` | 1 x | not measured | not measured |" in text and "sweep" not in text
    assert "`b/cpu`: SYNTHETIC" in text


def test_of_served_load_the_ledger_shows_what_it_measured(results, tmp_path):
    shutil.copytree(results.directory, tmp_path / "reference" / "a" / "cpu")
    served = tmp_path / "reference" / "a" / "cpu-served" / "served"
    served.mkdir(parents=True)
    text = (results.directory / "claims.csv").read_text()
    (served / "claims.csv").write_text(text.replace("b,s,p,1,,,,x,,not measured", "b,s,p,1,2,,,x,h,reproduced")
                                       .replace("a,s,p,1,1,1,1,x,h,partly", "a,s,p,1,,,,x,,not measured"))  # fmt: skip
    text = ledger.page(tmp_path / "reference")
    assert "[`a/cpu-served`](a/cpu-served/served/claims.md)" in text
    assert "| `a` | 1 x | 1 [1, 1], partly |  |" in text and "| `b` | 1 x | not measured | 2, reproduced |" in text


def test_hardware_of_a_run_that_timed_nothing_is_that_of_its_scores(results, tmp_path):
    shutil.copytree(results.directory, tmp_path / "reference" / "a" / "cpu")
    shutil.rmtree(tmp_path / "reference" / "a" / "cpu" / "throughput")
    assert "`a/cpu`: SYNTHETIC" in ledger.page(tmp_path / "reference")


def test_speed_alone_is_published_without_the_readme(results, config, tmp_path, monkeypatch):
    """A run without models or accuracy, as of a GPU that was there for minutes."""
    shutil.rmtree(results.directory / "models")
    shutil.rmtree(results.directory / "accuracy")
    monkeypatch.setattr(publish, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(type(config), "results", results.directory)
    publish.run(config, "h")
    assert (tmp_path / "reference" / "h" / "cpu" / "throughput" / "summary.csv").is_file()
    assert "`h/cpu`" in (tmp_path / "reference" / "README.md").read_text()


def test_a_run_without_results_replaces_no_evidence(results, tmp_path):
    publish.copy_evidence(results, tmp_path / "kept")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("scale: cpu\n")
    with pytest.raises(UserError, match="holds no results"):
        publish.copy_evidence(Results(results.scale, tmp_path / "empty"), tmp_path / "kept")
    assert (tmp_path / "kept" / "claims.csv").is_file()


def test_the_readme_is_read_in_a_few_minutes():
    """900 words before the citation, those in tables and in the tree included."""
    words = (ROOT / "README.md").read_text("utf-8").split("## Cite")[0].split()
    assert len([word for word in words if re.search(r"\w", word)]) <= 900
