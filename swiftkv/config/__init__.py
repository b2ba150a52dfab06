"""The run configuration: what is measured, on which model, with which seed. Nothing about machines.

A config file may name another one under `extends`; its own keys win. The result is validated by the models of this
package (`settings.Settings`), and an error names the key, the value and what is allowed.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from swiftkv import files
from swiftkv.config import measuring, scoring, training, words
from swiftkv.config.settings import BASE_ARM, CHOICES, UNDISTILLED, Settings, json_schema
from swiftkv.errors import UserError
from swiftkv.files import ROOT
from swiftkv.layers import Layers, nearest_cut

__all__ = [
    "BASE_ARM", "ROOT", "TRAINED", "UNDISTILLED", "RunConfig", "SwiftKVVariant", "campaign", "check_cut", "freeze",
    "lay", "load_config", "merge", "read_layers", "validate", "words",
]  # fmt: skip

TRAINED = "trained.safetensors"  # what a student's trained tensors are called where they lie apart from its base


@dataclass(frozen=True)
class SwiftKVVariant:
    """One SwiftKV student: the cut and the AcrossKV group (paper, sections 3.2 and 3.3).

    `skip` is the share of layers that prompt tokens skip, (L - l) / L with l = num_key_value_layers;
    `key_value_group_size` is the number of late layers that share one KV cache (1 = no AcrossKV); `distill` holds
    the settings in which this student's distillation differs from the configuration's; `start` is a directory of
    trained tensors that it goes on from. Where the configuration names `cut` = l in place of a share, `depth` is the L
    that it counts in.
    """

    name: str
    skip: float
    key_value_group_size: int = 1
    distill: dict = field(default_factory=dict)
    start: str | None = None
    cut: int | None = None
    depth: int | None = None

    @classmethod
    def of(cls, raw: dict, depth: int) -> "SwiftKVVariant":
        """A variant as the configuration writes it, in a run on models of `depth` layers."""
        if (cut := raw.get("cut")) is None:
            return cls(**raw)
        return cls(**raw, skip=1 - cut / depth, depth=depth)

    @property
    def start_file(self) -> Path | None:
        """The trained tensors to go on from: in `start` as given, or relative to the project. Raises UserError."""
        if self.start is None:
            return None
        if (path := files.in_project(Path(self.start) / TRAINED, Path.is_file)) is None:
            raise UserError(
                f"variants.{self.name}.start: {self.start} holds no {TRAINED}; `swiftkv export --trained-only` writes "
                "one"
            )
        return path

    def recipe(self, shared: training.Distill) -> training.Distill:
        """The settings of this student's distillation: its own in place of those that all `shared`."""
        return training.Distill.model_validate(shared.model_dump(exclude_unset=True) | self.distill)

    def num_key_value_layers(self, num_hidden_layers: int) -> int:
        """The cut l for a model of `num_hidden_layers`. Raises UserError if l is not whole, groups do not divide, or
        a cut is named for models of another depth."""
        if self.cut is not None and num_hidden_layers != self.depth:
            raise UserError(
                f"variants.{self.name}.cut: {self.cut} is of the {self.depth} layers of throughput.model, and this "
                f"model has {num_hidden_layers}; allowed there is a share, skip"
            )
        run = num_hidden_layers * (1 - self.skip)
        cut = nearest_cut(num_hidden_layers, self.skip)
        if abs(run - cut) > 1e-6:
            near = " or ".join(str(layers) for layers in (int(run), int(run) + 1) if layers)
            raise UserError(
                f"variants.{self.name}.skip: {self.skip} of {num_hidden_layers} layers is not a whole number of "
                f"layers; nearest is cut: {near}"
            )
        check_cut(cut, num_hidden_layers, self.key_value_group_size, where=f"variants.{self.name}")
        return cut


def check_cut(cut: int, num_hidden_layers: int, group: int, where: str = "config") -> None:
    """Raise UserError unless 1 <= cut <= num_hidden_layers and `group` divides the late layers."""
    if problem := Layers(num_hidden_layers, cut, group).problem:
        raise UserError(f"{where}: {problem}")


class Part(cached_property):
    """A section as its model, made when it is first asked for; None where the section is left out."""

    def __init__(self, model: type[BaseModel]):
        super().__init__(self.read)
        self.model = model

    def read(self, config: "RunConfig") -> BaseModel | None:
        if self.attrname not in config.raw:
            return None
        return check(self.model, config.raw[self.attrname], config.path, (self.attrname,))


@dataclass(frozen=True)
class RunConfig:
    """A validated configuration: its sections, and what all stages ask for. `raw` is what was written, every key of it;
    it goes into hashes of kept measurements and into provenance."""

    raw: dict = field(repr=False)
    path: str

    base = Part(training.Base)
    train_base = Part(training.TrainBase)
    distill = Part(training.Distill)
    verify = Part(measuring.Verify)
    throughput = Part(measuring.Throughput)
    served = Part(measuring.Served)
    accuracy = Part(scoring.Accuracy)
    protocol = Part(scoring.Protocol)
    lengths = Part(measuring.Lengths)
    diagnosis = Part(scoring.Diagnosis)
    divergence = Part(scoring.Divergence)
    similarity = Part(measuring.Similarity)
    ablations = Part(training.Ablations)

    @property
    def scale(self) -> str:
        return self.raw["scale"]

    @property
    def seed(self) -> int:
        return self.raw["seed"]

    @property
    def sha256(self) -> str:
        return files.digest(self.raw, 64)

    @property
    def results(self) -> Path:
        """The directory of this scale's results, relative to the working directory."""
        return Path("results") / self.scale

    @property
    def tasks(self) -> dict[str, dict]:
        """The settings of every task, as generators of tasks and hashes of what they made take them."""
        return self.raw["tasks"]

    @property
    def scored_tasks(self) -> dict[str, dict]:
        """The generated tasks that are scored: none where no item of them is asked for."""
        return self.tasks if self.accuracy.items_per_task else {}

    @property
    def shape(self) -> dict:
        """The benchmark model's shape (`throughput.model`) under the names of a config.json, like any other model's."""
        return self.raw["throughput"]["model"]

    @cached_property
    def parallel(self) -> training.Parallel:
        """How one job uses several GPUs; one GPU unless configured."""
        return check(training.Parallel, self.raw.get("parallel", {}), self.path, ("parallel",))

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs of an engine (vLLM's word for it)."""
        return self.parallel.tensor_parallel_size

    @property
    def fsdp_world_size(self) -> int:
        """Processes of the distillation, a GPU each."""
        return self.parallel.fsdp_world_size

    @property
    def variants(self) -> list[SwiftKVVariant]:
        return [SwiftKVVariant.of(variant, self.shape["num_hidden_layers"]) for variant in self.raw["variants"]]

    def variant(self, name: str) -> SwiftKVVariant:
        """The variant called `name`. Raises UserError listing the names there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise UserError(f"variant {name!r}: not in the config; there are {[v.name for v in self.variants]}")

    @property
    def accuracy_arms(self) -> list[str]:
        """Every model that is scored: the base, each distilled student, and the undistilled controls."""
        controls = [name + UNDISTILLED for name in self.accuracy.undistilled]
        return [BASE_ARM, *(v.name for v in self.variants), *controls]

    @property
    def served_arms(self) -> list[str]:
        """Every model that is served under load: the base, and the variants of `served.arms`."""
        return [BASE_ARM, *(v.name for v in self.variants if v.name in self.served.arms)]

    def model_dir(self, arm: str) -> Path:
        """Where the pipeline keeps the model of an arm (the base, a student, or an undistilled control)."""
        return self.results / "models" / arm


def merge(base: dict, change: dict) -> dict:
    """`base` with `change` laid over it: mappings merge key by key, everything else is replaced."""
    merged = copy.deepcopy(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def lay(raw: dict, change: dict) -> dict:
    """`merge` of configurations. Where `change` brings variants of its own, lists of variants that `raw` had chosen and
    `change` does not mention lose the names that are gone; where it brings another base, what `raw` had said of a GGUF
    file is gone, too."""
    merged = merge(raw, change)
    before, base = raw.get("base"), change.get("base")
    both = isinstance(before, dict) and isinstance(base, dict)
    if both and any(base.get(key, before.get(key)) != before.get(key) for key in ("source", "path")):
        gone = set(training.GGUF_KEYS) - base.keys()
        merged["base"] = {key: value for key, value in merged["base"].items() if key not in gone}
    if not isinstance(change.get("variants"), list):
        return merged
    names = [variant.get("name") for variant in change["variants"] if isinstance(variant, dict)]
    for section, key, never_empty in CHOICES:
        chosen = merged.get(section, {})
        if isinstance(chosen, dict) and isinstance(chosen.get(key), list) and key not in change.get(section, {}):
            chosen[key] = [name for name in chosen[key] if name in names] or names * never_empty
    return merged


class OneOfEachKey(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's loader silently keeps the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.composer.ComposerError(None, None, f"the key {twice[0]!r} is there twice", node.start_mark)
        return node


def read_layers(path: str | Path, seen: tuple = ()) -> dict:
    """Read a YAML config and what it extends. Raises UserError for a missing file, bad YAML or a loop."""
    path = Path(path)
    try:
        if path.resolve() in seen:
            raise UserError(f"{path}: 'extends' runs in a circle")
        raw = yaml.load(path.read_text(encoding="utf-8"), OneOfEachKey)  # a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a config is a YAML file") from None
    except RecursionError:
        raise UserError(f"{path}: not a config, it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, or a date or a number that cannot be
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config must be a mapping, not {type(raw).__name__}")
    if "extends" not in raw:
        return raw
    parent = raw.pop("extends")
    if not isinstance(parent, str) or not parent or "\0" in parent:
        raise UserError(f"{path}: {words.not_allowed('extends', parent, 'the path of a config file')}")
    return lay(read_layers(path.parent / parent, (*seen, path.resolve())), raw)


def check(model: type[BaseModel], raw: Any, where: str, path: tuple = ()) -> BaseModel:
    """`raw`, which lies at `path` of a configuration, as `model`. Raises UserError."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = [{**one, "loc": (*path, *one["loc"])} for one in error.errors(include_url=False)]
        raise UserError(f"{where}: {words.explain(errors, json_schema())}") from None


def validate(raw: dict, where: str) -> None:
    """Check `raw`, which stays as it is: kept measurements and provenance hash what was written. Raises UserError."""
    check(Settings, raw, where)


def load_config(path: str | Path = "config/config.yaml") -> RunConfig:
    """Read, merge and validate a configuration file. Raises UserError naming file, key and what is allowed."""
    raw = read_layers(path)
    validate(raw, str(path))
    return RunConfig(raw=raw, path=str(path))


EARLIER = {"throughput": {"restarts": 1}}  # what earlier versions did where config/config.yaml asks for something else


def config_of_run(directory: Path, given: Path | None = None) -> RunConfig | None:
    """The configuration of a run, `given` or the one that lies in its directory; None if there is none. What an earlier
    version did not know yet is as in config/config.yaml, or as it was (EARLIER). Raises UserError as `load_config`."""
    path = given or directory / "config.yaml"
    if given is None and not path.is_file():
        return None
    raw = merge(merge(read_layers(ROOT / "config" / "config.yaml"), EARLIER), read_layers(path))
    validate(raw, str(path))
    return RunConfig(raw, str(path))


def campaign(paths: Sequence[str] | None) -> dict[str, dict]:
    """The configurations of several runs of one DAG, by scale. Raises UserError if two share a scale: their results
    would lie in one place."""
    if not isinstance(paths, list) or not paths:
        raise UserError(f"runs: {paths!r} is not allowed; allowed is a list of configuration files")
    runs = {}
    for path in paths:
        config = load_config(path)
        if config.scale in runs:
            raise UserError(f"{path}: scale {config.scale!r} is also that of another run; allowed is a scale per run")
        runs[config.scale] = config.raw
    return runs


def resolve(raw: dict, overlays: Sequence[str | Path] = (), given: Mapping | None = None) -> RunConfig:
    """Validate a mapping (Snakemake's `config`); its path is results/<scale>/config.yaml, to which `freeze` writes it.

    Snakemake knows no `extends`: `overlays` are its --configfile files, and `given` is what these and --config say.
    """
    # Snakemake has merged the overlays already, but not what they extend; `given` goes over it once more.
    for path in overlays:
        raw = lay(raw, read_layers(path))
    raw = {key: value for key, value in lay(raw, given or {}).items() if key != "extends"}
    validate(raw, "config")
    return RunConfig(raw=raw, path=str(Path("results") / raw["scale"] / "config.yaml"))


def freeze(config: RunConfig) -> None:
    """Write a configuration to its path, from where every command reads it, unless the same stands there."""
    path, text = Path(config.path), yaml.safe_dump(config.raw, sort_keys=False)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
