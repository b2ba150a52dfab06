"""How figures of a page are drawn by Vega-Altair. Each also holds its values as text, for those who cannot hover."""

from dataclasses import dataclass

import altair as alt
import pandas as pd

STEP = 17  # pixels of a row
LEGEND = {"title": None, "orient": "top", "columns": 2, "labelLimit": 260}
DASHES = [4, 3]
TICKS = 7  # of the axis of values, about
Looks = dict[str, tuple[str, str]]  # series -> colour and shape, in the order of the legend


@dataclass(frozen=True)
class Figure:
    """A chart with its title, what it says in a sentence, and its values as a table."""

    id: str
    title: str
    text: str
    spec: dict
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Look:
    """How the rows of a figure are drawn: `bars` from zero instead of points, a line at `reference`."""

    axis: str
    reference: float = 1.0
    bars: bool = False
    digits: str = ".2f"
    limit: str = "limit"  # what the black tick is


def span(low: float, high: float, digits: str) -> str:
    """An interval as text; empty where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f"{low:{digits}} to {high:{digits}}"


def records(frame: pd.DataFrame) -> list[dict]:
    """Rows as Vega takes them: what is missing is null."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def tooltips(columns: dict[str, str]) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{column}:N", title=title) for column, title in columns.items()]


def series_of(looks: Looks, with_shape: bool = True) -> dict:
    """The encodings of a series: its colour and, of points, its shape."""
    names, colours, shapes = list(looks), [look[0] for look in looks.values()], [look[1] for look in looks.values()]
    legend = alt.Legend(**LEGEND)
    encodings = {"color": alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=legend)}
    if with_shape:
        encodings["shape"] = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    return encodings


def intervals(name: str, title: str, text: str, rows: pd.DataFrame, look: Look, looks: Looks) -> Figure | None:
    """A figure of `rows`, which have the columns group (lines between |), series, value and, where there are such,
    low, high, limit (a tick), hollow (drawn pale) and note; None if there are no rows."""
    if rows.empty:
        return None
    rows = rows.assign(
        **{column: None for column in ("low", "high", "limit", "note") if column not in rows},
        **({} if "hollow" in rows else {"hollow": False}),
    )
    rows["shown"] = [format(value, look.digits) for value in rows.value]
    rows["interval"] = [span(row.low, row.high, look.digits) for row in rows.itertuples()]
    rows["limit_shown"] = ["" if pd.isna(value) else format(value, look.digits) for value in rows.limit]
    rows["note"] = rows.note.fillna("")
    rows["told"] = rows.group.str.replace("|", ", ")
    columns = {"told": "quantity", "series": "of", "shown": look.axis, "interval": "95% interval"}
    columns |= {"limit_shown": look.limit} if rows.limit.notna().any() else {}
    columns |= {"note": "measured"} if rows.note.any() else {}
    spec = layered(rows, look, columns, {name: looks[name] for name in looks if name in set(rows.series)})
    return Figure(name, title, text, spec, list(columns.values()), rows[list(columns)].values.tolist())


def layered(rows: pd.DataFrame, look: Look, columns: dict[str, str], looks: Looks) -> dict:
    """Values, intervals, limits and the line of the reference, on one axis."""
    data = alt.Data(values=records(rows[[*columns, "group", "value", "low", "high", "limit", "hollow"]]))
    by_row = alt.Chart().encode(
        y=alt.Y(
            "group:N",
            sort=list(rows.group.unique()),
            title=None,
            axis=alt.Axis(labelLimit=190, domain=False, ticks=False, labelExpr="split(datum.label, '|')"),
        ),
        yOffset=alt.YOffset("series:N", sort=list(looks), scale=alt.Scale(domain=list(looks), paddingInner=0.15)),
        tooltip=tooltips(columns),
    )
    value = alt.X("value:Q", title=look.axis, scale=alt.Scale(zero=look.bars), axis=alt.Axis(tickCount=TICKS))
    pale = alt.condition("datum.hollow", alt.value(0.35), alt.value(1.0))
    whiskers = by_row.mark_rule(strokeWidth=1.4).encode(x="low:Q", x2="high:Q")
    ticks = by_row.mark_tick(thickness=3, opacity=1, bandSize=STEP).encode(x="limit:Q")
    reference = alt.Chart(alt.Data(values=[{}])).mark_rule(strokeDash=DASHES)
    if look.bars:
        values = by_row.mark_bar().encode(x=value, opacity=pale, **series_of(looks, with_shape=False))
    else:
        values = by_row.mark_point(filled=True, size=75, style="value")
        values = values.encode(x=value, opacity=pale, **series_of(looks))
    whiskers = [whiskers.transform_filter("isValid(datum.low)")] if rows.low.notna().any() else []
    ticks = [ticks.transform_filter("isValid(datum.limit)")] if rows.limit.notna().any() else []
    line = reference.encode(x=alt.datum(look.reference))
    marks = [values, *whiskers, *ticks, line] if look.bars else [line, *whiskers, values, *ticks]
    height = {"step": STEP, "for": "offset"}
    return alt.layer(*marks, data=data).properties(width="container", height=height).to_dict()


def scatter(rows: pd.DataFrame, x: tuple[str, str], y: tuple[str, str], columns: dict[str, str], looks: Looks) -> dict:
    """Specification of one point per row and the line on which both values are equal. `x` and `y`: column and title."""
    values = [x[0], y[0]]
    points = (
        alt.Chart(alt.Data(values=records(rows[[*columns, *values]])))
        .mark_point(filled=True, size=60, style="value")
        .encode(
            x=alt.X(f"{x[0]}:Q", title=x[1], scale=alt.Scale(zero=False)),
            y=alt.Y(f"{y[0]}:Q", title=y[1], scale=alt.Scale(zero=False)),
            tooltip=tooltips(columns),
            **series_of(looks),
        )
    )
    ends = [{"at": end} for end in (rows[values].min().min(), rows[values].max().max())]
    line = alt.Chart(alt.Data(values=ends)).mark_line(strokeDash=DASHES).encode(x="at:Q", y="at:Q")
    return alt.layer(line, points).properties(width="container", height=320).to_dict()
