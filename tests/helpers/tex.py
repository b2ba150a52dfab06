"""How wide LaTeX sets the columns of a table, by the metrics of Computer Modern: for machines without TeX."""

import re
from functools import cache
from pathlib import Path

import matplotlib

from swiftkv.report.latex import Column

SIZE, WIDER = 8, 1.0625  # \footnotesize; cmr8 is that much wider than cmr10 at 8 points
TABCOLSEP, THIN = 3, 1.5  # points


@cache
def widths() -> dict[int, float]:
    """Code of a character -> its width in cmr10, in thousandths of the size."""
    text = (Path(matplotlib.get_data_path()) / "fonts" / "afm" / "cmr10.afm").read_text("latin-1")
    return {int(code): float(width) for code, width in re.findall(r"^C (\d+) ; WX ([\d.]+)", text, re.MULTILINE)}


def points(text: str) -> float:
    """The width of text in LaTeX's \\footnotesize."""
    text = re.sub(r"\\num\{(\S+?)e.*?\}", r"\1 = 100", text)  # a factor is as wide as =
    text = re.sub(r"\\multicolumn\{\d\}\{c\}|[{}]", "", text)
    text = re.sub(r"\$-\$", "=", text).replace("$", "").replace("\\", "").replace("_", "-")
    return sum(widths().get(ord(character), 333) for character in text) / 1000 * SIZE * WIDER  # 333: a space


def part_width(spec: str, texts: list[str]) -> float:
    """The width of one column of a specification such as `l`, `p{50pt}` or `S[table-format=2.1]`."""
    if fixed := re.search(r"p\{([\d.]+)pt\}", spec):
        return float(fixed[1])
    if number := re.search(r"=(-?)(\d+)(?:\.(\d))?", spec):
        whole = "0" * int(number[2]) + "," * ((int(number[2]) - 1) // 3)
        return points(("=" if number[1] else "") + whole + ("." + "0" * int(number[3]) if number[3] else ""))
    return max(map(points, texts), default=0)


def column_width(column: Column) -> float:
    """The width of a column with all its parts, heads included, without the space around it."""
    specs = re.findall(r"S\[.*?\]|>\{.*?\}p\{.*?\}|[lr]", column.spec)
    parts = [cell.split(" & ") for cell in column.cells]
    cells = sum(part_width(spec, [part[at] for part in parts]) for at, spec in enumerate(specs))
    between = THIN if "@" in column.spec else 2 * TABCOLSEP * (column.span - 1)
    heads = 0 if "p{" in column.spec else max(points(head.replace(" & ", "000")) for head in column.heads)
    return max(cells + between, heads)


def table_width(columns: list[Column]) -> float:
    """The width of a tabular without space at its ends."""
    return sum(map(column_width, columns)) + 2 * TABCOLSEP * (len(columns) - 1)
