"""What is allowed, in words: of a key (from its JSON schema), and of a configuration that breaks a rule."""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable

from swiftkv.config.fields import COMMITS, GGUF_NAMES, NAMES, RULE, SHA256

PATTERNS = {
    NAMES: "letters, digits, '.', '_' and '-', beginning with a letter or digit",
    COMMITS: "a commit, 40 digits of 0-9a-f",
    SHA256: "a sha256, 64 digits of 0-9a-f",
    GGUF_NAMES: "the name of a file that ends in .gguf",
}
LOWER = {"minimum": "from", "exclusiveMinimum": "above"}
UPPER = {"maximum": "up to", "exclusiveMaximum": "below"}
LONG_WORD = re.compile(r"(\S{120})\S+")
LONGEST = 120  # characters of a wrong value that are shown


def either(options: Iterable) -> str:
    """The options in a row, the last with `or`."""
    *most, last = map(str, options)
    return f"{', '.join(most)} or {last}" if most else last


def bounds(schema: dict) -> str:
    """The limits of a number, with a blank before them."""
    limits = [f"{word} {schema[key]}" for words in (LOWER, UPPER) for key, word in words.items() if key in schema]
    return "".join(f" {text}" for text in [" and ".join(limits)] if text)


def entries(schema: dict) -> str:
    """The limits of a list or a mapping, with a comma before them."""
    least = schema.get("minItems", schema.get("minProperties"))
    many = f", at least {least} {'entry' if least == 1 else 'entries'}" if least else ""
    return many + (", none twice" if schema.get("uniqueItems") else "")


def allowed(schema: dict, root: dict | None = None) -> str:
    """What the value of a key may be. `root` holds the definitions that `schema` refers to."""
    schema = resolve(schema, root or {})
    if "enum" in schema:
        return either(schema["enum"])
    if "pattern" in schema:
        return PATTERNS.get(schema["pattern"], f"text like {schema['pattern']}")
    match schema.get("type"):
        case "integer":
            return f"a whole number{bounds(schema)}"
        case "number":
            return f"a number{bounds(schema)}"
        case "string":
            return "text, not empty" if schema.get("minLength") else "text"
        case "boolean":
            return "true or false"
        case "array":
            return f"a list{entries(schema)}, each {allowed(schema['items'], root)}"
        case "object":
            keys = schema.get("properties")
            return f"a mapping{entries(schema)}{' with the keys ' + ', '.join(sorted(keys)) if keys else ''}"
    return json.dumps(schema.get("const", "anything"))


def resolve(schema: dict, root: dict) -> dict:
    """A schema with what it refers to; what is said at the reference wins."""
    if "$ref" not in schema:
        return schema
    *_, name = schema["$ref"].split("/")
    return {**root["$defs"][name], **{key: value for key, value in schema.items() if key != "$ref"}}


def at(root: dict, path: Iterable) -> dict:
    """The schema of the key at `path`."""
    schema = root
    for part in path:
        schema = resolve(schema, root)
        if part == "[key]":  # pydantic's name for a key that is itself wrong
            return {"type": "string"}
        if isinstance(part, int) and "items" in schema:
            schema = schema["items"]
        else:
            schema = schema.get("properties", {}).get(part) or schema["additionalProperties"]
    return schema


def dotted(path: Iterable, *more: str) -> str:
    return ".".join(str(part) for part in (*path, *more) if part != "")


def about(key: str, text: str) -> str:
    """What is said of a key, or of the whole configuration where there is none."""
    return f"{key}: {text}" if key else text


def unknown(key: str, names: Iterable, known: Iterable[str]) -> str:
    """One line about keys below `key` that are not `known`, with the known one that a wrong one resembles."""
    names, known = sorted(map(str, names)), sorted(known)
    close = [match for name in names for match in difflib.get_close_matches(name, known, n=1)]
    hint = f" (did you mean {either(map(repr, close))}?)" if close else ""
    plural = "s" if len(names) > 1 else ""
    return about(key, f"unknown key{plural} {', '.join(map(repr, names))}{hint}; allowed are {', '.join(known)}")


def not_allowed(key: str, value: object, words: str) -> str:
    """One line about a value."""
    return about(key, f"{shown(value)} is not allowed; allowed is {words}")


def shown(value: object) -> str:
    """A value as it was written, or the beginning of it: a list may be long, deep, or hold itself."""
    try:
        text = reprlib.repr(value) if isinstance(value, (list, dict, set)) else json.dumps(value, default=str)
    except ValueError:  # Python shows no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text[:LONGEST]


def explain(errors: list[dict], root: dict) -> str:
    """One line about the first of pydantic's errors: an unknown key before what may be missing for its sake, what is
    nearer to the top before what is deeper."""
    strange = [error for error in errors if error["type"] in ("extra_forbidden", "invalid_key")]
    if strange:
        parent = min((error["loc"][:-1] for error in strange), key=len)
        names = [error["loc"][-1] for error in strange if error["loc"][:-1] == parent]
        return unknown(dotted(parent), names, resolve(at(root, parent), root)["properties"])
    error = min(errors, key=lambda error: len(error["loc"]))
    if error["type"] == "missing":
        return about(dotted(error["loc"][:-1]), f"{error['loc'][-1]} is missing")
    if error["type"] == RULE:
        text = LONG_WORD.sub(r"\1...", error["ctx"]["text"])
        return about(dotted(error["loc"], error["ctx"]["key"]), text)
    return not_allowed(dotted(error["loc"]), error["input"], allowed(at(root, error["loc"]), root))
