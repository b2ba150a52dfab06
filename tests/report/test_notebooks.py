"""The notebooks: clean in git, reading through swiftkv.results only, and running from top to bottom."""

import nbformat
import pytest

from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.report import claims, notebooks
from tests.helpers.synthetic_results import build

CONFIG = load_config(ROOT / "config" / "config.yaml")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "results"
    scale = build(path, CONFIG)
    claims.run(CONFIG, scale / "claims.csv", scale / "claims.md", root=path)
    return path


@pytest.mark.parametrize("name", ["throughput", "accuracy", "diagnosis"])
def test_clean_and_parametrised(name):
    notebook = nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    imports = [line for cell in code for line in cell.source.splitlines() if "import" in line and "swiftkv" in line]
    assert imports == ["from swiftkv.report.notebooks import show", "from swiftkv.results import find_root, load"]


@pytest.mark.parametrize("name", ["throughput", "accuracy", "diagnosis"])
def test_runs_on_results(root, tmp_path, name):
    notebooks.execute(name, "cpu", tmp_path / f"{name}.ipynb", root=root)
    done = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    kinds = [kind for cell in done.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert "image/png" in kinds and "text/html" in kinds
    pictures = [out for cell in done.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert all(len(out.metadata["image/png"]["alt"]) > 40 for out in pictures)
    assert "papermill" not in done.metadata


def test_failing_cell_becomes_one_line(tmp_path):
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    with pytest.raises(UserError, match=r"notebooks/accuracy\.ipynb: UserError: .*no such result"):
        notebooks.execute("accuracy", "cpu", tmp_path / "out", root=tmp_path / "results")
    assert not (tmp_path / "out").exists()


def test_unknown_notebook_is_refused(tmp_path):
    with pytest.raises(UserError, match="there are accuracy, diagnosis, throughput"):
        notebooks.execute("magic", "cpu", tmp_path)
