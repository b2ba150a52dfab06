"""docs/config.md (`swiftkv config-docs`): every key of the schema with what is allowed, its default and its meaning."""

import json
from collections.abc import Iterator
from pathlib import Path

from swiftkv import files
from swiftkv.config import ROOT, SCHEMA, read_layers
from swiftkv.errors import UserError

HEAD = """# Configuration keys

Generated from `workflow/schemas/config.schema.json` by `swiftkv config-docs`; change it there. A configuration is
`config/config.yaml`, the default scale, with what another file lays over it (`extends`, or `--configfile`): mappings
merge key by key, everything else is replaced. `[]` marks the entries of a list, `*` any name. Keys in bold are needed;
most of them are in the default scale. A wrong key stops everything with the key, its value and what is allowed.
Machines belong to `profiles/`.
"""
BOUNDS = {
    "minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}",
    "minItems": "at least {} entries", "pattern": "`{}`",
}  # fmt: skip


def kind(schema: dict) -> str:
    """Type and bounds of a value in one cell."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array" and "type" in schema["items"]:
        named = f"list of {schema['items']['type']}"
    else:
        named = schema.get("type", "")
    return ", ".join([named, *(text.format(schema[key]) for key, text in BOUNDS.items() if key in schema)])


def keys(schema: dict, path: str = "") -> Iterator[tuple[str, dict, bool]]:
    """Dotted path, schema and necessity of every key below `schema`, in its order."""
    for name, child in schema.get("properties", {}).items():
        full = f"{path}.{name}" if path else name
        yield full, child, name in schema.get("required", ())
        yield from keys(child, full)
    if isinstance(other := schema.get("additionalProperties"), dict):
        yield f"{path}.*", other, False
        yield from keys(other, f"{path}.*")
    if schema.get("type") == "array":
        yield from keys(schema["items"], f"{path}[]")


def default(config: dict, path: str) -> str:
    """The default scale's value of a plain key; empty for sections, lists of sections and keys it does not set."""
    value = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return ""
    return f"`{json.dumps(value)}`"


def row(config: dict, path: str, schema: dict, required: bool) -> str:
    name = f"**`{path}`**" if required else f"`{path}`"
    cells = (name, kind(schema), default(config, path), schema.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def section(config: dict, name: str, schema: dict, required: bool) -> str:
    """A heading per top-level key with a table of what is below it."""
    rows = [row(config, path, child, must) for path, child, must in keys(schema, name)]
    if not rows:
        rows = [row(config, name, schema, required)]
    table = "\n".join(["| key | allowed | default scale | meaning |", "| --- | --- | --- | --- |", *rows])
    lead = schema.get("description", "")
    return f"## {name}\n\n{lead}{'' if required else ' May be left out.'}\n\n{table}\n"


def render() -> str:
    """The whole page."""
    schema, config = files.read_json(SCHEMA), read_layers(ROOT / "config" / "config.yaml")
    parts = [section(config, name, child, name in schema["required"]) for name, child in schema["properties"].items()]
    return "\n".join([HEAD, *parts])


def write(out: Path) -> None:
    """Write the page. Raises UserError if `out` is another page, or no page at all."""
    title = HEAD.splitlines()[0]
    if out.exists() and (not out.is_file() or not out.read_bytes().startswith(title.encode())):
        raise UserError(f"--out {out}: exists and is not this page ({title}); name another file")
    files.write_text(out, render())
