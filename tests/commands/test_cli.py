"""The command line: one line and exit code 2 for what a user can mend; fast to start."""

import subprocess
import sys

import pytest

from swiftkv.config import ROOT

SWIFTKV = [sys.executable, "-m", "swiftkv.cli"]
STAGES = (
    "train-base fetch-base convert training-data distill similarity lengths verify throughput accuracy "
    "accuracy-summary diagnose divergence claims figures tables notebook publish"
).split()


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
        (["training-data", "--base", "no/base", "--out", "o", "--work", "w"], "distill.data.source is tasks"),
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
