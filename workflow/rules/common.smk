# Helpers shared by the rules: the validated configuration and the names that follow from it.
import os
import re
import sys
from pathlib import Path

from swiftkv import devices
from swiftkv.config import freeze
from swiftkv.errors import UserError
from swiftkv.workloads import tasks

# Validated, and also written to RUN.path, which every command reads. A run of workflow/campaign.smk comes validated.
GIVEN = workflow.config_settings.overwrite_config
try:
    if "runs" in GIVEN:
        RUN = freeze(config)
    else:
        RUN = freeze(config, workflow.config_settings.configfiles, GIVEN)
    tasks.check_names(RUN)
except UserError as error:
    sys.exit(f"swiftkv: error: {error}")
# By name, since Snakemake would make an environment from a copy of environment.yml, where the paths in it lead nowhere; and not
# `swiftkv`, since Snakemake takes the name of a directory for an environment that lies there.
CONDA_ENVIRONMENT = "swiftkv-repro"
# Jobs that run here hold their GPUs; without any, jobs that would take one run one at a time, and where there are too few the
# command says so. While rules are read, Snakemake does not know yet whether jobs go elsewhere: the profiles of clusters set a
# limit of their own.
if "gpu" not in workflow.global_resources:
    most = max(RUN.tensor_parallel_size, RUN.fsdp_world_size)
    workflow.register_resource("gpu", max(most, len(devices.visible())))
VARIANTS = [variant.name for variant in RUN.variants]
CONTROLS = [arm for arm in RUN.accuracy_arms if arm.endswith("-undistilled")]


wildcard_constraints:
    variant="|".join(map(re.escape, VARIANTS)),
    arm="|".join(map(re.escape, RUN.accuracy_arms)),


def section(*names):
    """The parts of the configuration a rule depends on, without optional ones that are not there; a change in them, and
    only in them, reruns it."""
    return {
        name: RUN.raw[name] for name in ("scale", "seed", *names) if name in RUN.raw
    }


def recorded(*paths):
    """Files of a stage, each with the provenance record that lies beside it."""
    return [name for path in paths for name in (path, f"{path}.provenance.json")]


def base_files(wildcards):
    """Weights of a base model that lies in a directory: another model there reruns everything."""
    if RUN.base.source not in ("embedded", "local"):
        return []
    return local(sorted(map(str, Path(RUN.base.path).glob("*.safetensors"))))


def model_of(wildcards):
    """The model directory of an accuracy arm."""
    return f"<results>/models/{wildcards.arm}"


def out_dir(wildcards, output):
    """The directory of a rule's outputs."""
    return os.path.dirname(output[0])


def models_dir(wildcards, input):
    """The directory that holds one model directory per arm."""
    return os.path.dirname(input.base)


def two_above(wildcards, input):
    """Two above the first input: of a file of a stage the run's directory, results/<scale> or where object storage keeps
    it here; of an arm's scores the directory that holds one per arm."""
    return os.path.dirname(os.path.dirname(input[0]))
