"""defog's SQL questions on 11 databases (https://github.com/defog-ai/sql-eval), judged by what a statement returns."""

import csv
import io
import re
from collections.abc import Sequence
from functools import cache
from itertools import islice, product

from swiftkv.workloads import sqlite_sandbox
from swiftkv.workloads.real import published
from swiftkv.workloads.real.base import Example, RealTask
from swiftkv.workloads.real.postgres import NOW, to_sqlite
from swiftkv.workloads.tasks.base import Item

FILE = "defog_questions_sqlite.csv"
FOLDER = "defog_data"  # of the databases
CLOCK = re.compile(r"'now'|\bcurrent_(?:date|time|timestamp)\b", re.IGNORECASE)
ARRANGEMENTS = 1000  # of columns that are tried
DECIMALS = 4


@cache
def database(name: str) -> str:
    """A database with its rows, as a script for SQLite."""
    return to_sqlite(published.read(f"{FOLDER}/{name}/{name}.sql").decode())


@cache
def schema(script: str) -> str:
    """The CREATE TABLE statements of a script, with the comments inside them."""
    (tables,) = sqlite_sandbox.run(script, ["SELECT sql FROM sqlite_master WHERE type = 'table'"])
    return "\n".join(f"{statement};" for (statement,) in tables)


def examples(settings: dict) -> list[Example]:
    """Every question of the published set."""
    rows = csv.DictReader(io.StringIO(published.read(FILE).decode(), newline=""))
    return [example(number, row, database(row["db_name"])) for number, row in enumerate(rows)]


def example(number: int, row: dict, script: str) -> Example:
    """One question on a database; each of the statements that the set gives is right."""
    gold = [statement.strip() for statement in row["query"].split(";") if statement.strip()]
    hint = f"\n{row['instructions']}" if row["instructions"] else ""
    return Example(
        id=f"defog/{number}",
        instruction=(
            f"Tables of an SQLite database:\n\n{schema(script)}\n\n"
            f"Answer the question with one SQLite statement.\n\nQuestion: {row['question']}{hint}\n\n"
        ),
        lead="```sql\n",
        answer=f"{gold[0]};",
        meta={"script": script, "gold": gold, "ordered": row["query_category"] == "order_by"},
    )


def stop_clock(statement: str) -> str:
    """The statement with the date of the data in place of today's."""
    today, time = NOW.split()
    moments = {"current_date": today, "current_time": time}
    return CLOCK.sub(lambda match: f"'{moments.get(match[0].lower(), NOW)}'", statement)


def comparable(rows: list[Sequence], ordered: bool) -> list[str]:
    """Rows as texts with numbers rounded, in their order or sorted."""
    texts = [repr([round(float(v), DECIMALS) if isinstance(v, int | float) else v for v in row]) for row in rows]
    return texts if ordered else sorted(texts)


def same(expected: list[list], given: list[list], ordered: bool) -> bool:
    """Whether the expected columns stand among the given ones, in any arrangement, with the same rows.

    This is the rule of the set's own evaluation, except that duplicate rows count and that ties keep SQLite's order.
    """
    if len(expected) != len(given):
        return False
    wanted, offered = (
        [comparable([[value] for value in column], ordered) for column in zip(*rows, strict=True)]
        for rows in (expected, given)
    )
    # Columns may come in any order: for every expected one, the given ones that hold the same values.
    fits = [[index for index, column in enumerate(offered) if column == target] for target in wanted]
    arrangements = (chosen for chosen in islice(product(*fits), ARRANGEMENTS) if len(set(chosen)) == len(chosen))
    target = comparable(expected, ordered)
    return any(comparable([[row[i] for i in chosen] for row in given], ordered) == target for chosen in arrangements)


def score(item: Item, text: str) -> dict[str, float]:
    """Score 1.0 if the statement returns what one of the published ones does; `valid` says whether it ran.

    A published statement that returns no rows decides nothing. `exact_match` compares the statements.
    """
    gold, statement = item.meta["gold"], text.split("```")[0].strip()
    *expected, given = sqlite_sandbox.run(item.meta["script"], [*map(stop_clock, gold), stop_clock(statement)])
    right = given is not None and any(rows and same(rows, given, item.meta["ordered"]) for rows in expected)
    exact = statement.rstrip(";").split() in [query.split() for query in gold]
    return {"score": float(right), "exact_match": float(exact), "valid": float(given is not None)}


TASK = RealTask(
    "defog",
    examples,
    score,
    ("score", "exact_match", "valid"),
    stop=(";", "```"),
    max_new_tokens=400,
    files=(FILE, f"{FOLDER}/"),
)
