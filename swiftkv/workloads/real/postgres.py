"""The PostgreSQL scripts of defog's databases as SQLite understands them.

Their rows hold dates relative to the present, which is taken to be the day of the pinned commit.
"""

import re

import pandas as pd

NOW = "2025-01-29 12:00:00"
PERIODS = {"week": "W", "month": "M"}
INTERVAL = re.compile(r"([-+])\s*INTERVAL\s*'(\d+) (year|month|week|day|hour|min)\w*'", re.IGNORECASE)
MOMENT = re.compile(
    rf"(?:DATE_TRUNC\('(\w+)',\s*)?(NOW\(\)|CURRENT_DATE|CURRENT_TIMESTAMP)(?(1)\))((?:\s*{INTERVAL.pattern})*)",
    re.IGNORECASE,
)
UNITS = {"min": "minutes"}
SHOWN = re.compile(r"(?:EXTRACT\((?P<part>\w+) FROM|TO_CHAR\()\s*'(?P<moment>[^']*)'(?:, '(?P<format>[^']*)')?\)")
FORMS = {
    "EPOCH": lambda moment: int(moment.timestamp()),
    "YEAR": lambda moment: moment.year,
    "Month": lambda moment: moment.month_name(),
    "%Y%m%d %H:%i:%s": lambda moment: moment.strftime("%Y%m%d %H:%M:%S"),
}
REWRITES = (
    (r"CREATE SCHEMA[^;]*;", ""),  # SQLite has no schemas: neither they nor their names before tables
    (r"\b(TABLE|INTO|REFERENCES)\s+\w+\.", r"\1 "),
    (r"::\w+", ""),  # casts
    (r"\bSERIAL\b", "INTEGER"),
)


def moment(match: re.Match) -> str:
    """The date or time that a PostgreSQL expression stands for."""
    period, source, intervals = match.group(1, 2, 3)
    when = pd.Timestamp(NOW)
    if period:
        when = when.to_period(PERIODS[period]).start_time
    for sign, count, unit in INTERVAL.findall(intervals):
        when += pd.DateOffset(**{UNITS.get(unit, f"{unit}s"): int(sign + count)})
    return f"'{when.date() if source.upper() == 'CURRENT_DATE' else when}'"


def shown(match: re.Match) -> str:
    """A part or a form of a moment."""
    return repr(FORMS[match["part"] or match["format"]](pd.Timestamp(match["moment"])))


def to_sqlite(script: str) -> str:
    """A script of CREATE TABLE and INSERT statements for SQLite: schemas and casts gone, dates written out."""
    for pattern, replacement in REWRITES:
        script = re.sub(pattern, replacement, script, flags=re.IGNORECASE)
    return SHOWN.sub(shown, MOMENT.sub(moment, script))
