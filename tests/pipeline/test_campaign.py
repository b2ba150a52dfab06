"""Several models in one DAG: every configuration keeps its own rules, results and settings."""

import subprocess

import pytest

from swiftkv.config import ROOT, campaign
from swiftkv.errors import UserError

COMMAND = ["snakemake", "--cores", "2", "--snakefile", "workflow/campaign.smk"]


def snakemake(runs: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, "-n", "--forceall", "--config", f"runs={runs}"], cwd=ROOT, capture_output=True, text=True
    )


def test_two_models_in_one_dag():
    done = snakemake(["config/paper.yaml", "config/paper-70b.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    for scale in ("paper", "paper_70b"):
        assert f"rule {scale}_throughput:" in done.stdout and f"rule {scale}_claims:" in done.stdout
    assert "--config results/paper/config.yaml --out results/paper/throughput" in done.stdout
    assert "--config results/paper-70b/config.yaml --out results/paper-70b/throughput" in done.stdout


def test_a_wrong_list_is_one_line():
    done = snakemake(["config/paper.yaml", "config/gone.yaml"])
    assert done.returncode != 0 and "config/gone.yaml: no such config file" in done.stderr


def test_two_runs_of_one_scale():
    with pytest.raises(UserError, match=r"config\.yaml: scale 'cpu' is also that of another run"):
        campaign([str(ROOT / "config" / "config.yaml")] * 2)
    for wrong in (None, [], "config/config.yaml"):
        with pytest.raises(UserError, match=r"runs: .* allowed is a list"):
            campaign(wrong)
