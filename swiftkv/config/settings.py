"""The whole configuration as one model, with the rules between its sections; and its JSON schema."""

from functools import cache
from typing import Self

from pydantic import Field, model_validator
from pydantic.json_schema import GenerateJsonSchema

from swiftkv.config.fields import Name, Section, Seed, wrong
from swiftkv.config.measuring import CONTROLS, Lengths, Served, Similarity, Throughput, Verify
from swiftkv.config.scoring import Accuracy, Diagnosis, Divergence, Protocol
from swiftkv.config.training import Ablations, Base, Distill, Parallel, Tasks, TrainBase, Variant

BASE_ARM = "base"
UNDISTILLED = "-undistilled"
# Directories below results/ that are no scale's.
RESERVED_SCALES = ("reference", "plan", "bundle", "browser")
# Lists of variants by section and key, and whether one that would be left without a name takes all variants.
CHOICES = (("accuracy", "undistilled", False), ("served", "arms", True))


class Settings(Section):
    """What is measured, on which model, with which seed. `extends: other.yaml` is resolved before validation."""

    scale: Name = Field(description="Name of the scale; results go to results/<scale>/.")
    seed: Seed = Field(description="Seed of everything random.")
    base: Base
    tasks: Tasks
    train_base: TrainBase
    variants: list[Variant] = Field(min_length=1, description="The SwiftKV students.")
    parallel: Parallel | None = None
    distill: Distill
    verify: Verify
    throughput: Throughput
    served: Served | None = None
    accuracy: Accuracy
    protocol: Protocol | None = None
    lengths: Lengths
    diagnosis: Diagnosis | None = None
    divergence: Divergence | None = None
    similarity: Similarity
    ablations: Ablations | None = None

    @model_validator(mode="after")
    def scale_has_a_directory_of_its_own(self) -> Self:
        if self.scale.lower() in RESERVED_SCALES:
            raise wrong(
                "scale",
                f"{self.scale!r} is not allowed; results/{'|'.join(RESERVED_SCALES)} are kept for other things, so "
                "choose another name",
            )
        return self

    @model_validator(mode="after")
    def variants_have_names_of_their_own(self) -> Self:
        names = [variant.name for variant in self.variants]
        if taken := [name for name in names if name.endswith(UNDISTILLED)]:
            raise wrong("variants", f"{taken[0]!r} is not allowed; names that end in {UNDISTILLED} are controls'")
        if taken := {*names} & {*CONTROLS}:
            raise wrong("variants", f"{min(taken)!r} is not allowed; it is the name of a control (throughput.controls)")
        if len(set(names)) < len(names) or BASE_ARM in names:
            raise wrong("variants", f"names must differ from each other and from {BASE_ARM!r}, got {names}")
        return self

    @model_validator(mode="after")
    def chosen_variants_are_there(self) -> Self:
        names = [variant.name for variant in self.variants]
        for section, key, _ in CHOICES:
            for name in getattr(getattr(self, section), key, ()):
                if name not in names:
                    raise wrong(f"{section}.{key}", f"{name!r} is not a variant; allowed are {names}")
        return self


class Plain(GenerateJsonSchema):
    """A schema without what nobody reads: null, which no key takes, and titles that repeat the key."""

    def nullable_schema(self, schema: dict) -> dict:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: dict) -> dict:
        left_out = schema.get("default") is None
        return self.generate_inner(schema["schema"]) if left_out else super().default_schema(schema)

    def field_title_should_be_set(self, schema: dict) -> bool:
        return False


@cache
def json_schema() -> dict:
    """The JSON schema of a configuration, for editors, the documentation and error messages."""
    schema = Settings.model_json_schema(schema_generator=Plain)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "Run configuration"}
