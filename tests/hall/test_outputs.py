"""A command replaces what it wrote itself, or nothing: each case below once lost a user's files without a word."""

import os
import shutil
from pathlib import Path

import pytest

from swiftkv import files, outputs
from swiftkv.base_model import fetch
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from swiftkv.modeling import convert
from swiftkv.provenance import Provenance
from swiftkv.release import publish
from swiftkv.report import config_docs

BASE = ROOT / "workflow" / "resources" / "base"
CONFIG = load_config(ROOT / "config" / "config.yaml")


@pytest.fixture
def thesis(tmp_path):
    """A folder of somebody else's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return folder


def record(directory: Path, stage: str) -> None:
    """What a run of `stage` leaves behind in `directory`."""
    directory.mkdir(exist_ok=True)
    (directory / "old").write_text("a result")
    files.write_json(directory / "old.provenance.json", {"stage": stage})


COMMANDS = {
    "convert": lambda out: convert.convert(BASE, out, 4, 1),
    "fetch-base": lambda out: fetch.resolve_base(CONFIG, out),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_other_files_stays(command, thesis):
    with pytest.raises(UserError, match=r"mine: exists, and no provenance record in it names the stage"):
        COMMANDS[command](thesis)
    assert (thesis / "thesis.tex").read_text() == "years of work" and len(list(thesis.parent.iterdir())) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_the_working_directory_stays(command, thesis, monkeypatch):
    monkeypatch.chdir(thesis)
    for out in (Path("."), Path(".."), thesis):
        with pytest.raises(UserError, match="the working directory"):
            COMMANDS[command](out)
    assert (thesis / "thesis.tex").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_folder_and_an_earlier_result_are_replaced(command, tmp_path):
    out = tmp_path / "student"
    out.mkdir()
    COMMANDS[command](out)
    (out / "stray").write_text("of an older version")
    COMMANDS[command](out)
    assert (out / "model.safetensors").is_file() and not (out / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_the_base_is_not_replaced_by_its_student(tmp_path):
    shutil.copytree(BASE, tmp_path / "models" / "base")
    for out, relation in ((tmp_path / "models" / "base", "is"), (tmp_path / "models", "holds")):
        with pytest.raises(UserError, match=f"{relation} the input"):
            convert.convert(tmp_path / "models" / "base", out, 4, 1)
    (tmp_path / "link").symlink_to(tmp_path / "models" / "base")
    with pytest.raises(UserError, match="is the input"):
        convert.convert(tmp_path / "models" / "base", tmp_path / "link", 4, 1)
    assert files.sha256(tmp_path / "models" / "base" / "model.safetensors") == files.sha256(BASE / "model.safetensors")


def test_a_conversion_does_not_replace_a_distilled_student(tmp_path):
    convert.write_student(BASE, tmp_path / "student", 4, 1, trained={})
    with pytest.raises(UserError, match="names the stage convert"):
        convert.convert(BASE, tmp_path / "student", 4, 1)
    convert.write_student(BASE, tmp_path / "student", 4, 1, trained={})


@pytest.mark.parametrize("place", [Path("/"), Path.home(), ROOT, ROOT.parent])
def test_root_home_and_project_are_refused(place):
    with pytest.raises(UserError, match="which it would replace"):
        outputs.check_dir(place, ["convert"])


def test_a_record_of_another_stage_is_another_hand(tmp_path):
    record(tmp_path / "kept", "verify")
    with pytest.raises(UserError, match="stage convert or distill"):
        outputs.check_dir(tmp_path / "kept", ["distill", "convert"])
    outputs.check_dir(tmp_path / "kept", ["verify"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a directory"):
        outputs.check_dir(tmp_path / "file", ["verify"])


def test_files_are_the_stages_own_or_stay(tmp_path):
    mine = tmp_path / "plan.md"
    mine.write_text("holidays")
    with pytest.raises(UserError, match=r"plan\.md: exists, and no provenance record beside it names the stage plan"):
        Provenance("plan", out=[mine])
    with pytest.raises(UserError, match="is a directory"):
        Provenance("plan", out=[tmp_path])
    record(tmp_path, "plan")
    Provenance("plan", out=[mine, tmp_path / "absent.csv"])


def test_temporary_names_meet_no_users(tmp_path):
    """`.model.backup` beside `model` is the user's; what a killed writer of `model` left is ours."""
    (tmp_path / ".model.backup").mkdir()
    (tmp_path / f"{files.unfinished(tmp_path / 'model')}abc").mkdir()
    (tmp_path / f"{files.unfinished(tmp_path / 'model2')}abc").mkdir()
    with files.atomic_dir(tmp_path / "model") as new:
        (new / "a").write_text("1")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".model.backup", "model", f"{files.unfinished(tmp_path / 'model2')}abc"}


def test_a_directory_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    record(tmp_path / "model", "convert")
    real = os.replace

    def fails_once(source, target):
        if Path(target).name == "model" and (Path(source) / "new").exists():
            raise OSError("disk")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(OSError, match="disk"), files.atomic_dir(tmp_path / "model", replace=True) as new:
        (new / "new").write_text("1")
    assert (tmp_path / "model" / "old").read_text() == "a result"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("machine", ["../..", "..", "a/b", "", ".hidden", "README.md"])
def test_publish_stays_below_the_reference(machine):
    with pytest.raises(UserError, match="--machine"):
        publish.place(machine, "cpu")


def test_publish_replaces_a_published_run_of_its_scale_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "REFERENCE", tmp_path)
    target = tmp_path / "mine" / "cpu"
    assert publish.place("mine", "cpu") == target
    target.mkdir(parents=True)
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no published run of scale cpu"):
        publish.place("mine", "cpu")
    files.write_json(target / "verify" / "gates.json.provenance.json", {"stage": "verify", "scale": "cpu"})
    assert publish.place("mine", "cpu") == target


def test_config_docs_replaces_its_own_page_alone(tmp_path):
    page = tmp_path / "page.md"
    schema = tmp_path / "schema.json"
    config_docs.write(page, schema)
    config_docs.write(page, schema)
    schema.write_text('{"mine": 1}')
    with pytest.raises(UserError, match="is not this schema"):
        config_docs.write(page, schema)
    page.write_text("my notes")
    with pytest.raises(UserError, match="is not this page"):
        config_docs.write(page, schema)
