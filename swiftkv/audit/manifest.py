"""The manifest of a published run: the sha256 of each of its files, pictures and notebooks included.

    MANIFEST.sha256     lines of `sha256sum`, which checks it, too: `sha256sum --check MANIFEST.sha256`

`swiftkv publish` writes it, and the ledger above the runs (results/reference/README.md) holds its own sha256. So a file
that is replaced, added or taken away is found, whatever else is made to agree with it, as long as the ledger is that of
a commit one trusts; who can rewrite the ledger, too, is stopped by a signed tag alone.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from swiftkv import files

MANIFEST, LEDGER = "MANIFEST.sha256", "README.md"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def listed(directory: Path) -> Iterator[Path]:
    """The files below a directory that its manifest has to name."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and path != directory / MANIFEST)


def write(directory: Path) -> None:
    """Write the manifest of all that lies below `directory`."""
    lines = [f"{files.sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in listed(directory)]
    files.write_text(directory / MANIFEST, "".join(lines))


def read(directory: Path) -> dict[str, str]:
    """File -> sha256 of a manifest; a line that is none of its kind stands for itself, so that it cannot hide."""
    lines = (directory / MANIFEST).read_text(encoding="utf-8").splitlines()
    found = [(match, line) for line in lines for match in [LINE.fullmatch(line)]]
    return {(match[2] if match else line): (match[1] if match else "no line of sha256sum") for match, line in found}


def disagreements(directory: Path) -> Iterator[tuple[str, str, str]]:
    """What a directory and its manifest, or that and the ledger, say differently: file, what is said, what is so."""
    said, there = read(directory), {path.relative_to(directory).as_posix(): path for path in listed(directory)}
    for name, digest in said.items():
        actual = files.sha256(there[name]) if name in there else "(no such file)"
        if actual != digest:
            yield name, digest, actual
    for name in there.keys() - said.keys():
        yield name, "(not in the manifest)", files.sha256(there[name])
    ledger = directory.parent.parent / LEDGER
    known = known_to(ledger).get(f"{directory.parent.name}/{directory.name}")
    if known and known != (own := files.sha256(directory / MANIFEST)):
        yield MANIFEST, f"{known} in the ledger", own


def table(reference: Path) -> str:
    """The ledger's list of manifests: a line per published directory that has one."""
    paths = sorted(reference.glob(f"*/*/{MANIFEST}"))
    return "".join(f"- `{path.parent.relative_to(reference).as_posix()}`: `{files.sha256(path)}`\n" for path in paths)


def known_to(ledger: Path) -> dict[str, str]:
    """machine/run -> sha256 of its manifest, as `table` wrote them; nothing where there is no ledger."""
    text = ledger.read_text(encoding="utf-8") if ledger.is_file() else ""
    return dict(re.findall(r"^- `([^`]+)`: `([0-9a-f]{64})`$", text, re.MULTILINE))
