"""The 10:1 question: how long are prompts and outputs in production, and in the four tasks?

Production lengths come from public request traces: a mirror directory if there is one, else the network, or
else quantiles that the project carries. The announcement's Figure 1 says that enterprise prompts are over ten
times as long as the outputs: https://www.snowflake.com/engineering-blog/swiftkv-llm-compute-reduction
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.registry import names
from swiftkv.workloads import downloads, tasks
from swiftkv.workloads.downloads import MIRROR_VARIABLE, Pinned, mirror_of
from swiftkv.workloads.tokens import count_tokens, load_tokenizer

RESOURCES = downloads.RESOURCES / "traces"
MIRROR, NETWORK, COMMITTED, GENERATED = "mirror", "network", "committed quantiles", "generated"
GRID = np.linspace(0, 1, 201)
PERCENTILES = (25, 50, 75, 90, 99)
QUANTITIES = ("prompt", "output", "ratio")
MOST_DIGITS = 12  # of a token count


@dataclass(frozen=True)
class Trace:
    """A public request trace: where its bytes are, what they must hash to, which fields hold lengths and arrivals.

    `span_s` is the time from the first to the last request, for where only the committed quantiles are to be had.
    """

    workload: str
    file: str
    prompt_field: str
    output_field: str
    url: str
    sha256: str
    origin: str
    licence: str
    time_field: str
    span_s: str

    @property
    def pinned(self) -> Pinned:
        return Pinned(f"traces/{self.file}", f"trace {self.workload!r}", self.sha256, self.url)


@dataclass(frozen=True)
class MeasuredLengths:
    """Measured lengths of one workload: a row of lengths.csv and the rows of lengths_quantiles.csv."""

    row: dict
    quantiles: list[dict]


def known_traces() -> dict[str, Trace]:
    """The traces of workflow/resources/traces/sources.csv by workload name."""
    return {name: Trace(**row) for name, row in downloads.sources("traces", "workload").items()}


def csv_records(text: str, where: str) -> Iterator[tuple[int, dict]]:
    """Line number and fields of each CSV row, without blanks around names and fields. Raises UserError for a row that
    is too long or not CSV."""
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise UserError(f"{where}: the column {twice[0]!r} is there twice")
        for row in reader:
            if None in row:
                raise UserError(f"{where}:{reader.line_num}: malformed row, more fields than {reader.fieldnames}")
            yield reader.line_num, {name: field and field.strip() for name, field in row.items()}
    except csv.Error as error:
        raise UserError(f"{where}:{reader.line_num}: malformed row ({error})") from None


def records(text: str, where: str) -> Iterator[tuple[int, dict]]:
    """Line number and fields of each row: JSON Lines if `where` ends in .jsonl, else CSV with a header."""
    if not where.endswith(".jsonl"):
        yield from csv_records(text, where)
        return
    for number, line in enumerate(io.StringIO(text), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{where}:{number}: malformed row, not a JSON object: {line[:60]!r}")
        yield number, row


def field(row: dict, name: str, where: str):
    """What a row has in the column `name`. Raises UserError where there is no such column."""
    if name not in row:
        raise UserError(f"{where}: no column {name!r}; the columns are {', '.join(map(repr, row))}")
    return row[name]


def tokens(row: dict, name: str, where: str) -> int:
    """The token count in column `name`, which may be written as pandas writes whole numbers, 500.0. Raises UserError
    unless it is a whole number of at least 0."""
    text = str(field(row, name, where))
    whole = text.removesuffix(".0")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= MOST_DIGITS):
        raise UserError(f"{where}: malformed row, {name} is {text[:60]!r}; allowed is a whole number from 0 up")
    return int(whole)


def rows_of(data: bytes, where: str) -> list[tuple[int, dict]]:
    """Line number and fields of every row. Raises UserError for a malformed one."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error})") from None
    return list(records(text, where))


def lengths_of(trace: Trace, rows: list[tuple[int, dict]], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of every row. Raises UserError for an empty trace or a malformed row."""
    pairs = [
        tuple(tokens(row, name, f"{where}:{number}") for name in (trace.prompt_field, trace.output_field))
        for number, row in rows
    ]
    if not pairs:
        raise UserError(f"{where}: empty trace, no requests in it")
    prompts, outputs = np.array(pairs, dtype=np.int64).T
    return prompts, outputs


def parse(trace: Trace, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of every request. Raises UserError for an empty trace or a malformed row."""
    return lengths_of(trace, rows_of(data, where), where)


def measure(workload: str, kind: str, source: str, prompts, outputs) -> MeasuredLengths:
    """Statistics of [requests] prompt and output tokens; a request without output has no ratio."""
    prompts, outputs = np.asarray(prompts), np.asarray(outputs)
    if not prompts.size or not outputs.any():
        raise UserError(f"{workload}: no requests with output tokens, so no lengths to report")
    ratios = prompts[outputs > 0] / outputs[outputs > 0]
    row = {"workload": workload, "kind": kind, "source": source, "requests": len(prompts)}
    for name, values in (("prompt", prompts), ("output", outputs)):
        row[f"{name}_mean"] = round(float(values.mean()), 2)
        row |= {f"{name}_p{p}": round(float(np.percentile(values, p)), 2) for p in PERCENTILES}
    row["ratio_of_means"] = round(float(prompts.mean() / outputs.mean()), 3)
    row["median_ratio"] = round(float(np.median(ratios)), 3)
    row["share_ratio_ge10"] = round(float((ratios >= 10).mean()), 4)
    quantiles = [
        {"workload": workload, "quantity": name, "q": round(float(q), 4), "tokens": round(float(value), 3)}
        for name, values in zip(QUANTITIES, (prompts, outputs, ratios), strict=True)
        for q, value in zip(GRID, np.quantile(values, GRID), strict=True)
    ]
    return MeasuredLengths(row, quantiles)


def from_mirror(trace: Trace, mirror: Path) -> MeasuredLengths:
    """Lengths of a trace in a mirror. Raises UserError if the file is missing, damaged or another."""
    data, where = trace.pinned.fetch(mirror)
    lengths = parse(trace, data, where)  # before the sha256: a damaged line is named rather than a digest
    trace.pinned.verify(data, where)
    return measure(trace.workload, "trace", MIRROR, *lengths)


def from_network(traces: list[Trace]) -> dict[str, MeasuredLengths]:
    """Lengths of what can be downloaded; the first failure ends it, so that no network costs one time-out."""
    measured = {}
    for trace in traces:
        try:
            data = downloads.download(trace.url)
        except OSError as error:
            print(f"lengths: {trace.url}: {error}; the committed quantiles stand in", flush=True)
            break
        trace.pinned.verify(data, trace.url)
        measured[trace.workload] = measure(trace.workload, "trace", NETWORK, *parse(trace, data, trace.file))
    return measured


def read_csv(path: Path) -> list[dict]:
    """Rows of a CSV file with numbers as numbers."""
    import pandas as pd

    return pd.read_csv(path).to_dict("records")


def from_committed(trace: Trace) -> MeasuredLengths:
    """Lengths as the project carries them. Raises UserError for a trace whose quantiles nobody has committed."""
    rows = [row for row in read_csv(RESOURCES / "lengths.csv") if row["workload"] == trace.workload]
    if not rows:
        raise UserError(f"{RESOURCES / 'lengths.csv'}: nothing of {trace.workload}; name a mirror ({MIRROR_VARIABLE})")
    quantiles = [row for row in read_csv(RESOURCES / "quantiles.csv") if row["workload"] == trace.workload]
    return MeasuredLengths({**rows[0], "source": COMMITTED}, quantiles)


def trace_lengths(names: list[str], mirror: Path | None) -> list[MeasuredLengths]:
    """Lengths of the named traces, from the best source there is. Raises UserError for an unknown name."""
    known = known_traces()
    for name in names:
        if name not in known:
            raise UserError(f"lengths.traces: {name!r} is not known; allowed are {sorted(known)}")
    traces = [known[name] for name in names]
    if mirror is not None:
        return [from_mirror(trace, mirror) for trace in traces]
    online = from_network(traces)
    return [online.get(trace.workload) or from_committed(trace) for trace in traces]


def task_lengths(config: RunConfig, base_dir: Path) -> list[MeasuredLengths]:
    """Prompt and answer tokens of the held-out items of each generated task that is scored, in the base's tokenizer.

    The EOS counts as output: an engine generates it like any other token.
    """
    tokenizer, number = load_tokenizer(base_dir), config.accuracy.items_per_task
    measured = []
    for task, settings in config.scored_tasks.items():
        items = tasks.items(task, "test", number, config.seed, settings)
        prompts = count_tokens(tokenizer, [item.prompt for item in items])
        answers = [1 + count for count in count_tokens(tokenizer, [item.answer for item in items])]
        measured.append(measure(task, "task", GENERATED, prompts, answers))
    return measured


def write(measured: list[MeasuredLengths], rows: Path, quantiles: Path) -> None:
    """Write both tables, the quantiles first."""
    import pandas as pd

    grid = [row for lengths in measured for row in lengths.quantiles]
    files.write_text(quantiles, pd.DataFrame(grid).to_csv(index=False))
    files.write_text(rows, pd.DataFrame([lengths.row for lengths in measured]).to_csv(index=False))


def write_lengths(config: RunConfig, base_dir: Path, out_dir: Path, mirror: Path | None = None) -> None:
    """Write lengths.csv and lengths_quantiles.csv into `out_dir`. Raises UserError as its parts do."""
    written = [out_dir / name for name in names("lengths")]
    with Provenance("lengths", config, out=written) as provenance:
        measured = trace_lengths(config.lengths.traces, mirror_of(mirror))
        known = known_traces()
        provenance.record["traces"] = {
            lengths.row["workload"]: {
                "source": lengths.row["source"],
                "origin": known[lengths.row["workload"]].origin,
                "sha256": known[lengths.row["workload"]].sha256,
            }
            for lengths in measured
        }
        measured += task_lengths(config, base_dir)
        provenance.save(out_dir / "lengths.csv")
        write(measured, *written)


def write_committed(mirror: str | Path, folder: str | Path = RESOURCES) -> None:
    """Make the committed statistics again from a mirror of the published traces."""
    measured = [from_mirror(trace, Path(mirror)) for trace in known_traces().values()]
    write(measured, Path(folder) / "lengths.csv", Path(folder) / "quantiles.csv")
