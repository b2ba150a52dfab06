"""Predictions held against what a run measured: how far off they are, and how far simpler guesses would be.

The machine is fitted to the base's times alone (`predict.fit`). Two guesses need no machine, so a prediction is worth
what it is better than they are: that a student gains what its FLOPs allow, and that nothing changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from swiftkv.bench.plan import throughput_plan
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.config.measuring import CONTROLS
from swiftkv.costmodel import workload_speedup_limit
from swiftkv.engines.settings import DTYPE_BYTES, Arm, benchmark_arms, held_at_once
from swiftkv.errors import UserError
from swiftkv.planning import roofline
from swiftkv.planning.predict import Observation, Workload, fit, predict
from swiftkv.planning.roofline import Machine

ALONE = "latency"  # the request that latency.csv is about
COLUMNS = {
    "summary.csv": set("point arm input_len output_len num_requests total_tokens_per_s_median speedup".split()),
    "latency.csv": set("arm ttft_median_s tpot_median_s ttft_ratio tpot_ratio".split()),
}
RATIOS = {"speedup": "elapsed_s", "ttft_ratio": "ttft_s", "tpot_ratio": "tpot_s"}  # and the time behind each
NOTHING_CHANGES, FLOPS = "nothing changes", "what the FLOPs allow"


@dataclass(frozen=True)
class MeasuredRun:
    """What `directory`/throughput holds, and the configuration that it was measured with."""

    config: RunConfig
    summary: pd.DataFrame
    latency: pd.DataFrame

    @classmethod
    def read(cls, config: RunConfig, directory: Path) -> "MeasuredRun":
        """Raises UserError if results are missing or are of other arms or points."""
        return cls(config, *(_read(directory / "throughput" / name) for name in ("summary.csv", "latency.csv")))

    @cached_property
    def loads(self) -> dict[tuple[str, str], Workload]:
        """What every arm was asked, by arm and point."""
        return {
            (arm.name, point): load
            for arm in self.arms
            for point, load in workloads(self.config, arm, self.summary).items()
        }

    @property
    def arms(self) -> list[Arm]:
        return benchmark_arms(self.config)

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.config.shape["dtype"]]

    def machine(self, start: Machine | None = None, without: str | None = None) -> Machine:
        """The machine on which the base takes its times, those of the point `without` left out."""
        seen = []
        for row in self.summary[self.summary["arm"] == BASE_ARM].itertuples():
            if row.point != without:
                tokens = row.num_requests * (row.input_len + row.output_len)
                load = self.loads[BASE_ARM, row.point]
                seen.append(Observation(load, "elapsed_s", tokens / row.total_tokens_per_s_median))
        row, alone = next(self.latency[self.latency["arm"] == BASE_ARM].itertuples()), self.loads[BASE_ARM, ALONE]
        seen += [Observation(alone, "ttft_s", row.ttft_median_s), Observation(alone, "tpot_s", row.tpot_median_s)]
        return fit(self.config.shape, seen, self.dtype_bytes, start)

    def compared(self, machine: Machine, points: Iterable[str] | None = None) -> pd.DataFrame:
        """Rows of speedups.csv: predicted against measured ratios of every variant, at all points or those given."""
        shape, times = self.config.shape, {}
        rows = [row for row in self.measured() if points is None or row["point"] in points]
        cuts = {arm.name: (arm.cut, arm.group) for arm in self.arms}
        for row in rows:
            if row["arm"] not in cuts:
                wrong = f"predict: arm {row['arm']!r} is not in the configuration"
                raise UserError(f"{wrong}; give the one it was run with")
            for key in ((row["arm"], row["point"]), (BASE_ARM, row["point"])):
                if key not in times:
                    times[key] = predict(shape, *cuts[key[0]], self.loads[key], machine, self.dtype_bytes)
            ours, base = (getattr(times[arm, row["point"]], RATIOS[row["quantity"]]) for arm in (row["arm"], BASE_ARM))
            ratio = base / ours if row["quantity"] == "speedup" else ours / base
            row |= {"predicted": ratio, "error": ratio / row["measured"] - 1, "kind": roofline.PREDICTED}
        columns = ["point", "arm", "quantity", "predicted", "measured", "ci_low", "ci_high", "error", "kind"]
        return pd.DataFrame(rows, columns=columns)

    def measured(self) -> list[dict]:
        """Every variant's measured ratios with their intervals."""
        tables = ((self.summary, {"speedup": ""}), (self.latency, {"ttft_ratio": "ttft_", "tpot_ratio": ""}))
        return [
            {
                "point": row.get("point", ALONE),
                "arm": row["arm"],
                "quantity": quantity,
                "measured": row[quantity],
                "ci_low": row.get(f"{prefix}ci_low"),
                "ci_high": row.get(f"{prefix}ci_high"),
            }
            for table, quantities in tables
            for row in table.to_dict("records")
            for quantity, prefix in quantities.items()
            if row["arm"] not in (BASE_ARM, *CONTROLS)
        ]

    def held_out(self, start: Machine | None = None) -> pd.DataFrame:
        """Speed-ups as in `compared`, each point predicted by a machine fitted without the base's time there."""
        names = self.summary["point"].unique()
        rows = [self.compared(self.machine(start, without=name), {name}) for name in names]
        return pd.concat(rows).query("quantity == 'speedup'")

    def guessed(self, guess: str) -> pd.DataFrame:
        """The measured ratios beside a guess that needs no machine, with its errors."""
        cuts = {arm.name: (arm.cut, arm.group) for arm in self.arms}

        def ratio(row: dict) -> float:
            if guess == NOTHING_CHANGES or row["quantity"] == "tpot_ratio":
                return 1.0
            load = self.loads[row["arm"], row["point"]]
            output = load.output_len if row["quantity"] == "speedup" else 1
            limit = workload_speedup_limit(
                self.config.shape, *cuts[row["arm"]], load.input_len, output, load.cached_len
            )
            return limit if row["quantity"] == "speedup" else 1 / limit

        rows = self.measured()
        return pd.DataFrame([row | {"error": ratio(row) / row["measured"] - 1} for row in rows])


def check(config: RunConfig, directory: Path, machine: Machine | None = None) -> tuple[pd.DataFrame, Machine]:
    """Predicted against measured ratios of every point and arm in `directory`/throughput, and the machine used.

    `config` is the configuration they were measured with. Columns: point, arm, quantity, predicted, measured, ci_low,
    ci_high, error (predicted / measured - 1), kind. Raises UserError if results are missing or are of other arms.
    """
    run = MeasuredRun.read(config, directory)
    fitted = run.machine(machine)
    return run.compared(fitted), fitted


def compare_guesses(config: RunConfig, directory: Path, machine: Machine | None = None) -> list[str]:
    """Lines that tell how far speed-ups are off where the base's time at the point is left out of the fit, and how far
    all ratios are off by the two guesses that need no machine. Raises UserError as `check`."""
    run = MeasuredRun.read(config, directory)
    lines = []
    if run.summary["point"].nunique() > 1:
        lines += error_lines([("speedup, the point left out of the fit", run.held_out(machine))], "ratios")
    for guess in (FLOPS, NOTHING_CHANGES):
        groups = run.guessed(guess).groupby("quantity", sort=False)
        named = [(f'{quantity}, by the guess "{guess}"', rows) for quantity, rows in groups]
        lines += error_lines(named, "ratios")
    return lines


def workloads(config, arm: Arm, summary: pd.DataFrame) -> dict[str, Workload]:
    """What an arm was asked at every point of `summary`, and alone (ALONE). Raises UserError for a point that the
    configuration does not have."""
    plan = throughput_plan(config)
    points, loads = {point.name: point for point in plan.points}, {}
    for row in summary[summary["arm"] == BASE_ARM].to_dict("records"):
        if (point := points.get(row["point"])) is None:
            raise UserError(f"predict: point {row['point']!r} is not in the configuration; give the one of that run")
        loads[row["point"]] = Workload(
            input_len=row["input_len"],
            output_len=row["output_len"],
            num_requests=row["num_requests"],
            step_tokens=point.settings.max_num_batched_tokens,
            at_once=held_at_once(point.settings, arm, point.batch),
            cached_len=int(row.get("cached_len", 0)),
        )
    return loads | {ALONE: Workload(plan.latency.input_len, plan.latency.output_len)}


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted is the directory of a run, which holds throughput/")
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a table ({error})") from None
    if missing := sorted(COLUMNS[path.name] - set(table.columns)):
        raise UserError(f"{path}: columns are missing: {', '.join(missing)}")
    if BASE_ARM not in set(table["arm"]):
        raise UserError(f"{path}: no row of the arm {BASE_ARM!r}")
    return table


def check_report(table: pd.DataFrame, machine: Machine) -> str:
    """The table, the fitted machine, and the errors of each quantity and of all."""
    shown = table.drop(columns="kind").to_string(index=False, float_format=lambda value: f"{value:.3f}")
    rates = (
        f"{machine.flops[-1]:.3g} FLOP/s ({machine.flops[0]:.3g} in narrow steps, {machine.attention:.3g} attention)"
    )
    speed = f"{machine.bandwidth:.3g} bytes/s, {1e3 * machine.overhead_s:.3g} ms a step"
    groups = [*table.groupby("quantity", sort=False), ("all", table)]
    return "\n".join([shown, f"machine: {machine.name}, {rates}, {speed}", *error_lines(groups, "ratios")])


def error_lines(groups: Iterable[tuple[str, pd.DataFrame]], what: str) -> list[str]:
    """A line per named group of rows: how many of `what` they are, their median and worst absolute error, and the bias
    (the geometric mean of predicted over measured, less 1)."""
    lines = []
    for name, rows in groups:
        off, bias = rows["error"].abs(), np.expm1(np.log1p(rows["error"]).mean())
        spread = f"error {off.median():.1%} in the median, {off.max():.1%} at worst, bias {bias:+.1%}"
        lines.append(f"{name}: {len(rows)} {what}, {spread}")
    return lines
