"""The runs that a page shows: a run that stands alone, or all that lie below a directory."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from swiftkv.config import BASE_ARM, UNDISTILLED, RunConfig, config_of_run
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.registry import ALL_FRAMES
from swiftkv.report.plots.style import CONTROL_LABELS, GREY, MARKERS, PALETTE, arm_labels, looks
from swiftkv.results import Results

# matplotlib's names of markers -> Vega's; `P` and `X` are a cross and a triangle that no other student has.
SHAPES = dict(zip(MARKERS, "circle square diamond triangle-up triangle-down cross triangle-right".split(), strict=True))
VERDICTS = ("claims", "served_claims")  # frames that hold verdicts
SHOWN = (*VERDICTS, "throughput", "latency", "kv_capacity", "accuracy", "divergence", "served", "predictions")


@dataclass(frozen=True, eq=False)
class Run:
    """A run under the name that the page gives it: its scale, or `machine/run` among others."""

    name: str
    results: Results
    config: RunConfig | None = None

    def frame(self, name: str) -> pd.DataFrame | None:
        """A frame of the results; None if the run does not have it, or it is damaged, as `lack` says."""
        return None if self.lack(name) else self.results.frame(name)

    def lack(self, name: str) -> str:
        """Why there is no such frame; an empty text if there is one."""
        if not self.results.has(name):
            return "not there"
        try:
            self.results.frame(name)
        except UserError as error:
            return str(error).replace(str(self.results.directory), f"results/{self.results.scale}")
        return ""

    @property
    def machine(self) -> str:
        """The directory that names the machine; of a run that stands alone its own name."""
        return self.name.split("/")[0]

    @cached_property
    def origin(self) -> str:
        """Hardware and commit of the first frame there is, in words."""
        first = next(name for name in (*SHOWN[len(VERDICTS) :], *ALL_FRAMES) if self.results.has(name))
        origin = self.results.origin(first)
        random = ", random weights" if origin.weights == "dummy" else ""
        return f"{origin.hardware}{random}, git {origin.git}"

    @cached_property
    def labels(self) -> dict[str, str]:
        """Arm -> what it skips and shares, as figures say it."""
        return CONTROL_LABELS | (arm_labels(self.config) if self.config else {})

    @cached_property
    def looks(self) -> dict[str, tuple[str, str]]:
        """Arm -> colour and shape, those of every figure."""
        found = looks(self.config) if self.config else {}
        return {arm: (PALETTE[look], SHAPES[MARKERS[look]]) for arm, look in found.items()}

    def label(self, arm: str) -> str:
        """In words; an arm that no configuration explains has its own name."""
        return self.labels.get(arm, arm)

    def look(self, arm: str) -> tuple[str, str]:
        """Colour and shape; an undistilled control has those of its student."""
        return self.looks.get(arm.removesuffix(UNDISTILLED), ("#000000" if arm == BASE_ARM else GREY, "circle"))


def is_run(directory: Path) -> bool:
    """Whether any frame that a page shows lies there."""
    return any((directory / ALL_FRAMES[name].path).is_file() for name in SHOWN)


def open_run(directory: Path, name: str, config: Path | None = None) -> Run:
    """Raises UserError for an unusable configuration."""
    loaded = config_of_run(directory, config)
    return Run(name, Results(loaded.scale if loaded else directory.name, directory), loaded)


def find(directory: Path, config: Path | None = None) -> list[Run]:
    """The run in `directory`, else those one and two levels below it, the ones with verdicts first.

    Raises NothingToJudge if there is none.
    """
    if is_run(directory):
        return [open_run(directory, directory.name, config)]
    below = [path for pattern in ("*", "*/*") for path in sorted(directory.glob(pattern)) if is_run(path)]
    if not below:
        raise NothingToJudge(f"{directory}: holds no results, neither itself nor one or two levels below")
    runs = [open_run(path, path.relative_to(directory).as_posix()) for path in below]
    return sorted(runs, key=lambda run: not any(map(run.results.has, VERDICTS)))
