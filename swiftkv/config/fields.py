"""What the models of the configuration are made of: the section, kinds of numbers and names, and rules between keys."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator, field_validator
from pydantic_core import PydanticCustomError

NAMES = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
COMMITS = r"^[0-9a-f]{40}$"
SHA256 = r"^[0-9a-f]{64}$"
GGUF_NAMES = r"^[^/\s].*\.gguf$"
LARGEST = 2**53  # below it a float holds every whole number
RULE = "rule"  # the type of an error that brings its own words


class Section(BaseModel):
    """A mapping of the configuration. A key that may be left out has the default None, and null is not a value for it:
    whether a key is there decides what runs."""

    # Built when first used: most commands import this for one name.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def is_given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null")
        return value


def wrong(key: str, text: str) -> PydanticCustomError:
    """The violation of a rule between keys, at `key` below the section that has the rule, or at the section itself."""
    return PydanticCustomError(RULE, "{key}: {text}", {"key": key, "text": text})


def as_written(value: Any, check: Any) -> Any:
    """A number that may be whole stays as it was written: results are labelled with it, and hashes tell 1 from 1.0."""
    check(value)
    return value


def are_unique(values: list) -> list:
    if any(count > 1 for count in Counter(values).values()):
        raise ValueError("repeated")
    return values


def is_countable(value: int) -> int:
    if value >= LARGEST:
        raise wrong("", "is too large; allowed is less than 2^53")
    return value


def whole(least: int) -> Any:
    """The type of a whole number from `least` up that a machine can count to."""
    return Annotated[int, Field(ge=least), AfterValidator(is_countable)]


def is_clean(value: str) -> str:
    if "\0" in value or value != value.encode(errors="ignore").decode():
        raise wrong("", "holds a null character or half of a surrogate pair, as no name or path does")
    return value


AS_WRITTEN = WrapValidator(as_written)
Positive = Annotated[float, Field(gt=0), AS_WRITTEN]
NotNegative = Annotated[float, Field(ge=0), AS_WRITTEN]
Share = Annotated[float, Field(ge=0, le=1), AS_WRITTEN]
PositiveShare = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]
Count = whole(1)
WholeNumber = whole(0)
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's limit
Name = Annotated[str, Field(pattern=NAMES)]
Commit = Annotated[str, Field(pattern=COMMITS)]
Sha256 = Annotated[str, Field(pattern=SHA256)]
GgufName = Annotated[str, Field(pattern=GGUF_NAMES)]
Text = Annotated[str, Field(min_length=1), AfterValidator(is_clean)]
UNIQUE = (AfterValidator(are_unique), Field(json_schema_extra={"uniqueItems": True}))


def check_needs(section: Section, key: str, table: Mapping[str, str]) -> None:
    """Raise unless the keys are there that the value of `key` needs, by `table`."""
    value = getattr(section, key)
    for name in table.get(value, "").split():
        if name not in section.model_fields_set:
            raise wrong("", f"{name} is missing; {key} {value} needs {table[value].replace(' ', ', ')}")


def conditions(key: str, table: Mapping[str, str], allowed: Mapping[str, str] | None = None) -> dict:
    """The JSON schema of `check_needs`; `allowed` names all keys that a value allows, where that is not every key."""
    rules = []
    for value, names in table.items():
        then: dict = {"required": names.split()}
        if allowed is not None:
            then["propertyNames"] = {"enum": allowed[value].split()}
        rules.append({"if": {"properties": {key: {"const": value}}}, "then": then})
    return {"allOf": rules}
