"""Reading the rules writes nothing; the workflow runs in and from any directory, as a module, with blanks in names."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from swiftkv.config import ROOT

SCALE = "places"
FROZEN = f"results/{SCALE}/config.yaml"
OUTER = """\
from swiftkv.config import load_config


module suite:
    snakefile:
        "{root}/workflow/Snakefile"
    config:
        load_config("{config}").raw


use rule * from suite as suite_*


rule mine:
    default_target: True
    input:
        rules.suite_claims.output,
"""


def snakemake(place: Path, *arguments, cwd: Path = ROOT) -> str:
    """What Snakemake says when it works in `place`."""
    command = ["snakemake", "--cores", "1", "--printshellcmds", "--directory", place, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def state(place: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of everything in `place` but Snakemake's own notes."""
    found = [path for path in place.rglob("*") if ".snakemake" not in path.parts]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def mine(place: Path, name: str = "mine.yaml", **keys) -> Path:
    """A configuration in `place`."""
    path = place / name
    path.write_text(yaml.safe_dump({"extends": str(ROOT / "config" / "smoke.yaml"), "scale": SCALE, **keys}))
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A directory in which a run has begun; it is one whose name holds a blank."""
    place = tmp_path_factory.mktemp("places") / "my run"
    place.mkdir()
    said = snakemake(place, "--configfile", mine(place, "my config.yaml"), "--", f"results/{SCALE}/models/base")
    assert "1 of 1 steps" in said
    return place


def test_a_dry_run_with_another_configuration_leaves_a_run_alone(begun, tmp_path):
    before = state(begun)
    planned = snakemake(
        begun, "-n", "--configfile", begun / "my config.yaml", mine(tmp_path, accuracy={"items_per_task": 9})
    )
    assert "rule accuracy:" in planned and "rule base:" not in planned and state(begun) == before


def test_a_dry_run_in_an_empty_directory_leaves_it_empty(tmp_path):
    snakemake(tmp_path, "-n", "--quiet", "all")
    assert state(tmp_path) == {}


def test_a_run_reads_the_configuration_that_it_was_given(begun, tmp_path):
    """A changed one, or one edited by hand, is written anew before the first job."""
    place = tmp_path / "copy"
    shutil.copytree(begun, place)
    config, base = place / "my config.yaml", f"results/{SCALE}/models/base"
    assert "Nothing to be done" in snakemake(place, "--configfile", config, "--", base)
    changed = mine(place, base={"source": "embedded", "path": str(ROOT / "workflow" / "resources" / "base")})
    (place / FROZEN).write_text("scale: edited by hand")
    assert "1 of 1 steps" in snakemake(place, "--configfile", changed, "--", base)
    assert yaml.safe_load((place / FROZEN).read_text())["base"]["path"].startswith(str(ROOT))
    assert "Nothing to be done" in snakemake(place, "--configfile", changed, "--", base)


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_from_another_directory(snakefile, tmp_path):
    mine(tmp_path)
    planned = snakemake(tmp_path, "-n", "--snakefile", ROOT / snakefile, "--configfile", "mine.yaml", cwd=tmp_path)
    assert f"--config {FROZEN} " in planned and str(ROOT / "config" / "claims.yaml") in planned
    assert state(tmp_path).keys() == {tmp_path / "mine.yaml"}


def test_as_a_module_of_another_workflow(tmp_path):
    (tmp_path / "Snakefile").write_text(OUTER.format(root=ROOT, config=mine(tmp_path)))
    planned = snakemake(tmp_path, "-n", cwd=tmp_path)
    assert "rule suite_throughput:" in planned and f"swiftkv claims --config {FROZEN} " in planned
    assert not (tmp_path / FROZEN).exists()
    assert snakemake(tmp_path, "suite_base", cwd=tmp_path).count("1 of 1 steps") == 1
    assert yaml.safe_load((tmp_path / FROZEN).read_text())["scale"] == SCALE


def test_a_project_whose_path_holds_blanks(tmp_path):
    project = tmp_path / "my project"
    for part in ("workflow", "config", "profiles", "notebooks"):
        shutil.copytree(ROOT / part, project / part)
    shutil.copy(ROOT / "Snakefile", project)
    shutil.copytree(ROOT / "workflow" / "resources" / "base", project / "my base")
    base = {"source": "local", "path": str(project / "my base")}
    planned = snakemake(project, "-n", "--configfile", mine(project, "my run.yaml", base=base), cwd=project)
    assert str(project / "my base" / "model.safetensors") in planned and "rule claims:" in planned
