"""Small databases for generated text-to-SQL: tables of several domains, with columns, keys and rows drawn at random.

A table of DOMAINS is `plural singular` and its columns: `name~person|thing|place` holds a label that no two rows share,
`name=a|b|c` one of some words, `name#1-9` a whole number, `name$1-9` an amount, `name@2019-2023` a day. `>tables`
refers to the key of another table. A drawn schema leaves out a few of the columns, so that few schemas are alike.
"""

from dataclasses import dataclass
from random import Random

from swiftkv.workloads.names import draw

DOMAINS = (
    """
    growers grower: name~person; region=North|South|East|West; hectares#2-90; founded_year#1950-2020
    crops crop: crop_name~thing; season=spring|summer|autumn|winter; days_to_harvest#30-200; price_per_kg$0.4-9
    harvests harvest: >growers; >crops; harvest_date@2019-2023; weight_kg#20-900; grade=A|B|C
    """,
    """
    artists artist: artist_name~person; country=Ghana|Norway|Peru|Japan|Kenya; born#1880-1995; style=realist|abstract
    rooms room: room_name~place; floor#0-4; area_m2#30-400
    exhibits exhibit: title~thing; >artists; >rooms; acquired_on@1990-2023; insured_value$500-90000; on_display=yes|no
    """,
    """
    depots depot: depot_name~place; city=Lyon|Porto|Turin|Ghent; capacity#50-900
    drivers driver: full_name~person; >depots; hired_on@2008-2023; wage$14-39
    parcels parcel: label~thing; >depots; >drivers; status=sent|lost|returned; weight_kg$0.1-30; sent_on@2021-2023
    """,
    """
    trainers trainer: trainer_name~person; speciality=yoga|boxing|rowing|dance; years_experience#1-30
    classes class: class_name~thing; >trainers; weekday=Monday|Tuesday|Thursday|Saturday; duration_min#20-120; fee$4-35
    bookings booking: >classes; booked_on@2022-2023; attended=yes|no; rating#1-5
    """,
    """
    owners owner: owner_name~person; town=Aldby|Corran|Mirfield|Tarnow; joined_on@2010-2023
    pets pet: pet_name~thing; >owners; species=cat|dog|rabbit|parrot; age_years#0-18; weight_kg$0.3-60
    visits visit: >pets; visit_date@2020-2023; reason=check-up|vaccination|injury|surgery; cost$20-900
    """,
    """
    authors author: author_name~person; nationality=Irish|Chilean|Indian|Finnish; debut_year#1950-2020
    books book: title~thing; >authors; genre=crime|poetry|history|travel; pages#60-900; price$5-60
    loans loan: >books; loaned_on@2021-2023; days_kept#1-60; returned_late=yes|no
    """,
    """
    stations station: station_name~place; elevation_m#0-3200; opened_on@1960-2022; operator=state|university|private
    sensors sensor: sensor_label~thing; >stations; quantity=wind|rain|temperature|humidity; accuracy$0.01-2
    readings reading: >sensors; taken_on@2022-2023; value$0.1-99; quality=good|suspect|bad
    """,
    """
    departments department: department_name~thing; building=Main|Annex|Tower; annual_budget$20000-900000
    employees employee: full_name~person; >departments; grade#1-9; salary$24000-99000; hired_on@2005-2023; remote=yes|no
    projects project: project_name~place; >departments; phase=planned|running|done; hours_spent#10-4000
    """,
    """
    directors director: director_name~person; birth_year#1920-1990; country=Iran|France|Korea|Brazil
    films film: film_title~thing; >directors; genre=drama|comedy|thriller; minutes#60-200; release_year#1970-2023
    screenings screening: >films; screened_on@2022-2023; hall=Red|Blue|Green; tickets_sold#0-400; revenue$0-6000
    """,
    """
    suppliers supplier: supplier_name~place; country=Spain|Vietnam|Mexico|Turkey; reliability#1-10
    parts part: part_name~thing; >suppliers; category=bolt|valve|cable|filter; unit_price$0.2-90; stock#0-900
    orders order: >parts; ordered_on@2021-2023; quantity#1-300; state=open|shipped|cancelled
    """,
    """
    reefs reef: reef_name~place; ocean=Pacific|Indian|Atlantic; depth_m#2-70; protected=yes|no
    divers diver: diver_name~person; licence=basic|advanced|rescue; dives_logged#1-900
    surveys survey: >reefs; >divers; surveyed_on@2018-2023; species_count#3-120; visibility_m$1-40
    """,
    """
    instruments instrument: instrument_name~thing; family=strings|brass|percussion|woodwind; rental_fee$10-200
    players player: player_name~person; >instruments; chair#1-12; joined_on@1998-2023; section_leader=yes|no
    concerts concert: concert_title~place; held_on@2020-2023; venue=Dome|Chapel|Park; audience#40-2500; price$5-80
    """,
)  # fmt: skip
GIVEN = "Ada Bela Ciro Dana Emil Fay Goran Hana Igor Jun Kira Lars Mina Noor Omar Pia Rosa Sven Tariq Uma Vera".split()
FAMILY = "Abara Berg Costa Dietz Ek Farah Grau Holm Ito Jansen Koval Lind Moro Nair Okoye Pavic Sato Tran Udo".split()
LABELS, WORDS, NUMBER, AMOUNT, DAY, REFERENCE, KEY = "~", "=", "#", "$", "@", ">", "key"
ROWS = {True: (5, 9), False: (9, 16)}  # of a table, by whether another one refers to it


@dataclass(frozen=True)
class Column:
    """A column: `kind` is one of the marks above, `detail` what follows it."""

    name: str
    kind: str
    detail: str = ""

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """A table with its rows: a value per column, text, int or float."""

    plural: str
    singular: str
    columns: tuple[Column, ...]
    rows: tuple[tuple, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.singular}_id"

    def of(self, *kinds: str) -> list[Column]:
        """The columns of these kinds."""
        return [column for column in self.columns if column.kind in kinds]

    def values(self, column: Column) -> list:
        """What a column holds, row by row."""
        return [row[self.columns.index(column)] for row in self.rows]


def parse(line: str) -> Table:
    """A line of a domain, without rows."""
    head, _, rest = line.strip().partition(": ")
    plural, singular = head.split()
    columns = [Column(f"{singular}_id", KEY)]
    for text in rest.split("; "):
        mark = next(character for character in text if character in "~=#$@>")
        name, _, detail = text.partition(mark)
        columns.append(Column(name, mark, detail))
    return Table(plural, singular, tuple(columns))


def thinned(table: Table, rng: Random) -> tuple[Column, ...]:
    """The columns of a drawn schema: all but up to two that neither name a row nor refer to one."""
    spare = table.of(WORDS, NUMBER, AMOUNT, DAY)
    left_out = rng.sample(spare, rng.randint(0, min(2, max(0, len(spare) - 2))))
    return tuple(column for column in table.columns if column not in left_out)


def column_values(column: Column, count: int, sizes: dict[str, int], rng: Random) -> list:
    """`count` values of a column; `sizes` are the rows of the tables that it may refer to."""
    low, _, high = column.detail.partition("-")
    match column.kind:
        case "key":
            return list(range(1, count + 1))
        case ">":
            return [rng.randint(1, sizes[column.detail]) for _ in range(count)]
        case "=":
            return [rng.choice(column.detail.split("|")) for _ in range(count)]
        case "#":
            return [rng.randint(int(low), int(high)) for _ in range(count)]
        case "$":
            return [round(rng.uniform(float(low), float(high)), 2) for _ in range(count)]
        case "@":
            return [
                f"{rng.randint(int(low), int(high))}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
                for _ in range(count)
            ]
    if column.detail == "person":
        return [
            f"{given} {family}"
            for given, family in zip(rng.sample(GIVEN, count), rng.sample(FAMILY, count), strict=True)
        ]
    names = [name.replace("_", " ").title() for name in draw(rng, "train", count)]
    return names if column.detail == "thing" else [name.replace(" ", "") for name in names]


def database(rng: Random) -> list[Table]:
    """The tables of a random domain, with rows; a table stands after those that it refers to."""
    parsed = [parse(line) for line in rng.choice(DOMAINS).strip().splitlines()]
    singular = {table.plural: table.singular for table in parsed}
    referred = {column.detail for table in parsed for column in table.of(REFERENCE)}
    made, sizes = [], {}
    for table in parsed:
        columns = thinned(table, rng)
        sizes[table.plural] = count = rng.randint(*ROWS[table.plural in referred])
        values = [column_values(column, count, sizes, rng) for column in columns]
        # A reference goes by the name of the key that it refers to.
        named = [Column(f"{singular[c.detail]}_id", c.kind, c.detail) if c.kind == REFERENCE else c for c in columns]
        made.append(Table(table.plural, table.singular, tuple(named), tuple(zip(*values, strict=True))))
    return made


KINDS = (KEY, REFERENCE, LABELS, WORDS, NUMBER, AMOUNT, DAY)
TYPES = tuple(
    dict(zip(KINDS, types.split("; "), strict=True))
    for types in (
        "INTEGER PRIMARY KEY; INTEGER; TEXT NOT NULL; TEXT; INTEGER; REAL; DATE",
        "INT PRIMARY KEY; INT; VARCHAR(80); VARCHAR(20); INT; NUMERIC(10,2); TEXT",
    )
)


def create(tables: list[Table], rng: Random) -> str:
    """CREATE TABLE statements, in one of several styles."""
    types, inline, hints = rng.choice(TYPES), rng.random() < 0.5, rng.random() < 0.4
    singular = {table.plural: table.singular for table in tables}
    statements = []
    for table in tables:
        lines, keys = [], []
        for column in table.columns:
            line, key = f"{column.name} {types[column.kind]}", ""
            if column.kind == REFERENCE:
                key = f"REFERENCES {column.detail}({singular[column.detail]}_id)"
                if not inline:
                    keys.append(f"FOREIGN KEY ({column.name}) {key}")
            lines.append((f"{line} {key}" if key and inline else line, hint(column) if hints else ""))
        lines += [(key, "") for key in keys]
        body = [f"  {line}{',' if n < len(lines) else ''}{note}" for n, (line, note) in enumerate(lines, 1)]
        statements.append("\n".join([f"CREATE TABLE {table.plural} (", *body, ");"]))
    return rng.choice(("\n\n", "\n")).join(statements)


def hint(column: Column) -> str:
    """A comment on what a column holds, for those where it helps."""
    match column.kind:
        case "=":
            return f" -- {', '.join(column.detail.split('|'))}"
        case "@":
            return " -- YYYY-MM-DD"
    return ""


def literal(value) -> str:
    """A value as SQL writes it."""
    return f"'{value}'" if isinstance(value, str) else str(value)


def script(tables: list[Table]) -> str:
    """The tables with their rows, as a script for SQLite."""
    parts = [create(tables, Random(0))]
    for table in tables:
        parts += [f"INSERT INTO {table.plural} VALUES ({', '.join(map(literal, row))});" for row in table.rows]
    return "\n".join(parts)
