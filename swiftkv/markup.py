"""Text of results for readers: a value with its interval, a Markdown table."""

import math
from collections.abc import Iterable, Sequence


def with_interval(value: float, low: float | None, high: float | None, form: str = ".2f") -> str:
    """`1.59 [1.55, 1.62]`, each in the format `form`; the value alone where there is no interval (None or NaN)."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def pipe_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], rules: Sequence[str] = (), tight: bool = False
) -> str:
    """A Markdown table. `rules` aligns the columns (`---` or `---:`), by default all but the first flush right;
    `tight` writes them without blanks. A `|` in a cell is escaped."""
    rules = rules or ["---", *["---:"] * (len(header) - 1)]
    between = f"|{'|'.join(rules)}|" if tight else f"| {' | '.join(rules)} |"
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (header, *rows)]
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, between, *others])
