"""What speaks about a student directory: the record of how it was made, and the results that are its own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig, SwiftKVVariant
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import STUDENT_TYPES, read_config, weight_files
from swiftkv.registry import FILES
from swiftkv.results import Results, read_rows, require

Hashes = dict[str, str]  # file name -> sha256


def read_record(path: Path) -> dict:
    """The provenance beside `path`; empty if there is none."""
    record = Path(f"{path}.provenance.json")
    return files.read_json(record) if record.is_file() else {}


def digests(hashes: Hashes) -> str:
    """The sha256 of every weight file, in one line."""
    return ", ".join(hashes.values()) or "not recorded"


@dataclass(frozen=True)
class Evidence:
    """Records and results of the student in `directory`, which is `variant` of `config`."""

    config: RunConfig
    variant: SwiftKVVariant
    directory: Path

    @cached_property
    def shape(self) -> dict:
        """config.json. Raises UserError if it is not a student's."""
        return read_config(self.directory, STUDENT_TYPES)

    @property
    def dtype(self) -> str:
        return self.shape.get("dtype") or self.shape.get("torch_dtype") or "float32"

    @cached_property
    def weights(self) -> Hashes:
        return {path.name: files.sha256(path) for path in weight_files(self.directory)}

    @cached_property
    def record(self) -> dict:
        """The provenance of the student, also of one that was exported before; empty if there is none."""
        record = read_record(self.directory / "config.json")
        return record.get("student", record)

    @property
    def teacher(self) -> Hashes:
        """The weights the student was made from; empty if that is not recorded."""
        return {Path(path).name: digest for path, digest in self.record.get("data_sha256", {}).items()}

    @cached_property
    def base_dir(self) -> Path | None:
        """The base model's directory, if it is still there and holds the model that the student was made from."""
        directory = next((Path(path).parent for path in self.record.get("data_sha256", {})), None)
        if directory is None or not directory.is_dir():
            return None
        # The same path may hold another model by now, whatever the record of an earlier one says.
        there = [files.sha256(path) for path in sorted(directory.glob("*.safetensors"))]
        return directory if sorted(there) == sorted(self.teacher.values()) else None

    @property
    def base(self) -> dict:
        """Where the base is from, in the form of the config's `base`; empty if that is not recorded."""
        if self.base_dir is None:
            return {}
        return read_record(self.base_dir / "config.json").get("base", {"source": "local", "path": str(self.base_dir)})

    @cached_property
    def results(self) -> Results:
        return Results(self.config.scale, self.config.results)

    def rows(self, frame: str) -> pd.DataFrame:
        """The student's rows of a frame; none if it was not measured."""
        if not self.results.has(frame):
            return pd.DataFrame()
        rows = self.results.frame(frame)
        return rows[rows.arm == self.variant.name]

    def samples(self, arm: str) -> Path:
        """The scored items of an arm."""
        return self.results.directory / FILES["samples"].path.format(arm=arm)

    @property
    def scoring(self) -> dict:
        """The provenance of the student's scores."""
        return read_record(self.samples(self.variant.name))

    def check_variant(self) -> None:
        """Raise UserError unless cut and AcrossKV group are those of the variant."""
        own = self.shape["num_key_value_layers"], self.shape.get("key_value_group_size", 1)
        named = self.variant.num_key_value_layers(self.shape["num_hidden_layers"]), self.variant.key_value_group_size
        if own != named:
            raise UserError(
                f"{self.directory}: cut and AcrossKV group are {own}, those of variant {self.variant.name} {named}"
            )

    def scores(self) -> pd.DataFrame:
        """Rows of accuracy/summary.csv; none if the student was not scored.

        Raises UserError if the scores are those of other weights than the student's, or than its base's.
        """
        scores = self.rows("accuracy")
        if not scores.empty:
            self.check_scored(self.variant.name, self.weights, f"{self.directory}")
            if self.teacher:
                self.check_scored(BASE_ARM, self.teacher, f"the base that {self.directory} was made from")
        return scores

    def check_scored(self, arm: str, weights: Hashes, owner: str) -> None:
        """Raise UserError unless the summary's scores of `arm` are those of `weights`, naming both."""
        samples = self.samples(arm)
        self.results.must_exist(samples)
        hashes = read_record(samples).get("model_sha256", {})
        scored = {name: digest for name, digest in hashes.items() if name.endswith(".safetensors")}
        if sorted(scored.values()) != sorted(weights.values()):
            raise UserError(
                f"{samples}: belongs to weights {digests(scored)}, not to those of {owner}, {digests(weights)}; "
                f"score the model again with `swiftkv accuracy --arm {arm}`"
            )
        if files.sha256(samples) not in (self.results.provenance("accuracy") or {}).get("data_sha256", {}).values():
            raise UserError(f"{self.results.path('accuracy')}: not made from {samples}; run `swiftkv accuracy-summary`")

    @cached_property
    def distillation(self) -> tuple[pd.DataFrame, dict]:
        """The student's rows of the distill.jsonl beside it, and that file's provenance; empty if there is none.

        Raises UserError if the file belongs to another run than the student.
        """
        path = self.directory.parent / FILES["distill"].file
        run = read_record(path)
        if self.record.get("stage") != "distill" or not run or not path.is_file():
            return pd.DataFrame(), {}
        during = run["start"] <= self.record["start"] <= run["end"]
        if not during or not set(self.teacher.values()) <= set(run["data_sha256"].values()):
            raise UserError(
                f"{path}: record of the run from {run['start']} to {run['end']}, but {self.directory} was written at "
                f"{self.record['start']} or from another base; distil again, or move that record away"
            )
        curve = read_rows(path)
        if not curve.empty:
            curve = require(curve, FILES["distill"].columns, path)
            curve = curve[curve.variant == self.variant.name]
        return curve, run
