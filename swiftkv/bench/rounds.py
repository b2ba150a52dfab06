"""Interleaved rounds of measurements that survive a kill.

A round is one repeat of one workload: every arm once, right after one another, in the order of `order`. Each
measurement is a file, written atomically, under a directory named after everything that decides its value; the
directory of a round is complete when it holds every arm. After a kill complete rounds are kept and an incomplete one is
measured again as a whole, because its arms would otherwise not have run side by side.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from swiftkv import devices, files, provenance
from swiftkv.bench.conditions import watched
from swiftkv.bench.order import order
from swiftkv.config.measuring import BASE_AGAIN

SOURCES = provenance.engine_source_files()
FORMAT = 4  # of a kept measurement; 4 holds what the machine was doing


def fingerprint(variants: list[dict], seed: int, sources: Sequence[Path] = SOURCES, **settings) -> str:
    """Hash of what decides every measurement: variants as the configuration writes them, seed, versions, machine, the
    code in `sources`, and `settings`."""
    decisive = {
        "format": FORMAT,
        "variants": variants,
        "seed": seed,
        "versions": provenance.versions(),
        "hardware": provenance.hardware_label(provenance.hardware()),
        "allocator": devices.allocator(),
        "sources": [files.sha256(path) for path in sources],
        **settings,
    }
    return files.digest(decisive)


def processes(rows: Sequence[dict], arm: str) -> list[int] | None:
    """The process that measured each of an arm's rows, for `stats.ratio_ci`; None of the base measured again: on the
    base's own engine nothing differs between processes that does not cancel."""
    return None if arm == BASE_AGAIN else [row.get("restart", 0) for row in rows]


def count_processes(rows: Sequence[dict]) -> int:
    return len({row.get("restart", 0) for row in rows})


class Rounds:
    """The measurements under `work`. What is complete stays: no round is measured again.

    `key` stands for what decides every measurement, `decisive` says by name what else decides those of one workload;
    `seed` is that of the order of the arms.
    """

    def __init__(self, work: Path, key: str, arms: list[str], seed: int, decisive: Mapping[str, object] | None = None):
        self.work, self.key, self.arms, self.seed, self.decisive = Path(work), key, arms, seed, decisive or {}

    def _folder(self, name: str) -> Path:
        key = files.digest([self.key, self.decisive[name]]) if name in self.decisive else self.key
        return self.work / key / name

    def _path(self, name: str, number: int) -> Path:
        return self._folder(name) / f"{number:03d}"

    def has(self, name: str, number: int) -> bool:
        """Whether a round is complete."""
        return all((self._path(name, number) / f"{arm}.json").is_file() for arm in self.arms)

    def read(self, name: str, number: int) -> list[dict]:
        """Rows of a complete round in the order they were measured."""
        rows = [files.read_json(self._path(name, number) / f"{arm}.json") for arm in self.arms]
        return sorted(rows, key=lambda row: row["position"])

    def span(self) -> list[str]:
        """When the first and the last measurement were made (UTC); a rerun that finds them there is later."""
        folders = [self.work / self.key, *map(self._folder, self.decisive)]
        times = [path.stat().st_mtime for folder in folders for path in files.finished(folder, "**/*.json")]
        return [datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds") for one in (min(times), max(times))]

    def measure(self, name: str, number: int, measure_arm: Callable[[str], dict]) -> None:
        """Measure every arm once; rows get their `position` and what the machine was doing (`conditions.watched`)."""
        directory = self._path(name, number)
        shutil.rmtree(directory, ignore_errors=True)  # left behind by a kill
        for position, arm in enumerate(order(self.arms, number, self.seed)):
            row = watched(partial(measure_arm, arm))
            files.write_json(directory / f"{arm}.json", row | {"position": position})
