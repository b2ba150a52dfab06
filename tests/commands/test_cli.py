"""The command line: one line and exit code 2 for what a user can mend; fast to start."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch

from swiftkv import cli
from swiftkv.config import ROOT
from swiftkv.errors import NothingToJudge, UserError

SWIFTKV = [sys.executable, "-m", "swiftkv.cli"]
STAGES = (
    "train-base fetch-base convert training-data distill similarity lengths verify throughput accuracy "
    "accuracy-summary diagnose divergence claims figures tables site notebook publish"
).split()
BASE = str(ROOT / "workflow" / "resources" / "base")


def run(*arguments: str, cwd=ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([*SWIFTKV, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600)


def test_help_lists_every_stage_without_loading_torch():
    done = run("--help")
    assert done.returncode == 0 and all(stage in done.stdout for stage in STAGES)
    code = "import swiftkv.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["distill", "--config", "none.yaml", "--base", "b", "--out", "o", "--work", "w"], "none.yaml"),
        (["convert", "--base", "no/base", "--out", "o", "--variant", "skip50"], "no/base"),
        (["convert", "--base", "no/base", "--out", "o", "--variant", "skip99"], "skip99"),
        (["accuracy", "--arm", "base", "--model", "no/model", "--out", "o", "--work", "w"], "no/model"),
        (["distill", "--base", "no/base", "--out", "o", "--work", "w"], "no/base"),
        (["training-data", "--base", BASE, "--out", "o", "--work", "w"], "distill.data.source is tasks"),
        (["similarity", "--base", "no/base", "--out", "o.csv"], "no/base"),
        (["lengths", "--base", "no/base", "--out", "o"], "no/base"),
        (["verify", "--base", "no/base", "--models", "no/models", "--out", "o.json"], "no/base"),
        (["diagnose", "--base", "no/base", "--models", "no/models", "--out", "o"], "no/base"),
        (["divergence", "--base", "no/base", "--models", "no/models", "--out", "o", "--work", "w"], "no/base"),
    ],
)
def test_bad_input_is_one_line_that_names_the_culprit(arguments, culprit, tmp_path):
    config = [] if "--config" in arguments else ["--config", str(ROOT / "config" / "config.yaml")]
    done = run(*arguments, *config, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("swiftkv: error: ") and culprit in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("o*"))


def test_help_keeps_what_stands_in_brackets():
    """Defaults that follow from the configuration, which Rich would take for markup."""
    done = run("distill", "--help")
    assert "[results/SCALE/models/base]" in done.stdout and "[parallel.fsdp_world_size]" in done.stdout


def test_version_is_the_packages():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"swiftkv {importlib.metadata.version('swiftkv-repro')}\n")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("no such thing"), "no such thing", 2),
        (NothingToJudge("nothing"), "nothing", 1),
        (PermissionError(13, "Permission denied", "out/x.csv"), "out/x.csv: Permission denied", 2),
        (OSError(28, "No space left on device"), "No space left on device", 2),
        (MemoryError(), "out of memory: the machine has no more; `swiftkv memory-plan`", 2),
        (torch.OutOfMemoryError("tried to allocate\n2 GiB"), "out of memory: tried to allocate 2 GiB; ", 2),
        (KeyboardInterrupt(), "interrupted; what was finished is kept", 130),
    ],
)
def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys, error, line, code):
    def fail():
        raise error

    monkeypatch.delenv(cli.DEBUG, raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.end_in_one_line(fail)
    told = capsys.readouterr().err
    assert told.startswith(f"swiftkv: error: {line}") and told.count("\n") == 1
    assert ended.value.code == code
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(type(error)):
        cli.end_in_one_line(fail)


def test_a_fault_of_this_project_shows_where():
    with pytest.raises(ZeroDivisionError):
        cli.end_in_one_line(lambda: 1 / 0)


def test_an_output_that_cannot_be_written_is_one_line_and_debug_shows_more(tmp_path):
    """A directory where the file goes."""
    (tmp_path / "o.csv").mkdir()
    (tmp_path / "o.csv" / "x").touch()
    arguments = ["similarity", "--base", BASE, "--out", "o.csv", "--config", str(ROOT / "config" / "smoke.yaml")]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "o.csv" in done.stderr.splitlines()[-1]
    assert "Traceback" in run("--debug", *arguments, cwd=tmp_path).stderr
