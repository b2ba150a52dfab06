"""Interleaved rounds of measurements that survive a kill.

A round is one repeat of one workload: every arm once, right after one another. Each measurement is a file, written
atomically, under a directory named after everything that decides its value; the directory of a round is complete when
it holds every arm. After a kill complete rounds are kept and an incomplete one is measured again as a whole, because
its arms would otherwise not have run side by side.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from swiftkv import devices, files, provenance

SOURCES = provenance.engine_source_files()
FORMAT = 3  # of a kept measurement; 3 holds the tokens found in the prefix cache


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


class Rounds:
    """The measurements under `work`. A round that is measured again becomes a new attempt; the last counts.

    `key` stands for what decides every measurement, `decisive` says by name what else decides those of one workload.
    """

    def __init__(self, work: Path, key: str, arms: list[str], decisive: Mapping[str, object] | None = None):
        self.work, self.key, self.arms, self.decisive = Path(work), key, arms, decisive or {}

    def _folder(self, name: str) -> Path:
        key = files.digest([self.key, self.decisive[name]]) if name in self.decisive else self.key
        return self.work / key / name

    def _path(self, name: str, number: int, attempt: int) -> Path:
        return self._folder(name) / f"{number:03d}-{attempt}"

    def _complete(self, name: str, number: int, attempt: int) -> bool:
        return all((self._path(name, number, attempt) / f"{arm}.json").is_file() for arm in self.arms)

    def attempts(self, name: str, number: int) -> int:
        """How many complete attempts there are; they are numbered from 0 without gaps."""
        attempt = 0
        while self._complete(name, number, attempt):
            attempt += 1
        return attempt

    def read(self, name: str, number: int, attempt: int | None = None) -> list[dict]:
        """Rows of one attempt (default: the last) in the order they were measured."""
        attempt = self.attempts(name, number) - 1 if attempt is None else attempt
        directory = self._path(name, number, attempt)
        rows = [files.read_json(directory / f"{arm}.json") for arm in self.arms]
        return sorted(rows, key=lambda row: row["position"])

    def span(self) -> list[str]:
        """When the first and the last measurement were made (UTC); a rerun that finds them there is later."""
        folders = [self.work / self.key, *map(self._folder, self.decisive)]
        times = [path.stat().st_mtime for folder in folders for path in files.finished(folder, "**/*.json")]
        return [datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds") for one in (min(times), max(times))]

    def measure(self, name: str, number: int, measure_arm: Callable[[str], dict]) -> None:
        """Measure every arm once as a new attempt. The arm that goes first rotates with `number` and the attempt."""
        attempt = self.attempts(name, number)
        directory = self._path(name, number, attempt)
        shutil.rmtree(directory, ignore_errors=True)  # left behind by a kill
        start = (number + attempt) % len(self.arms)
        for position, arm in enumerate(self.arms[start:] + self.arms[:start]):
            files.write_json(directory / f"{arm}.json", measure_arm(arm) | {"position": position})
