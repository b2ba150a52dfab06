"""The one reader of results/<scale>/: tables, figures, claims and notebooks take their numbers from here.

    results = load("cpu")
    results.throughput            # a pandas frame, columns as listed in `registry`
    results.origin("throughput")  # where it came from: hardware, commit, scale, file

A missing or malformed file raises UserError with the file's name and the command that makes it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, ROOT
from swiftkv.errors import UserError
from swiftkv.registry import ALL_FRAMES, COUNTS, FILES, FRAMES

PUBLISHED = ROOT / "config" / "published.csv"


def read_rows(path: Path) -> pd.DataFrame:
    """A CSV, JSON Lines or gates JSON file as a frame. Raises UserError for a missing or unreadable file."""
    if path.suffix == ".csv":
        try:
            return pd.read_csv(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a CSV table ({error})") from None
    if path.suffix == ".json":
        document = files.read_json(path)
        return pd.DataFrame(document["gates"] if isinstance(document, dict) and "gates" in document else [])
    return pd.DataFrame(files.read_jsonl(path))


def require(frame: pd.DataFrame, columns: Iterable[str], path: Path) -> pd.DataFrame:
    """`frame` if it has rows and all `columns`; raises UserError naming the file and what is missing."""
    if frame.empty:
        raise UserError(f"{path}: has no rows")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing; it has {', '.join(frame.columns)}")
    return frame


@dataclass(frozen=True)
class Origin:
    """Where a result came from, in the words of its provenance file ("unknown" where there is none)."""

    hardware: str
    git: str
    scale: str
    path: str
    weights: str | None = None  # "dummy" where a benchmark model has random weights

    def __str__(self) -> str:
        random = "  |  random weights" if self.weights == "dummy" else ""
        return f"{self.hardware}{random}  |  git {self.git}  |  scale {self.scale}  |  {self.path}"


@dataclass
class Results:
    """Every result of one scale, read on first use. `directory` is results/<scale>."""

    scale: str
    directory: Path
    _frames: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> Path:
        """The file behind a frame, whether or not it exists."""
        return self.directory / ALL_FRAMES[name].path

    def frame(self, name: str) -> pd.DataFrame:
        """A copy of the frame `name`. Raises UserError naming the file and the command that makes it."""
        if name not in ALL_FRAMES:
            known = ", ".join([*ALL_FRAMES, "samples", "parameters"])
            raise UserError(f"results: no frame {name!r}; there are {known}")
        if name not in self._frames:
            path, columns = self.path(name), ALL_FRAMES[name].columns
            self.must_exist(path)
            rows = read_rows(path)
            empty = rows.empty and ALL_FRAMES[name].may_be_empty
            self._frames[name] = pd.DataFrame(columns=columns) if empty else require(rows, columns, path)
        return self._frames[name].copy()

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in ALL_FRAMES:
            raise AttributeError(name)
        return self.frame(name)

    def has(self, name: str) -> bool:
        """Whether the file behind a frame exists."""
        return self.path(name).is_file()

    def must_exist(self, path: Path) -> None:
        """Raise UserError with the Snakemake target that makes `path`, unless it exists."""
        if not path.exists():
            target = f"results/{self.scale}/{path.relative_to(self.directory).as_posix()}"
            raise UserError(f"{path}: no such result; make it with `snakemake --cores all {target}`")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Every answer of every arm: a row per arm, task, item and `sample_seed` ("greedy" where nothing was drawn)."""
        samples = FILES["samples"]
        paths = files.finished(self.directory, samples.pattern)
        if not paths:
            self.must_exist(self.directory / samples.path.format(arm=BASE_ARM))
        frame = pd.concat([require(read_rows(path), samples.columns, path) for path in paths], ignore_index=True)
        return frame if "sample_seed" in frame else frame.assign(sample_seed="greedy")

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """Parameter counts per student, from the safetensors headers: arm, trained, base, share.

        Published evidence has no models; it holds the counts as a file.
        """
        if (counted := self.directory / COUNTS).is_file():
            return read_rows(counted)
        base = sum(self.tensor_sizes(BASE_ARM).values())
        rows = []
        for path in files.finished(self.directory, "models/*/config.json"):
            sizes = self.tensor_sizes(path.parent.name)
            trained = sum(size for name, size in sizes.items() if "_swiftkv" in name)
            rows.append({"arm": path.parent.name, "trained": trained, "base": base, "share": trained / base})
        return pd.DataFrame(rows)

    def tensor_sizes(self, arm: str) -> dict[str, int]:
        """Number of elements of every tensor of an arm's checkpoint; reads headers only."""
        from safetensors import SafetensorError, safe_open

        directory, sizes = self.directory / "models" / arm, {}
        shards = sorted(directory.glob("*.safetensors"))
        if not shards:
            self.must_exist(directory / "model.safetensors")
        for shard in shards:
            try:
                with safe_open(shard, framework="numpy") as tensors:
                    shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise UserError(f"{shard}: not a safetensors file ({error})") from None
            sizes |= {name: int(pd.Series(shape, dtype="int64").prod()) for name, shape in shapes.items()}
        return sizes

    @cached_property
    def base_config(self) -> dict:
        """config.json of the base model of this scale."""
        path = self.directory / "models" / BASE_ARM / "config.json"
        self.must_exist(path)
        return files.read_json(path)

    def provenance(self, name: str) -> dict | None:
        """The provenance record beside a frame's file; None if there is none."""
        path = Path(f"{self.path(name)}.provenance.json")
        return files.read_json(path) if path.is_file() else None

    def origin(self, name: str) -> Origin:
        """Hardware, commit, scale and file of a frame, for footers and the claims table."""
        from swiftkv.provenance import hardware_label

        record = self.provenance(name) or {}
        git = record.get("git") or {}
        sha = (git.get("sha") or "unknown")[:9] + ("+changes" if git.get("dirty") else "")
        hardware = hardware_label(record["hardware"]) if record.get("hardware") else "hardware unknown"
        path = f"results/{self.scale}/{ALL_FRAMES[name].path}"
        return Origin(hardware, sha, self.scale, path, record.get("weights"))


def find_root(scale: str) -> Path:
    """Where `scale` has results: $SWIFTKV_RESULTS, ./results, ../results, else committed reference results.

    Raises UserError listing the places that were looked at.
    """
    named = os.environ.get("SWIFTKV_RESULTS")
    places = [Path(named)] if named else [Path("results"), Path("../results"), ROOT / "results"]
    references = [] if named else sorted(files.REFERENCE.glob("*"))
    for place in [*places, *references]:
        if any((place / scale / file.path).is_file() for file in FRAMES.values()):
            return place
    looked = ", ".join(str(place / scale) for place in places)
    raise UserError(f"no results of scale {scale!r}: looked at {looked}; make them with `snakemake --cores all`")


def load(scale: str, root: str | Path = "results") -> Results:
    """The results of one scale. Frames are read lazily, so a partial run can be looked at.

    Raises UserError if `root/scale` is not a directory.
    """
    directory = Path(root) / scale
    if not directory.is_dir():
        raise UserError(f"{directory}: no results of scale {scale!r} here; make them with `snakemake --cores all`")
    return Results(scale=scale, directory=directory)


def published(path: str | Path = PUBLISHED) -> pd.DataFrame:
    """Published figures by id; `seen` is S (primary text), S2 (third-party digest) or D (derived here)."""
    frame = require(read_rows(Path(path)), ["id", "source", "place", "value", "unit", "seen"], Path(path))
    return frame.set_index("id")
