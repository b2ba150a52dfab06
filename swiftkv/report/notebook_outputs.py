"""The outputs that notebooks are committed with: each those of a published run, and whether they are still up to date.

    swiftkv.report.notebook_outputs.renew("throughput")
    swiftkv.report.notebook_outputs.is_current("throughput")

A notebook's metadata hold the sha256 of its cells and of the result files that they read, so outputs of other cells or
of other results are found without running anything.
"""

import hashlib
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from swiftkv import files
from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.files import REFERENCE
from swiftkv.registry import ALL_FRAMES, COUNTS, FILES
from swiftkv.report import notebooks

MOST_BYTES = 400_000


def read(name: str) -> NotebookNode:
    """A notebook as it is committed."""
    return nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def run_of(notebook: NotebookNode) -> Path:
    """The published run whose scale the notebook's first code cell names."""
    parameters = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    scale = re.search(r'^scale = "(.*?)"', parameters, re.MULTILINE)[1]
    return min(REFERENCE.glob(f"*/{scale}"))


def inputs_of(notebook: NotebookNode) -> list[Path]:
    """The files of the run that its cells read, as far as the run has them."""
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    named = set(re.findall(r'\bresults\.(?:origin\(")?([a-z_]+)', source))
    patterns = [ALL_FRAMES[name].path for name in sorted(named & ALL_FRAMES.keys())]
    patterns += [f"{path}.provenance.json" for path in patterns]
    patterns += [FILES["samples"].pattern] * ("samples" in named) + [COUNTS] * ("parameters" in named)
    run = run_of(notebook)
    return sorted({path for pattern in patterns for path in files.finished(run, pattern)})


def digest(notebook: NotebookNode) -> str:
    """sha256 of all cells and of the files that they read."""
    told = [cell.source for cell in notebook.cells]
    told += [f"{path.relative_to(ROOT).as_posix()} {files.sha256(path)}" for path in inputs_of(notebook)]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def is_current(name: str) -> bool:
    """Whether the outputs of a notebook are those of its cells and of the results as they are now."""
    notebook = read(name)
    return notebook.metadata.get(notebooks.KEY, {}).get("sha256") == digest(notebook)


def lasting(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs without what differs from time to time: warnings, counts, where a stream was cut."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
            continue
        if "execution_count" in output:
            output.execution_count = None
        kept.append(output)
    return kept


def renew(name: str) -> None:
    """Run a notebook on its published run and keep the outputs in it.

    Raises UserError for an unknown notebook, a cell that fails, outputs that name a directory of this machine, and a
    notebook of more than MOST_BYTES.
    """
    if name not in notebooks.names():
        raise UserError(f"notebook {name!r}: unknown; there are {', '.join(notebooks.names())}")
    notebook = read(name)
    run = run_of(notebook)
    executed = notebooks.executed(name, run.name, run.parent.relative_to(ROOT), ROOT)
    made = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell, ran in zip(notebook.cells, made, strict=True):
        if cell.cell_type == "code":
            cell.outputs = lasting(ran.outputs)
    notebook.metadata[notebooks.KEY] = {"run": run.relative_to(REFERENCE).as_posix(), "sha256": digest(notebook)}
    text = nbformat.writes(notebook) + "\n"
    for place in (str(ROOT), str(Path.home())):
        if f"{place}/" in text:
            raise UserError(f"notebooks/{name}.ipynb: its outputs name a directory of this machine ({place})")
    if len(text.encode()) > MOST_BYTES:
        raise UserError(f"notebooks/{name}.ipynb: {len(text.encode()):,} bytes with outputs; at most {MOST_BYTES:,}")
    files.write_text(notebooks.NOTEBOOKS / f"{name}.ipynb", text)
