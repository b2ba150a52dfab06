"""What a claim is judged by: one number in its unit, or the reason why there is none; how metrics find their rows."""

from dataclasses import dataclass, field

import pandas as pd

from swiftkv.registry import ALL_FRAMES


class Unanswerable(Exception):
    """No number to judge; carries the verdict (`not measured` or `not comparable`) and the reason."""

    def __init__(self, verdict: str, reason: str):
        super().__init__(reason)
        self.verdict, self.reason = verdict, reason


@dataclass(frozen=True)
class Measurement:
    """One number in the claim's unit.

    `low` and `high` bound it for the rules; `is_ci` says whether they are a 95% CI. `limit` is the compute
    limit of the FLOPs model where there is one; `files` are the result files behind the number, () if it was computed
    from a published shape alone. `doubt` is the verdict, with its reason, that stands in place of the rule's where the
    number cannot be judged (`noise`).
    """

    value: float
    frame: str
    details: str
    low: float = field(default=None)
    high: float = field(default=None)
    is_ci: bool = False
    limit: float | None = None
    files: tuple[str, ...] | None = None
    doubt: tuple[str, str] | None = None

    def __post_init__(self):
        for bound in ("low", "high"):
            if getattr(self, bound) is None:
                object.__setattr__(self, bound, self.value)
        if self.files is None:
            object.__setattr__(self, "files", (file_of(self.frame),))


def file_of(frame: str) -> str:
    return ALL_FRAMES[frame].path if frame in ALL_FRAMES else "models/*/*.safetensors"


def student(metric: dict, context) -> str:
    """Name of the config's variant with the metric's skip share and group size."""
    skip, group = metric["student"]["skip"], metric["student"].get("key_value_group_size", 1)
    for variant in context.config.variants:
        if abs(variant.skip - skip) < 1e-9 and variant.key_value_group_size == group:
            return variant.name
    missing = f"the config has no student with skip {skip} and key_value_group_size {group}"
    raise Unanswerable("not measured", missing)


def only(frame: pd.DataFrame, where: dict, file: str) -> pd.Series:
    """The single row of `frame` that matches `where`; Unanswerable if there is none or more than one."""
    rows = frame
    for column, value in where.items():
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        conditions = ", ".join(f"{column}={value}" for column, value in where.items())
        raise Unanswerable("not measured", f"{file} has {len(rows) or 'no'} rows with {conditions}")
    return rows.iloc[0]
