"""swiftkv.report.tables: three formats that agree, LaTeX that is escaped and compiles, ids that one list names."""

import pandas as pd
import pytest

from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.report import claims, exhibits, layouts, tables
from swiftkv.report.gain_loss import gains_and_losses
from swiftkv.results import load
from tests.helpers.config import make_config
from tests.helpers.synthetic_results import DIVERGENCE, build

CONFIG = make_config({"divergence": DIVERGENCE})
IDS = [name.removeprefix("tab-") for name in exhibits.TABLES]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "results"
    scale = build(path, CONFIG)
    claims.run(CONFIG, scale / "claims.csv", scale / "claims.md", root=path)
    tables.write_all(CONFIG, path / "tables", root=path)
    return path


@pytest.mark.parametrize("name", IDS)
def test_three_formats(root, name):
    numbers = pd.read_csv(root / "tables" / f"tab-{name}.csv")
    markdown = (root / "tables" / f"tab-{name}.md").read_text()
    latex = (root / "tables" / f"tab-{name}.tex").read_text()
    assert len(numbers)
    rows = [line for line in markdown.splitlines() if line.startswith("| ")][1:]
    bodies = [part.split("\\bottomrule")[0].count("\\\\\n") for part in latex.split("\\midrule")[1:]]
    assert sum(bodies) == len(rows) * max(len(layouts.of(f"tab-{name}").panels), 1)
    assert f"\\label{{tab-{name}}}" in latex and "\\toprule" in latex and "\\caption{" in latex
    assert "SYNTHETIC TEST DATA" in markdown and "SYNTHETIC TEST DATA" in latex


def test_csv_keeps_the_numbers(root):
    written = pd.read_csv(root / "tables" / "tab-throughput.csv")
    source = load("cpu", root).throughput
    pd.testing.assert_series_equal(written.speedup, source.speedup, rtol=1e-5)


def test_text_shows_intervals_except_for_the_reference(root):
    markdown = (root / "tables" / "tab-throughput.md").read_text()
    base, student = (next(line for line in markdown.splitlines() if f"| {arm} |" in line) for arm in ("base", "skip50"))
    assert "[" not in base and "1.71 [1.68, 1.75]" in student


def test_accuracy_has_a_column_per_task(root):
    header = (root / "tables" / "tab-accuracy.md").read_text().splitlines()[2]
    assert header.startswith("| model | code | sql | summarise | rag | mean |")


def test_accuracy_names_the_tasks_that_fail(tmp_path):
    path = build(tmp_path / "results", CONFIG) / "accuracy" / "summary.csv"
    frame = pd.read_csv(path)
    frame.loc[(frame.arm == "skip50") & frame.task.isin(["sql", "rag"]), "p_holm"] = 0.01
    frame.loc[(frame.arm == "skip50") & (frame.task == "sql"), "length_ok"] = False
    frame.to_csv(path, index=False)
    text = tables.accuracy(load("cpu", tmp_path / "results")).text.set_index("model")
    lost, short = "tasks that lose (Holm, 5%)", "too short in"
    assert (text.loc["skip50", lost], text.loc["skip50", short]) == ("sql, rag", "sql")
    assert text.loc["skip25", [lost, short]].isna().all()


def test_latex_is_escaped_and_minus_is_a_minus(root):
    for name in IDS:
        text = (root / "tables" / f"tab-{name}.tex").read_text()
        text = text.removeprefix(exhibits.LAYOUT)
        for position, character in enumerate(text):
            assert character not in "%#" or text[position - 1] == "\\", (name, text[position - 30 : position + 10])
    assert "azure2023\\_code" in (root / "tables" / "tab-lengths.tex").read_text()
    assert "-1.0 & [$-$1.6" in (root / "tables" / "tab-accuracy.tex").read_text()


def test_missing_result_names_its_file(root, tmp_path):
    build(tmp_path / "results", CONFIG)
    with pytest.raises(UserError, match=r"claims\.csv: no such result"):
        tables.write_all(CONFIG, tmp_path / "tables", root=tmp_path / "results")


def test_numeric_columns_are_set_flush_right():
    assert tables.is_numeric(pd.Series(["1.2", "-3", "1,000", "97%", "1.5 [1.4, 1.6]", ""]))
    assert not tables.is_numeric(pd.Series(["1.2", "base"]))


def test_ids_are_those_of_the_list_wherever_they_are_used(root):
    assert all(callable(exhibit.maker) for exhibit in exhibits.ALL.values())
    captions = {path.stem for path in (ROOT / "workflow" / "report").glob("*-*.rst")}
    assert captions == exhibits.TABLES.keys() | exhibits.FIGURES.keys()
    for name in exhibits.TABLES:
        assert f"; {name}." in (root / "tables" / f"{name}.md").read_text().splitlines()[0]


def test_a_part_of_the_pipeline_gives_a_part_of_the_tables(tmp_path, capsys):
    """With `partial`, and says what it left out; without any result it fails."""
    build(tmp_path / "results", CONFIG)
    (tmp_path / "results" / "cpu" / "accuracy" / "summary.csv").unlink()
    tables.write_all(CONFIG, tmp_path / "tables", root=tmp_path / "results", partial=True)
    assert "left out: tab-accuracy: " in capsys.readouterr().out
    assert not (tmp_path / "tables" / "tab-accuracy.csv").exists()
    document = (tmp_path / "tables" / "tables.tex").read_text()
    assert "tab-throughput" in document and "tab-accuracy" not in document
    (tmp_path / "empty" / "cpu").mkdir(parents=True)
    with pytest.raises(UserError, match="could be made"):
        tables.write_all(CONFIG, tmp_path / "none", root=tmp_path / "empty", partial=True)


def test_what_a_section_measures_is_shown_where_the_configuration_has_it():
    for known, kind in ((exhibits.TABLES, "tab"), (exhibits.FIGURES, "fig")):
        absent = {f"{kind}-divergence", f"{kind}-gain-loss"}
        assert set(exhibits.of(make_config(), known)) == set(known) - absent
    assert exhibits.of(CONFIG, exhibits.TABLES) == list(exhibits.TABLES)


def test_divergence_has_a_row_per_student_and_set(root):
    text = tables.divergence(load("cpu", root)).text.set_index(["model", "set"])
    assert "base" not in text.index.get_level_values("model")
    row = text.loc["skip50", "qmsum"]
    assert (row["KL [95% CI]"], row["same top token"]) == ("0.150 [0.135, 0.165]", "86.1 [77.5, 94.7]")
    assert row["documents (cut)"] == "6 (3)"


def test_gains_and_losses_of_an_undistilled_control_are_its_students_and_its_own(root):
    frame = gains_and_losses(load("cpu", root)).set_index("arm")
    student, control = frame.loc["skip50"], frame.loc["skip50-undistilled"]
    assert (student.ratio_10to1, student.tpot_ratio) == (control.ratio_10to1, control.tpot_ratio)
    assert student.score > control.score and (student.distilled, control.distilled) == (True, False)
    speed = load("cpu", root).throughput.query("arm == 'skip50' and point == 'prompt-only'").iloc[0]
    assert (student.prompt_only, student.prompt_only_ci_low) == (speed.speedup, speed.ci_low)
    texts = load("cpu", root).divergence.query("arm == 'skip50' and set == 'mean' and mode == 'answers'").iloc[0]
    assert student.kl == texts.kl
    assert student.perplexity_ratio == pytest.approx(texts.perplexity / texts.base_perplexity, rel=0.01)
    assert frame.loc["base", ["prompt_only", "score_change", "kl"]].tolist() == pytest.approx([1, 0, 0])
