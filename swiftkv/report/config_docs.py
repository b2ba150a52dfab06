"""docs/config.md and the JSON schema for editors (`swiftkv config-docs`), both from the models of the configuration."""

import json
from collections.abc import Iterator
from pathlib import Path

from swiftkv import files
from swiftkv.config import ROOT, read_layers, words
from swiftkv.config.settings import json_schema
from swiftkv.errors import UserError

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.json"
HEAD = """# Configuration keys

Generated from the models in `swiftkv/config/` by `swiftkv config-docs`; change it there. A configuration is
`config/config.yaml`, the default scale, with what another file lays over it (`extends`, or `--configfile`): mappings
merge key by key, everything else is replaced. `[]` marks the entries of a list, `*` any name. Keys in bold are needed;
most of them are in the default scale. A wrong key stops everything with the key, its value and what is allowed.
Machines belong to `profiles/`. Editors can check a file by `workflow/schemas/config.schema.json`, of the same models.
"""


def kind(schema: dict, root: dict) -> str:
    """What a value may be, in one cell; the keys of a mapping have rows of their own."""
    if "enum" in schema:
        return words.either(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"a list{words.entries(schema)}, each {kind(words.resolve(schema['items'], root), root)}"
    return f"a mapping{words.entries(schema)}" if schema.get("type") == "object" else words.allowed(schema, root)


def keys(schema: dict, root: dict, path: str = "") -> Iterator[tuple[str, dict, bool]]:
    """Dotted path, schema and necessity of every key below `schema`, in its order."""
    for name, child in schema.get("properties", {}).items():
        full, child = f"{path}.{name}" if path else name, words.resolve(child, root)
        yield full, child, name in schema.get("required", ())
        yield from keys(child, root, full)
    if isinstance(other := schema.get("additionalProperties"), dict):
        other = words.resolve(other, root)
        yield f"{path}.*", other, False
        yield from keys(other, root, f"{path}.*")
    if schema.get("type") == "array":
        yield from keys(words.resolve(schema["items"], root), root, f"{path}[]")


def default(config: dict, path: str) -> str:
    """The default scale's value of a plain key; empty for sections, lists of sections and keys it does not set."""
    value = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return ""
    return f"`{json.dumps(value)}`"


def row(config: dict, path: str, schema: dict, root: dict, required: bool) -> str:
    name = f"**`{path}`**" if required else f"`{path}`"
    cells = (name, kind(schema, root), default(config, path), schema.get("description", ""))
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def section(config: dict, name: str, schema: dict, root: dict, required: bool) -> str:
    """A heading per top-level key with a table of what is below it."""
    rows = [row(config, path, child, root, must) for path, child, must in keys(schema, root, name)]
    if not rows:
        rows = [row(config, name, schema, root, required)]
    table = "\n".join(["| key | allowed | default scale | meaning |", "| --- | --- | --- | --- |", *rows])
    lead = " ".join(schema.get("description", "").split())
    return f"## {name}\n\n{lead}{'' if required else ' May be left out.'}\n\n{table}\n"


def render() -> str:
    """The whole page."""
    root, config = json_schema(), read_layers(ROOT / "config" / "config.yaml")
    parts = [
        section(config, name, words.resolve(child, root), root, name in root["required"])
        for name, child in root["properties"].items()
    ]
    return "\n".join([HEAD, *parts])


def schema_text() -> str:
    """The file of the JSON schema."""
    return json.dumps(json_schema(), indent=2) + "\n"


def write(out: Path, schema: Path) -> None:
    """Write the page and the schema. Raises UserError if something else lies where they would go."""
    page, title = HEAD.splitlines()[0], '"title": "Run configuration"'
    if out.exists() and (not out.is_file() or not out.read_bytes().startswith(page.encode())):
        raise UserError(f"--out {out}: exists and is not this page ({page}); name another file")
    if schema.exists() and (not schema.is_file() or title.encode() not in schema.read_bytes()):
        raise UserError(f"--schema {schema}: exists and is not this schema ({title}); name another file")
    files.write_text(out, render())
    files.write_text(schema, schema_text())
