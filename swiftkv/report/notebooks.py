"""Running the notebooks of notebooks/ headless, on the results of one scale.

swiftkv.report.notebooks.execute("throughput", "cpu", "results/cpu/notebooks/throughput.ipynb")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swiftkv import files
from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance

NOTEBOOKS = ROOT / "notebooks"
KEY = "swiftkv"  # what a committed notebook's metadata say of its outputs


def names() -> list[str]:
    """The notebooks there are."""
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def show(alt: str) -> None:
    """Display the current figure of a notebook; `alt` describes it to those who cannot see it."""
    import matplotlib.pyplot as plt
    from IPython.display import display

    figure = plt.gcf()
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


@contextmanager
def if_there() -> Iterator[None]:
    """What a cell shows of a run; where the run has no such results, say so and let the notebook go on."""
    try:
        yield
    except UserError as error:
        print(f"not in this run: {error}")


def executed(name: str, scale: str, root: str | Path, cwd: str | Path = "."):
    """A notebook of notebooks/ with its outputs on `root/<scale>`, its kernel in the directory `cwd`.

    Raises UserError with the error of the cell that failed.
    """
    import papermill

    try:
        notebook = papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            None,
            parameters={"scale": scale, "root": str(root)},
            kernel_name="python3",
            progress_bar=False,
            start_timeout=600,  # a kernel starts slowly while other stages keep every core busy
            cwd=str(cwd),
        )
    except papermill.PapermillExecutionError as error:
        raise UserError(f"notebooks/{name}.ipynb: {error.ename}: {' '.join(error.evalue.split())}") from None
    notebook.metadata.pop("papermill", None)  # holds paths of this machine
    notebook.metadata.pop(KEY, None)  # tells of the committed outputs
    return notebook


def execute(name: str, scale: str, out: str | Path, root: str | Path = "results") -> None:
    """Run notebooks/<name>.ipynb on `root/<scale>` and write it with its outputs.

    `out` is the notebook to write, or a directory that gets <name>.ipynb. The kernel runs in the current
    directory. Raises UserError for an unknown notebook, or with the error of the cell that failed.
    """
    import nbformat

    if name not in names():
        raise UserError(f"notebook {name!r}: unknown; there are {', '.join(names())}")
    out = Path(out) if Path(out).suffix == ".ipynb" else Path(out) / f"{name}.ipynb"
    source = NOTEBOOKS / f"{name}.ipynb"
    with Provenance("notebook", scale=scale, inputs=[source], out=[out]) as provenance:
        files.write_text(out, nbformat.writes(executed(name, scale, root)))
        provenance.save(out)
