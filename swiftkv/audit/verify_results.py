"""Whether a result directory agrees with itself (`swiftkv verify-results DIR`).

What can be computed from rows that lie beside it (summaries, tables, verdicts) is made anew in a scratch directory and
compared with what is stored, to the 15 digits that a double holds; every sha256 that a provenance record gives for a
file of the directory is taken again, as is that of each file in a published run's manifest. What none of these
reaches is listed as not checkable.
"""

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from swiftkv import files
from swiftkv.audit import manifest
from swiftkv.audit.compare_results import open_results
from swiftkv.audit.recompute import CLAIMS, PARTLY, RECIPES, AuditedRun, Recipe
from swiftkv.config import ROOT, RunConfig, config_of_run, read_layers
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.registry import COUNTS, KEPT
from swiftkv.report.exhibits import LAYOUT

ROUNDING = 5e-16  # below one unit in the fifteenth digit
RECORD = ".provenance.json"
RULES = ("config/claims.yaml", "config/published.csv")
UNUSABLE = (UserError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)  # what altered rows lead to


@dataclass(frozen=True)
class Discrepancy:
    """A stored value that is not what it is computed to be."""

    file: str
    row: str
    column: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.row, self.column) if part)
        return f"{where}: stored {self.stored}, recomputed {self.recomputed}"


@dataclass
class Findings:
    """What was found. `reached`: files recomputed or hashed; `unchecked`: what was not, and why."""

    differences: list[Discrepancy] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    unchecked: dict[str, str] = field(default_factory=dict)


def differences(file: str, stored: str, recomputed: str) -> Iterator[Discrepancy]:
    """Where two texts of a file differ: by cell in tables and JSON Lines, else by line."""
    if file.endswith(".csv"):
        yield from cells(file, *(list(csv.DictReader(io.StringIO(text))) for text in (stored, recomputed)))
    elif file.endswith(".jsonl"):
        yield from cells(file, *([json.loads(line) for line in text.splitlines()] for text in (stored, recomputed)))
    else:
        lines = zip_longest(stored.splitlines(), recomputed.splitlines(), fillvalue="(no line)")
        yield from (Discrepancy(file, f"line {n}", "", a, b) for n, (a, b) in enumerate(lines, 1) if a != b)


def same_number(a: str, b: str) -> bool:
    """Whether two texts are one number, rounded differently in the last bit by another machine's arithmetic."""
    try:
        return math.isclose(float(a), float(b), rel_tol=ROUNDING)
    except ValueError:
        return False


def cells(file: str, stored: list[dict], recomputed: list[dict]) -> Iterator[Discrepancy]:
    """Cells of the stored columns that differ. Columns that only today's code writes do not count."""
    if len(stored) != len(recomputed):
        yield Discrepancy(file, "", "rows", str(len(stored)), str(len(recomputed)))
        return
    for number, (a, b) in enumerate(zip(stored, recomputed, strict=True), 1):
        row = f"row {number} ({', '.join(str(value) for value in list(b.values())[:2])})"
        for column in a:
            old, new = str(a[column]), str(b.get(column, "(no such column)"))
            if old != new and not same_number(old, new):
                yield Discrepancy(file, row, str(column), old, new)


def recompute(run: AuditedRun, file: str, recipe: Recipe, findings: Findings) -> None:
    """Make a file anew and compare it, if it is there and so is what it is made from."""
    stored = run.results.directory / file
    if not stored.is_file():
        return
    lacking = [need for need in recipe.needs if not any(run.results.directory.glob(need))]
    if recipe.configured and run.config is None:
        lacking.append("config.yaml")
    if lacking:
        findings.unchecked[file] = f"cannot be recomputed without {', '.join(lacking)}"
        return
    findings.reached.add(file)
    try:
        recipe.make(run, run.scratch / file)
        text = stored.read_text(encoding="utf-8")
        findings.differences += differences(file, text, (run.scratch / file).read_text(encoding="utf-8"))
    except UNUSABLE as error:
        reason = " ".join(str(error).split())
        findings.differences.append(Discrepancy(file, "", "", "(as it is)", f"(fails: {reason})"))


def hashed_files(directory: Path, record: dict) -> dict[str, str]:
    """Files below the directory -> sha256, of a record that names them from where it was made: results/<scale>/..."""
    inside, scale = {}, record.get("scale") or directory.name
    for path, digest in record.get("data_sha256", {}).items():
        # results/<scale>/models/x -> models/x, wherever the run was made or lies now
        if rest := f"/{path}".partition(f"/{scale}/")[2]:
            inside[rest] = digest
    return inside | {
        f"models/{record['arm']}/{name}": digest for name, digest in record.get("model_sha256", {}).items()
    }


def check_hashes(run: AuditedRun, records: dict[str, dict], findings: Findings) -> None:
    """Take every sha256 again that a record gives for a file of the directory."""
    for name, record in records.items():
        for file, digest in hashed_files(run.results.directory, record).items():
            if not (run.results.directory / file).is_file():
                findings.unchecked[file] = "not kept, though records give its sha256"
                continue
            findings.reached.add(file)
            actual = files.sha256(run.results.directory / file)
            if actual != digest:
                findings.differences.append(Discrepancy(file, "", f"sha256 in {name}", digest, actual))


def check_manifest(run: AuditedRun, findings: Findings) -> None:
    """Every file of a published run is the one that its manifest names, and the manifest the one in the ledger."""
    directory = run.results.directory
    if not (directory / manifest.MANIFEST).is_file():
        return
    findings.reached |= manifest.read(directory).keys()
    findings.differences += [
        Discrepancy(file, "", f"sha256 in {manifest.MANIFEST}", said, so)
        for file, said, so in manifest.disagreements(directory)
    ]


def check_config(run: AuditedRun, records: dict[str, dict], findings: Findings) -> None:
    """A kept configuration is the one that results were made with; results of another one are named."""
    if run.config is None:
        return
    digest = RunConfig(read_layers(run.config.path), "").sha256
    known = {name: record["config_sha256"] for name, record in records.items() if record.get("config_sha256")}
    others = [name.removesuffix(RECORD) for name, recorded in known.items() if recorded != digest]
    own = Path(run.config.path) == run.results.directory / "config.yaml"
    if own and len(others) < len(known):
        findings.reached.add("config.yaml")
    elif own and known:
        stored = ", ".join(sorted(set(known.values())))
        findings.differences.append(Discrepancy("config.yaml", "", "config_sha256 in the records", stored, digest))
    if others and (not own or len(others) < len(known)):
        findings.unchecked["configuration of " + ", ".join(others)] = f"not {run.config.path}"


def changed_rules(run: AuditedRun, name: str) -> list[str]:
    """The files of the project that verdicts depend on and that are no longer those of the stored verdicts `name`."""
    recorded = (run.results.provenance(name) or {}).get("data_sha256", {})
    return [file for file in RULES if file in recorded and files.sha256(ROOT / file) != recorded[file]]


def laid_out_otherwise(run: AuditedRun, names: Iterable[str]) -> list[str]:
    """The stored LaTeX files among `names` whose layout is not today's."""
    stored = [name for name in names if name.endswith(".tex") and (run.results.directory / name).is_file()]
    return [name for name in stored if not (run.results.directory / name).read_text("utf-8").startswith(LAYOUT)]


def not_reached(run: AuditedRun, findings: Findings) -> list[str]:
    """Files of the evidence that no hash and no recomputation reaches."""
    evidence = {path for pattern in (*KEPT, COUNTS) for path in files.finished(run.results.directory, pattern)}
    return sorted(
        name for path in evidence if (name := relative(run, path)) not in {*findings.reached, *findings.unchecked}
    )


def relative(run: AuditedRun, path: Path) -> str:
    return path.relative_to(run.results.directory).as_posix()


def check(run: AuditedRun) -> Findings:
    """Everything that can be checked, in the order of the pipeline: the first difference is nearest to its cause."""
    findings, recipes = Findings(), dict(RECIPES)
    for name, file in CLAIMS.items():
        if changed := changed_rules(run, name):
            findings.unchecked[file] = f"judged by another {' and '.join(changed)} than today's"
            del recipes[file]
    for file in laid_out_otherwise(run, recipes):
        findings.unchecked[file] = "laid out by another release; its numbers are those of the .csv and .md beside it"
        del recipes[file]
    for file, recipe in recipes.items():
        recompute(run, file, recipe, findings)
    partly = findings.reached & set(PARTLY)
    findings.reached -= partly
    paths = files.finished(run.results.directory, f"**/*{RECORD}")
    records = {relative(run, path): files.read_json(path) for path in paths}
    check_config(run, records, findings)
    check_hashes(run, records, findings)
    check_manifest(run, findings)
    findings.unchecked |= {file: f"{PARTLY[file]}: measured, no sha256" for file in sorted(partly - findings.reached)}
    findings.unchecked |= dict.fromkeys(
        not_reached(run, findings), "no sha256 is recorded, nothing to recompute it from"
    )
    return findings


def grouped(unchecked: dict[str, str]) -> list[str]:
    """One line per reason, folder and kind of file."""
    groups: dict[tuple, list[str]] = {}
    for file, reason in unchecked.items():
        kind = (RECORD,) if file.endswith(RECORD) else (file.split("/")[0], Path(file).suffix)
        groups.setdefault((reason, *kind), []).append(file)
    more = {key: f" and {len(names) - 1} more like it" if len(names) > 1 else "" for key, names in groups.items()}
    return [f"{names[0]}{more[key]}: {key[0]}" for key, names in groups.items()]


def run(directory: Path, config: Path | None = None) -> bool:
    """Check a result directory, print what was found; whether all that can be checked agrees.

    Raises UserError for a directory without results or an unusable configuration, and NothingToJudge if nothing in it
    can be checked.
    """
    results, loaded = open_results(directory), config_of_run(directory, config)
    results.scale = loaded.scale if loaded else results.scale
    with tempfile.TemporaryDirectory() as scratch:
        findings = check(AuditedRun(results, loaded, Path(scratch)))
    for line in grouped(findings.unchecked):
        print(f"not checkable: {line}")
    for number, difference in enumerate(findings.differences):
        print(f"{'difference' if number else 'first difference'}: {difference}")
    if not findings.reached and not findings.differences:
        raise NothingToJudge(f"{directory}: none of its files can be checked")
    print(f"{directory}: {len(findings.reached)} files checked, {len(findings.differences)} differences")
    return not findings.differences
