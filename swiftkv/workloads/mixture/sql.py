"""Generated text-to-SQL: a schema of several tables, a question in words, and a statement that was run in SQLite.

The databases are those of `databases`, made up for this purpose. A pair of question and statement is taken only if the
statement runs on the filled database and returns something, and the frame of the prompt is one of several.
"""

from collections.abc import Callable, Iterator
from random import Random

from swiftkv.workloads import sqlite_sandbox
from swiftkv.workloads.mixture.databases import (
    AMOUNT,
    DAY,
    LABELS,
    NUMBER,
    REFERENCE,
    WORDS,
    Column,
    Table,
    create,
    database,
    literal,
    script,
)

PER_SCHEMA = 8  # questions that are tried on one schema
FENCED = "```sql\n{sql}\n```"
FRAMES = (
    (
        "Here is the schema of an SQLite database:\n\n```sql\n{schema}\n```\n\nWrite a single SQL query that answers "
        "this question: {question} Return the query only.",
        FENCED,
    ),
    ("{schema}\n\n-- Using valid SQLite, answer the following question for the tables above.\n-- {question}", "{sql}"),
    ("Tables:\n\n{schema}\n\nQuestion: {question}\n\nGive the SQL query.", FENCED),
    ("Translate the request into SQL (SQLite dialect).\n\nRequest: {question}\n\nSchema:\n{schema}", "{sql}"),
)
AGGREGATES = {"average": "AVG", "total": "SUM", "highest": "MAX", "lowest": "MIN"}

Pair = tuple[str, str]  # a question and its statement


class Missing(Exception):
    """The tables have no columns for this kind of question."""


def pick(rng: Random, options: list):
    """One of the options. Raises Missing if there are none."""
    if not options:
        raise Missing
    return rng.choice(options)


def named(rng: Random, tables: list[Table]) -> tuple[Table, Column]:
    """A table whose rows have a name, and the column of it."""
    return pick(rng, [(table, column) for table in tables for column in table.of(LABELS)])


def condition(rng: Random, table: Table, prefix: str = "") -> Pair:
    """A condition on a column of a table, in words and in SQL."""
    column = pick(rng, table.of(WORDS, NUMBER, AMOUNT, DAY))
    value, name = rng.choice(table.values(column)), prefix + column.name
    if column.kind == WORDS:
        return f"whose {column.words} is {value}", f"{name} = {literal(value)}"
    if column.kind == DAY:
        word, sign = rng.choice((("on or after", ">="), ("before", "<"), ("after", ">")))
        return f"with {column.words} {word} {value}", f"{name} {sign} {literal(value)}"
    word, sign = rng.choice((("more than", ">"), ("less than", "<"), ("at least", ">="), ("at most", "<=")))
    return f"with {column.words} of {word} {value}", f"{name} {sign} {value}"


def parent_of(rng: Random, tables: list[Table]) -> tuple[Table, Table, Column]:
    """A table that refers to another one whose rows have a name: both, and that name's column."""
    by_name = {table.plural: table for table in tables}
    child = pick(rng, [table for table in tables if table.of(REFERENCE)])
    parent = by_name[rng.choice(child.of(REFERENCE)).detail]
    return child, parent, pick(rng, parent.of(LABELS))


def aggregated(rng: Random, table: Table) -> tuple[Column, str, str]:
    """A column of numbers, and what is made of it, in a word and as a function."""
    return pick(rng, table.of(NUMBER, AMOUNT)), *rng.choice(list(AGGREGATES.items()))


# Each of these asks one kind of question about random columns, with values that the rows hold.


def listing(rng: Random, tables: list[Table]) -> Pair:
    table, label = named(rng, tables)
    words, where = condition(rng, table)
    return (
        f"List the {label.words} of all {table.plural} {words}.",
        f"SELECT {label.name} FROM {table.plural} WHERE {where};",
    )


def two_conditions(rng: Random, tables: list[Table]) -> Pair:
    table, label = named(rng, tables)
    (words, where), (more, other) = condition(rng, table), condition(rng, table)
    if where.split()[0] == other.split()[0]:
        raise Missing
    both = rng.choice(("and", "or"))
    return (
        f"Which {table.plural} are there {words} {both} {more}? Show the {label.words}.",
        f"SELECT {label.name} FROM {table.plural} WHERE {where} {both.upper()} {other};",
    )


def counting(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, tables)
    words, where = condition(rng, table)
    return f"How many {table.plural} are there {words}?", f"SELECT COUNT(*) FROM {table.plural} WHERE {where};"


def aggregate(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, tables)
    column, word, function = aggregated(rng, table)
    words, where = condition(rng, table) if rng.random() < 0.6 else ("", "")
    return (
        f"What is the {word} {column.words} of {table.plural}{words and ' '}{words}?",
        f"SELECT {function}({column.name}) FROM {table.plural}{where and ' WHERE '}{where};",
    )


def grouped(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, tables)
    group = pick(rng, table.of(WORDS))
    if rng.random() < 0.4 or not table.of(NUMBER, AMOUNT):
        return (
            f"For each {group.words}, how many {table.plural} are there?",
            f"SELECT {group.name}, COUNT(*) FROM {table.plural} GROUP BY {group.name};",
        )
    column, word, function = aggregated(rng, table)
    return (
        f"Show the {word} {column.words} of {table.plural} for every {group.words}.",
        f"SELECT {group.name}, {function}({column.name}) FROM {table.plural} GROUP BY {group.name};",
    )


def having(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, tables)
    group, least = pick(rng, table.of(WORDS)), rng.randint(2, 4)
    return (
        f"Which values of {group.words} do at least {least} {table.plural} share?",
        f"SELECT {group.name} FROM {table.plural} GROUP BY {group.name} HAVING COUNT(*) >= {least};",
    )


def top(rng: Random, tables: list[Table]) -> Pair:
    table, label = named(rng, tables)
    column, count = pick(rng, table.of(NUMBER, AMOUNT, DAY)), rng.randint(1, 5)
    dated = column.kind == DAY
    word, order = rng.choice((("latest" if dated else "highest", "DESC"), ("earliest" if dated else "lowest", "ASC")))
    shown, which = (table.singular, "has") if count == 1 else (f"{count} {table.plural}", "have")
    return (
        f"Which {shown} {which} the {word} {column.words}? Show the {label.words} and the {column.words}.",
        f"SELECT {label.name}, {column.name} FROM {table.plural} ORDER BY {column.name} {order} LIMIT {count};",
    )


def ordered(rng: Random, tables: list[Table]) -> Pair:
    table, label = named(rng, tables)
    column = pick(rng, table.of(NUMBER, AMOUNT, DAY))
    words, where = condition(rng, table)
    word, order = rng.choice((("ascending", "ASC"), ("descending", "DESC")))
    return (
        f"List {label.words} and {column.words} of the {table.plural} {words}, by {word} {column.words}.",
        f"SELECT {label.name}, {column.name} FROM {table.plural} WHERE {where} ORDER BY {column.name} {order};",
    )


def above_average(rng: Random, tables: list[Table]) -> Pair:
    table, label = named(rng, tables)
    column, (word, sign) = pick(rng, table.of(NUMBER, AMOUNT)), rng.choice((("above", ">"), ("below", "<")))
    inner = f"SELECT AVG({column.name}) FROM {table.plural}"
    return (
        f"Give the {label.words} of every {table.singular} whose {column.words} is {word} the average.",
        f"SELECT {label.name} FROM {table.plural} WHERE {column.name} {sign} ({inner});",
    )


def distinct(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, tables)
    column = pick(rng, table.of(WORDS))
    return (
        f"What different values of {column.words} do {table.plural} have? Sort them.",
        f"SELECT DISTINCT {column.name} FROM {table.plural} ORDER BY {column.name};",
    )


def by_year(rng: Random, tables: list[Table]) -> Pair:
    table = pick(rng, [table for table in tables if table.of(DAY)])
    column = rng.choice(table.of(DAY))
    year = f"strftime('%Y', {column.name})"
    if rng.random() < 0.5:
        value = rng.choice(table.values(column))[:4]
        return (
            f"How many {table.plural} have a {column.words} in {value}?",
            f"SELECT COUNT(*) FROM {table.plural} WHERE {year} = '{value}';",
        )
    return (
        f"Count the {table.plural} for each year of {column.words}, earliest year first.",
        f"SELECT {year} AS year, COUNT(*) FROM {table.plural} GROUP BY year ORDER BY year;",
    )


def joined(rng: Random, tables: list[Table]) -> Pair:
    child, parent, label = parent_of(rng, tables)
    shown = pick(rng, child.of(LABELS, DAY, NUMBER, AMOUNT))
    side, alias = rng.choice(((child, "c."), (parent, "p.")))
    words, where = condition(rng, side, alias)
    whose = f"the {child.plural} {words}" if side is child else f"{child.plural} that belong to {parent.plural} {words}"
    return (
        f"Show the {shown.words} of {whose}, each with the {label.words} of its {parent.singular}.",
        f"SELECT c.{shown.name}, p.{label.name} FROM {child.plural} AS c JOIN {parent.plural} AS p "
        f"ON c.{parent.key} = p.{parent.key} WHERE {where};",
    )


def join_grouped(rng: Random, tables: list[Table]) -> Pair:
    child, parent, label = parent_of(rng, tables)
    head = f"FROM {parent.plural} AS p JOIN {child.plural} AS c ON c.{parent.key} = p.{parent.key}"
    group = f"GROUP BY p.{parent.key}, p.{label.name}"
    if rng.random() < 0.5 or not child.of(NUMBER, AMOUNT):
        count = rng.randint(1, 3)
        most = f"the {parent.singular}" if count == 1 else f"the {count} {parent.plural}"
        return (
            f"Name {most} with the most {child.plural}, by {label.words}, with the number of {child.plural}.",
            f"SELECT p.{label.name}, COUNT(*) AS number {head} {group} ORDER BY number DESC LIMIT {count};",
        )
    column, word, function = aggregated(rng, child)
    return (
        f"For every {parent.singular} with {child.plural}, give the {label.words} and the {word} {column.words}.",
        f"SELECT p.{label.name}, {function}(c.{column.name}) {head} {group};",
    )


def without(rng: Random, tables: list[Table]) -> Pair:
    child, parent, label = parent_of(rng, tables)
    if rng.random() < 0.5:
        inner = f"SELECT {parent.key} FROM {child.plural}"
        return (
            f"Which {parent.plural} have no {child.plural}? Show the {label.words}.",
            f"SELECT {label.name} FROM {parent.plural} WHERE {parent.key} NOT IN ({inner});",
        )
    return (
        f"List the {label.words} of all {parent.plural} and how many {child.plural} each has, none included.",
        f"SELECT p.{label.name}, COUNT(c.{child.key}) FROM {parent.plural} AS p LEFT JOIN {child.plural} AS c "
        f"ON c.{parent.key} = p.{parent.key} GROUP BY p.{parent.key}, p.{label.name};",
    )


QUESTIONS: tuple[Callable[[Random, list[Table]], Pair], ...] = (
    listing, two_conditions, counting, aggregate, grouped, having, top, ordered, above_average, distinct, by_year,
    joined, joined, join_grouped, join_grouped, without,
)  # fmt: skip


def tried(rng: Random, tables: list[Table]) -> list[Pair]:
    """Questions that the tables have columns for, with their statements; none has been run."""
    found = {}
    for _ in range(PER_SCHEMA):
        try:
            question, statement = rng.choice(QUESTIONS)(rng, tables)
        except Missing:
            continue
        found.setdefault(question, statement)
    return list(found.items())


def says_something(rows: list[list] | None) -> bool:
    """Whether a statement ran and returned more than nothing, a null or a count of none."""
    return bool(rows) and rows not in ([[None]], [[0]])


def pairs(rng: Random, tables: list[Table]) -> list[Pair]:
    """Questions with statements that were run on the filled tables."""
    made = tried(rng, tables)
    results = sqlite_sandbox.run(script(tables), [statement for _, statement in made])
    return [pair for pair, rows in zip(made, results, strict=True) if says_something(rows)]


def rows(rng: Random) -> Iterator[dict]:
    """Chats of one question each, without end."""
    while True:
        tables = database(rng)
        for question, sql in pairs(rng, tables):
            frame, form = rng.choice(FRAMES)
            asked = frame.format(schema=create(tables, rng), question=question)
            yield {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": form.format(sql=sql)},
                ]
            }
