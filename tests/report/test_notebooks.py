"""The notebooks: clean in git, reading through swiftkv.results only, and running from top to bottom."""

import nbformat
import pytest

from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.report import claims, notebook_outputs, notebooks
from tests.helpers.synthetic_results import build

CONFIG = load_config(ROOT / "config" / "config.yaml")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "results"
    scale = build(path, CONFIG)
    claims.run(CONFIG, scale / "claims.csv", scale / "claims.md", root=path)
    return path


NAMES = ["00-verdicts", "accuracy", "diagnosis", "load", "planning", "throughput"]
IMPORTS = [
    "from swiftkv.report.notebooks import if_there, show",
    "from swiftkv.results import find_root, load",
]
COMPUTE = [  # of the one notebook that predicts
    "from swiftkv import costmodel",
    "from swiftkv.planning import capacity, predict, roofline",
]
REFERENCE = ROOT / "results" / "reference"


def code_of(name: str) -> list:
    notebook = nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(path) -> list:
    return [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]


def test_these_are_all():
    assert notebooks.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_with_outputs_of_its_cells_and_of_todays_results(name):
    path = notebooks.NOTEBOOKS / f"{name}.ipynb"
    assert notebook_outputs.is_current(name), f"run `swiftkv renew-notebooks {name}`"
    assert outputs_of(path) and path.stat().st_size <= notebook_outputs.MOST_BYTES
    assert not [out for out in outputs_of(path) if out.output_type == "error" or out.get("name") == "stderr"]


def test_outputs_of_other_cells_or_results_are_found(tmp_path, monkeypatch):
    notebook = notebook_outputs.read("load")
    assert any(path.name == "summary.csv" for path in notebook_outputs.inputs_of(notebook))
    before = notebook_outputs.digest(notebook)
    monkeypatch.setattr(notebook_outputs.files, "sha256", lambda path: "another")
    assert notebook_outputs.digest(notebook) != before
    monkeypatch.undo()
    notebook.cells[-1].source += " "
    assert notebook_outputs.digest(notebook) != before


def test_outputs_last():
    streams = [nbformat.v4.new_output("stream", name=kind, text=text) for kind, text in
               (("stdout", "a"), ("stderr", "/tmp/warning"), ("stdout", "b"))]  # fmt: skip
    result = nbformat.v4.new_output("execute_result", data={"text/plain": "1"}, execution_count=7)
    first, second = notebook_outputs.lasting([*streams, result])
    assert (first.text, second.execution_count) == ("ab", None)


@pytest.mark.parametrize("name", NAMES)
def test_parametrised_in_the_first_cell(name):
    code = code_of(name)
    assert all(cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert code[0].metadata.tags == ["parameters"]
    imports = [line for cell in code for line in cell.source.splitlines() if "import" in line and "swiftkv" in line]
    assert imports == (COMPUTE if name == "planning" else []) + IMPORTS


@pytest.mark.parametrize("name", ["00-verdicts", "throughput", "accuracy", "diagnosis"])
def test_runs_on_results(root, tmp_path, name):
    notebooks.execute(name, "cpu", tmp_path / f"{name}.ipynb", root=root)
    outputs = outputs_of(tmp_path / f"{name}.ipynb")
    kinds = [kind for out in outputs for kind in out.get("data", {})]
    assert "image/png" in kinds and "text/html" in kinds
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert all(len(out.metadata["image/png"]["alt"]) > 40 for out in pictures)
    assert "papermill" not in nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).metadata


COMMITTED = [
    ("00-verdicts", "h200-pack"),
    ("throughput", "h200-pack"),
    ("throughput", "cpu-served"),
    ("accuracy", "smollm2"),
    ("accuracy", "h200-pack"),
    ("diagnosis", "h200-short"),
    ("load", "cpu-served"),
    ("load", "sweep"),
    ("load", "cpu"),
    ("planning", "h200-short"),
    ("planning", "cpu"),
]
NOTHING = {("throughput", "cpu-served"), ("diagnosis", "h200-short"), ("load", "cpu"), ("accuracy", "h200-pack")}
WHOLE = {("00-verdicts", "h200-pack"), ("accuracy", "smollm2"), ("planning", "h200-short")}  # lack nothing


@pytest.mark.parametrize(("name", "scale"), COMMITTED)
def test_opens_on_committed_runs_and_says_what_they_lack(name, scale, capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **more: shown.extend(things))
    place = min(REFERENCE.glob(f"*/{scale}"))
    parameters, *cells = code_of(name)
    names: dict = {}
    exec(parameters.source, names)
    names |= {"scale": scale, "root": str(place.parent)}
    exec("\n".join(cell.source.replace("%matplotlib inline", "") for cell in cells), names)
    lacking = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not in this run: ")]
    assert len(shown) >= (0 if (name, scale) in NOTHING else 2)
    assert all("no such result" in line for line in lacking)
    assert bool(lacking) == ((name, scale) not in WHOLE)


def test_a_run_without_results_is_said_cell_by_cell(tmp_path):
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    notebooks.execute("00-verdicts", "cpu", tmp_path / "out.ipynb", root=tmp_path / "results")
    said = "".join(out.get("text", "") for out in outputs_of(tmp_path / "out.ipynb"))
    assert "not in this run: " in said and "claims.csv: no such result" in said


def test_failing_cell_becomes_one_line(tmp_path):
    with pytest.raises(UserError, match=r"notebooks/accuracy\.ipynb: UserError: .*no results of scale 'cpu' here"):
        notebooks.execute("accuracy", "cpu", tmp_path / "out", root=tmp_path / "results")
    assert not (tmp_path / "out").exists()


def test_unknown_notebook_is_refused(tmp_path):
    with pytest.raises(UserError, match="there are 00-verdicts, accuracy, diagnosis, load, planning, throughput"):
        notebooks.execute("magic", "cpu", tmp_path)
