"""Names in Snakemake's report for those who cannot see its icons and figures (`swiftkv label-report`).

The report's own template gives links that are icons no text and pictures no description; a script does, with what
`exhibits` says of each figure.
"""

import json
import zipfile
from pathlib import Path

from swiftkv.config import ROOT
from swiftkv.errors import UserError
from swiftkv.files import atomic_path
from swiftkv.report import exhibits

SCRIPT = ROOT / "workflow" / "report" / "labels.js"
PAGE, END = "report.html", "</body>"
MARK = "swiftkv-labels"


def with_labels(page: str) -> str:
    """The page with the script at its end; unchanged if it is there. Raises UserError if it is no page of this kind."""
    if f'id="{MARK}"' in page:
        return page
    if END not in page:
        raise UserError(f"{PAGE}: no {END}; it is not a report of Snakemake")
    script = SCRIPT.read_text(encoding="utf-8").replace("EXHIBITS", json.dumps(exhibits.TEXTS), 1)
    head, end = page.rsplit(END, 1)
    return f'{head}<script id="{MARK}">\n{script}</script>\n{END}{end}'


def run(archive: Path) -> None:
    """Label a report.zip in place. Raises UserError if there is none, or it holds no report."""
    if not zipfile.is_zipfile(archive):
        raise UserError(f"{archive}: no zip archive; make one with `snakemake --report {archive}`")
    with zipfile.ZipFile(archive) as given, atomic_path(archive) as new:
        if not any(name.endswith(f"/{PAGE}") for name in given.namelist()):
            raise UserError(f"{archive}: holds no {PAGE}")
        with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as labelled:
            for entry in given.infolist():
                content = given.read(entry)
                if entry.filename.endswith(f"/{PAGE}"):
                    content = with_labels(content.decode("utf-8")).encode("utf-8")
                labelled.writestr(entry, content)
