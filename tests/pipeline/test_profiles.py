"""The profiles name rules that exist, and every cluster job says what it needs."""

import re

import pytest
import yaml

from swiftkv.config import ROOT

RULES = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
SLURM, KUBERNETES = (
    yaml.safe_load((ROOT / "profiles" / name / "profile.yaml").read_text()) for name in ("slurm", "kubernetes")
)


def test_cluster_jobs_ask_for_devices_memory_time_and_tasks():
    assert {"gpu", "mem_mb", "runtime", "tasks"} <= SLURM["default-resources"].keys()
    assert SLURM["retries"] > 0


@pytest.mark.parametrize("profile", [SLURM, KUBERNETES])
def test_rules_with_numbers_of_their_own_exist(profile):
    assert profile["set-resources"].keys() <= set(re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE))


@pytest.mark.parametrize("profile", [SLURM, KUBERNETES])
def test_gpu_jobs_are_not_limited_to_the_gpus_of_the_machine_that_sends_them(profile):
    assert profile["resources"] == ["gpu=1000"]


def test_pods_name_the_maker_of_their_gpus_and_share_no_file_system():
    assert KUBERNETES["default-resources"]["gpu_manufacturer"] == "'nvidia'"
    assert (KUBERNETES["shared-fs-usage"], KUBERNETES["default-storage-provider"]) == ("none", "s3")


def test_a_measurement_of_time_has_its_node_alone():
    for rule in ("throughput", "serve_load"):
        assert "--exclusive" in SLURM["set-resources"][rule]["slurm_extra"]
