"""swiftkv.report.latex: tables of committed runs fit a two-column article; numbers are aligned, words stay words."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.evals.paper_tasks import paper_tasks
from swiftkv.registry import ALL_FRAMES, shown_in
from swiftkv.report import exhibits, latex, layouts, protocol_report, tables
from swiftkv.report.latex import Layout
from swiftkv.results import Results, load
from tests.helpers.config import make_config
from tests.helpers.tex import table_width

REFERENCE = ROOT / "results" / "reference"
RUNS = ["epyc-2-cores/cpu", "epyc-2-cores/smollm2", "epyc-2-cores/cpu-served", "h200/h200-short"]
TEXT_PT, COLUMN_PT = 506, 241  # of acmart's two columns, the narrower of the usual ones


def made_from(run: str) -> dict[str, tables.Table]:
    """All tables that a committed run has results for."""
    results, made = load(Path(run).name, REFERENCE / Path(run).parent), {}
    for name in (*exhibits.TABLES, *exhibits.SERVED_TABLES):
        try:
            made[name] = exhibits.ALL[name].maker(results)
        except UserError:  # not in this run
            continue
    return made


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> tables.Table:
    """Every published row below two of a run."""
    scale = tmp_path_factory.mktemp("results") / "cpu"
    tasks = [*(task.name for task in paper_tasks().values() if task.seven), "mean"]
    rows = [
        {"arm": arm, "task": task, "coverage": "whole set; first 100 of each part only", "score": 0.7,
         "difference": 0 if arm == "base" else -0.1234, "ci_low": -0.1357, "ci_high": -0.1111}
        for arm in ("base", "skip50-across4") for task in tasks
    ]  # fmt: skip
    (scale / "protocol").mkdir(parents=True)
    columns = ALL_FRAMES["protocol"].columns
    pd.DataFrame(rows).reindex(columns=columns).to_csv(scale / "protocol" / "summary.csv", index=False)
    base = {"base": {"source": "hub", "path": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40}}
    return protocol_report.protocol(make_config(base), Results("cpu", scale))


def text_of(table: tables.Table) -> pd.DataFrame:
    return table.text.fillna("").astype(str)


def check_widths(name: str, table: tables.Table) -> None:
    text, layout = text_of(table), layouts.of(name)
    assert {*layout.heads, *layout.widths, *sum(layout.panels, ())} <= {*text.columns}, name
    columns = latex.set_columns(text, layout)
    shown = {column for panel in latex.panels_of(text, columns, layout) for column in map(id, panel)}
    assert shown == set(map(id, columns.values())), f"{name}: columns that no panel has"
    for panel in latex.panels_of(text, columns, layout):
        assert table_width(panel) <= (TEXT_PT if layout.wide else COLUMN_PT), name


@pytest.mark.parametrize("run", RUNS)
def test_tables_of_committed_runs_are_no_wider_than_a_two_column_article(run):
    """By the metrics of the fonts: this needs no TeX."""
    made = made_from(run)
    assert len(made) >= 2
    for name, table in made.items():
        check_widths(name, table)


def test_the_protocols_table_is_no_wider(protocol):
    check_widths("tab-protocol", protocol)


def test_a_layout_for_every_table_and_no_other():
    assert layouts.LAYOUTS.keys() == exhibits.TABLES.keys() | exhibits.SERVED_TABLES.keys() | exhibits.PROTOCOL.keys()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex and siunitx (Debian: texlive-science)")
@pytest.mark.parametrize("run", RUNS)
def test_tables_of_committed_runs_compile_in_a_two_column_article(run, protocol, tmp_path):
    made = made_from(run) | ({"tab-protocol": protocol} if run == RUNS[0] else {})
    origin = load(Path(run).name, REFERENCE / Path(run).parent).origin
    for name, table in made.items():
        tables.write(table, origin(shown_in(name)[0].name if shown_in(name) else "gates"), name, tmp_path)
    (tmp_path / "tables.tex").write_text(exhibits.document(made))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    log = (tmp_path / "tables.log").read_text(errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert int(re.search(r"Output written on tables.pdf \((\d+) page", log)[1]) >= len(made)
    assert not re.search(r"Overfull|Float too large|Package siunitx Warning", log)


def column(*cells: str, name: str = "a", **layout) -> latex.Column:
    return latex.set_column(name, list(cells), Layout(**layout))


def test_numbers_are_aligned_at_their_point():
    found = column("1,005", "-12.5", "")
    assert (found.spec, found.cells) == ("S[table-format=-4.1]", ["1005", "-12.5", ""])
    percent = column("97%", "100%", name="share")
    assert (percent.spec, percent.heads) == ("S[table-format=3]", [r"{share (\%)}"])
    assert column("8.39e-06", "0.5").cells == [r"\num{8.39e-06}", r"\num{0.5}"]


def test_a_value_and_its_interval_are_neighbours():
    found = column("1.00", "-1.59 [-1.62, 1.55]", "-", name="gain [95% CI]")
    assert (found.span, found.heads) == (2, [r"\multicolumn{2}{c}{gain}"])
    assert found.cells == ["1.00 & ", "-1.59 & [$-$1.62, 1.55]", "{--} & "]


def test_parts_of_a_cell_get_heads_of_their_own():
    found = column("2,048 (1,469, 7,436)", "97 (97, 97)", name="prompt mean (p50, p99)")
    assert found.heads == [r"\multicolumn{3}{c}{prompt}", "{mean} & {p50} & {p99}"]
    assert (found.cells[0], found.span, found.ruled) == ("2048 & 1469 & 7436", 3, True)


@pytest.mark.parametrize("cells", [("base", "1.2"), ("1.2 3",), ("1 [2]",), ("", "")])
def test_words_stay_words(cells):
    assert column(*cells).spec == "l"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_nothing_that_a_result_says_is_a_command(text):
    """Every special character is escaped, so braces and mathematics are in pairs."""
    escaped = latex.escape(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"$\vert$", "$<$", "$>$", "$-$"):
        escaped = escaped.replace(known, "")
    assert not re.sub(r"\\[%&_#${}]", "", escaped).strip(" " + re.sub(r"[\\%&_#${}~^<>|]", "", text))


def test_keys_are_printed_once_and_a_table_too_high_is_continued():
    rows = 2 * latex.PAGE_LINES + 1
    text = pd.DataFrame({"point": ["a"] * rows, "model": [f"m{n}" for n in range(rows)]})
    made = latex.table(text, "Words.", "tab-x", Layout(keys=1))
    assert made.count("\\begin{table*}") == 3 and made.count("\\label{tab-x}") == 1
    assert made.count("\na & ") == 3, "once in each float"
    assert "Continued (3 of 3): tab-x." in made and made.count("\\addtocounter{table}{-1}") == 2


def test_abbreviations_of_heads_are_spelled_out_below():
    text = pd.DataFrame({"TTFT (s)": ["1.5 [1.4, 1.6]"], "model": ["base"]})
    made = latex.table(text, "Latency.", "tab-x", Layout(notes="More."))
    assert r"\raggedright More. Brackets: 95\% intervals. TTFT: time to first token.}" in made
