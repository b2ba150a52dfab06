"""What the Snakemake workflow catalog asks of a repository with standardised usage."""

import re

import yaml

from swiftkv.config import ROOT, merge, read_layers, validate


def test_files_that_the_catalog_looks_for():
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
    assert (ROOT / "workflow" / "Snakefile").is_file() and list((ROOT / "workflow" / "rules").glob("*.smk"))
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}


def test_configuration_instructions_name_every_file():
    text = (ROOT / "config" / "README.md").read_text()
    named = set(re.findall(r"`([\w-]+\.(?:yaml|csv))`", text.split("| file |")[1]))
    assert named == {path.name for path in (ROOT / "config").iterdir()} - {"README.md"}


def test_instructions_as_given_are_a_valid_configuration():
    example = yaml.safe_load((ROOT / "config" / "README.md").read_text().split("```yaml\n")[1].split("```")[0])
    parent = example.pop("extends")
    validate(merge(read_layers(ROOT / "config" / parent), example), "config/README.md")
