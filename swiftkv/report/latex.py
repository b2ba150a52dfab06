"""Tables as LaTeX that fits a two-column article: `booktabs` for the rules, `siunitx` to align numbers.

    latex.table(text, "Latency of one request.", "tab-latency", layouts.of("tab-latency"))

A table is a `table*` across both columns unless its layout says otherwise, in \\footnotesize. A cell such as
`1.59 [1.55, 1.62]` is set as a number and its interval, `97 (90, 120)` as three numbers below heads of their own.
Abbreviations are spelled out below the table. One too high for a page is continued in another float.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from swiftkv.report.exhibits import LAYOUT

PAGE_LINES = 48  # of \footnotesize that fit on a page beside caption and notes
CHARACTER_PT = 3.8  # mean width of a character in \footnotesize
NUMBER = r"-?[\d,]*\.?\d+(?:e[+-]?\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) (\[{NUMBER}, {NUMBER}\])")
PARTS = re.compile(rf"({NUMBER}) \(({NUMBER}(?:, {NUMBER})*)\)")
NAMED_PARTS = re.compile(r"(.*?) ?(\w+) \(([^)]*)\)")  # a column's name: `prompt mean (p50, p99)`
CI = " [95% CI]"
SPECIAL = {character: f"\\{character}" for character in "%&_#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"$\vert$",
}
ABBREVIATIONS = {
    "E2EL": "end-to-end latency",
    "KL": "Kullback-Leibler divergence from the base",
    "KV": "keys and values",
    "MLP": "feed-forward part",
    "NLL": "negative log-likelihood",
    "Q, O": "projections of queries and outputs",
    "K, V": "projections of keys and values",
    "SLO": "service-level objective, here limits of TTFT and TPOT",
    "TPOT": "time per output token",
    "TTFT": "time to first token",
    "p50": "median",
    "p99": "99th percentile",
}


@dataclass(frozen=True)
class Layout:
    """How a table is set.

    `heads`: a column's head where its name is too long, lines apart by a line feed. `keys`: how many leading columns
    name groups of rows; they are printed once per group. `widths`: columns of words that are broken, and at which width
    in points. `panels`: the columns of each of several parts, one below the other, beside the first `named` columns.
    `notes`: sentences below the table. `wide`: across both columns of the article.
    """

    heads: dict[str, str] = field(default_factory=dict)
    keys: int = 0
    widths: dict[str, float] = field(default_factory=dict)
    panels: tuple[tuple[str, ...], ...] = ()
    named: int = 1
    notes: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Column:
    """A column of LaTeX, or the neighbours that cells of several parts take: `spec` and `heads` (one per line) for
    all of them, `cells` (a row each, with `&` between parts)."""

    spec: str
    heads: list[str]
    cells: list[str]
    span: int = 1
    ruled: bool = False  # a line between the heads of all parts and those of each


def escape(text: str) -> str:
    """Plain text with LaTeX's special characters escaped, and minus signs in place of hyphens before numbers."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![^ \[(])-(?=\.?\d)", "$-$", escaped)


def table(text: pd.DataFrame, caption: str, label: str, layout: Layout) -> str:
    """The LaTeX of a table of strings, with a plain caption; its label stands in the first of its floats."""
    chunks = list(chunked(text, layout))
    columns = set_columns(text, layout)
    notes = notes_of(text, caption, layout)
    floats = []
    for number, rows in enumerate(chunks):
        words = f"{caption}" if number == 0 else f"Continued ({number + 1} of {len(chunks)}): {label}."
        head = f"\\caption{{{escape(words)}}}\n"
        head = head + f"\\label{{{label}}}\n" if number == 0 else "\\addtocounter{table}{-1}\n" + head
        head += "\\smallskip\n"  # classes differ in what they leave below a caption
        panels = "\n\n\\medskip\n".join(tabular(panel, rows, layout) for panel in panels_of(text, columns, layout))
        below = notes if number == len(chunks) - 1 else ""
        kind = "table*" if layout.wide else "table"
        floats.append(
            f"\\begin{{{kind}}}\n\\centering\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{3pt}}\n"
            "\\sisetup{group-digits=integer,group-separator={,},group-minimum-digits=4}\n"
            f"{head}{panels}\n{below}\\end{{{kind}}}\n"
        )
    return LAYOUT + "".join(floats)


def chunked(text: pd.DataFrame, layout: Layout) -> Iterator[list[int]]:
    """The rows of each float, by how many lines they take."""
    rows, used, most = [], 0.0, PAGE_LINES / max(len(layout.panels), 1)
    for row in range(len(text)):
        lines = [1] + [
            math.ceil(CHARACTER_PT * len(text[name].iloc[row]) / width) for name, width in layout.widths.items()
        ]
        if rows and used + max(lines) > most:
            yield rows
            rows, used = [], 0.0
        rows, used = [*rows, row], used + max(lines)
    yield rows


def panels_of(text: pd.DataFrame, columns: dict[str, Column], layout: Layout) -> Iterator[list[Column]]:
    """The columns of each tabular."""
    first = list(text.columns[: layout.named])
    for names in layout.panels or (tuple(text.columns[layout.named :]),):
        yield [columns[name] for name in (*first, *names)]


def set_columns(text: pd.DataFrame, layout: Layout) -> dict[str, Column]:
    """Every column of the text as LaTeX, by its name."""
    return {name: set_column(name, list(text[name]), layout) for name in text.columns}


def set_column(name: str, cells: list[str], layout: Layout) -> Column:
    """A column of words, of numbers, of numbers with intervals, or of numbers in parts, as its cells are."""
    filled = [cell for cell in cells if cell not in ("", "-")]
    heads = layout.heads.get(name, name.removesuffix(CI)).split("\n")
    if not filled or name in layout.widths:
        return words(heads, cells, layout.widths.get(name))
    if all(PARTS.fullmatch(cell) for cell in filled):
        return in_parts(name, cells, layout)
    if all(re.fullmatch(rf"{NUMBER}%?", cell) for cell in filled):
        if any(cell.endswith("%") for cell in filled) and not any("%" in head for head in heads):
            heads = [*heads[:-1], f"{heads[-1]} (%)"]
        return numbers(heads, [cell.removesuffix("%") for cell in cells])
    if all(re.fullmatch(NUMBER, cell) or INTERVAL.fullmatch(cell) for cell in filled):
        return with_intervals(heads, cells)
    return words(heads, cells)


def words(heads: list[str], cells: list[str], width: float | None = None) -> Column:
    spec = "l" if width is None else f">{{\\raggedright\\arraybackslash}}p{{{width:g}pt}}"
    return Column(spec, [escape(head) for head in heads], [escape(cell) for cell in cells])


def numbers(heads: list[str], cells: list[str]) -> Column:
    """Numbers below each other by their decimal point; where some have an exponent, flush right."""
    plain = [cell.replace(",", "") for cell in cells]
    if any("e" in cell for cell in plain):
        return Column("r", [escape(head) for head in heads], [f"\\num{{{cell}}}" if cell else "" for cell in plain])
    return Column(aligned(plain), [braced(head) for head in heads], ["{--}" if cell == "-" else cell for cell in plain])


def aligned(cells: list[str]) -> str:
    """The `S` column that holds these numbers."""
    split = [cell.removeprefix("-").partition(".") for cell in cells if cell not in ("", "-")]
    whole, digits = (max((len(part[at]) for part in split), default=0) for at in (0, 2))
    sign = "-" if any(re.match(r"-\.?\d", cell) for cell in cells) else ""
    return f"S[table-format={sign}{whole or 1}{f'.{digits}' if digits else ''}]"


def braced(head: str) -> str:
    """A head of an `S` column, which is no number."""
    return f"{{{escape(head)}}}" if head else ""


def with_intervals(heads: list[str], cells: list[str]) -> Column:
    found = [INTERVAL.fullmatch(cell) for cell in cells]
    values = [match[1] if match else cell for match, cell in zip(found, cells, strict=True)]
    intervals = [escape(match[2]) if match else "" for match in found]
    column = numbers([""], values)
    both = [f"{value} & {interval}" for value, interval in zip(column.cells, intervals, strict=True)]
    return Column(rf"{column.spec}@{{\,}}l", [spanning(2, head) for head in heads], both, span=2)


def in_parts(name: str, cells: list[str], layout: Layout) -> Column:
    """Columns side by side for cells such as `97 (90, 120)` below a name such as `prompt mean (p50, p99)`."""
    match = NAMED_PARTS.fullmatch(name)
    below = [match[2], *match[3].split(", ")]
    rows = [
        (found[1], *found[2].split(", ")) if (found := PARTS.fullmatch(cell)) else ("",) * len(below) for cell in cells
    ]
    columns = [numbers([head], list(values)) for head, values in zip(below, zip(*rows, strict=True), strict=True)]
    cells = [" & ".join(parts) for parts in zip(*(column.cells for column in columns), strict=True)]
    heads = [" & ".join(column.heads[0] for column in columns)]
    above = layout.heads.get(name, match[1])
    if above:
        heads.insert(0, spanning(len(below), above))
    return Column("".join(column.spec for column in columns), heads, cells, len(below), ruled=bool(above))


def spanning(span: int, head: str) -> str:
    return f"\\multicolumn{{{span}}}{{c}}{{{escape(head)}}}"


def tabular(columns: list[Column], rows: list[int], layout: Layout) -> str:
    """A tabular of some rows: keys are printed where they change, with a little space before a new first key."""
    height = max(len(column.heads) for column in columns)
    padded = [[" & " * (column.span - 1)] * (height - len(column.heads)) + column.heads for column in columns]
    lines = [f"\\begin{{tabular}}{{@{{}}{''.join(column.spec for column in columns)}@{{}}}}", "\\toprule"]
    for number, heads in enumerate(zip(*padded, strict=True)):
        lines.append(f"{' & '.join(heads)} \\\\")
        if number == height - 2:
            lines += rules_below(columns)
    lines.append("\\midrule")
    before: list[str] = []
    for row in rows:
        cells = [column.cells[row] for column in columns]
        same = common(before, cells[: layout.keys])
        if before and layout.keys and not same and layout.keys > 1:
            lines.append("\\addlinespace")
        before = cells[: layout.keys]
        lines.append(f"{' & '.join([''] * same + cells[same:]).strip()} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def rules_below(columns: list[Column]) -> list[str]:
    """The rules between heads of several columns and those of each."""
    start, found = 1, []
    for column in columns:
        if column.ruled:
            found.append(f"\\cmidrule(lr){{{start}-{start + column.span - 1}}}")
        start += column.span
    return found


def common(before: list[str], now: list[str]) -> int:
    """How many of the first cells are those of the row before."""
    return next((n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before))


def notes_of(text: pd.DataFrame, caption: str, layout: Layout) -> str:
    """Intervals and abbreviations of the heads and the caption explained, and the layout's own sentences."""
    heads = " ".join([caption, *(f"{name} {layout.heads.get(name, '')}" for name in text.columns)])
    spelled = [f"{short}: {meaning}" for short, meaning in ABBREVIATIONS.items() if re.search(rf"\b{short}\b", heads)]
    sentences = [layout.notes] if layout.notes else []
    if text.map(lambda cell: bool(INTERVAL.fullmatch(cell))).any(axis=None):
        sentences.append("Brackets: 95% intervals.")
    if spelled:
        sentences.append(f"{'; '.join(spelled)}.")
    if not sentences:
        return ""
    return f"\n\\smallskip\n\\parbox{{\\linewidth}}{{\\raggedright {escape(' '.join(sentences))}}}\n"
