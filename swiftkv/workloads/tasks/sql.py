"""Text-to-SQL: several tables, one question; judged by running the statement in SQLite."""

from random import Random

from swiftkv.workloads import sqlite_sandbox
from swiftkv.workloads.names import draw
from swiftkv.workloads.tasks.base import Context, Item, Question, Task, exact

ROWS = 6


def make(rng: Random, split: str, settings: dict) -> Context:
    """`records` tables of `values` columns, the first being the key that a query has to look up in the schema."""
    records, values = settings["records"], settings["values"]
    names = draw(rng, split, records * (values + 1))
    tables = [names[i : i + values + 1] for i in range(0, len(names), values + 1)]
    schema = [{"table": table, "columns": columns} for table, *columns in tables]
    lines = [f"table {table} ( {', '.join(columns)} )\n" for table, *columns in tables]
    questions = [ask(rng, table, columns, schema) for table, *columns in tables]
    rng.shuffle(questions)
    return Context("# sql\n" + "".join(lines), questions)


def ask(rng: Random, table: str, columns: list[str], schema: list[dict]) -> Question:
    """Ask for the key of the rows that have a given value in another column."""
    column, value = rng.choice(columns[1:] or columns), rng.randint(10, 99)
    text = f"key where {column} is {value} in {table}\nSELECT"
    answer = f" {columns[0]} FROM {table} WHERE {column} = {value} ;"
    return Question(text, answer, {"schema": schema, "column": column, "value": value, "table": table})


def database(meta: dict) -> str:
    """The item's tables as a script, filled so that the right statement returns rows and most others do not."""
    script = []
    for number, entry in enumerate(meta["schema"]):
        columns = entry["columns"]
        rows = [[1000 * number + 10 * row + i for i in range(len(columns))] for row in range(ROWS)]
        if entry["table"] == meta["table"]:
            rows[1][columns.index(meta["column"])] = rows[4][columns.index(meta["column"])] = meta["value"]
        script.append(f"CREATE TABLE {entry['table']} ({', '.join(f'{c} INTEGER' for c in columns)});")
        script += [f"INSERT INTO {entry['table']} VALUES ({', '.join(map(str, row))});" for row in rows]
    return "".join(script)


def rows_of(statement: str, meta: dict) -> list | None:
    """Rows of one read-only SELECT, sorted; None if it is anything else, fails, or runs too long."""
    (rows,) = sqlite_sandbox.run(database(meta), [statement])
    try:
        return None if rows is None else sorted(rows)
    except TypeError:  # a column of numbers and texts has no order
        return None


def score(item: Item, text: str) -> dict[str, float]:
    """Score 1.0 if the statement returns the expected rows; `valid` says whether it ran."""
    first = (text.strip().splitlines() or [""])[0]
    given, expected = rows_of("SELECT " + first, item.meta), rows_of("SELECT" + item.answer, item.meta)
    same = given is not None and given == expected
    return {"score": float(same), "exact_match": exact(item, text), "valid": float(given is not None)}


TASK = Task("sql", make, score)
