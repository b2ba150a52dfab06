"""The profiles name rules that exist, and every cluster job says what it needs."""

import re

import yaml

from swiftkv.config import ROOT

RULES = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
SLURM = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())


def test_cluster_jobs_ask_for_devices_memory_time_and_tasks():
    assert {"gpu", "mem_mb", "runtime", "tasks"} <= SLURM["default-resources"].keys()
    assert SLURM["retries"] > 0


def test_rules_with_numbers_of_their_own_exist():
    assert SLURM["set-resources"].keys() <= set(re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE))


def test_a_measurement_of_time_has_its_node_alone():
    for rule in ("throughput", "serve_load"):
        assert "--exclusive" in SLURM["set-resources"][rule]["slurm_extra"]
