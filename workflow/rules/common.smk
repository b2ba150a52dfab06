# Helpers shared by the rules: the validated configuration and the names that follow from it.
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod, ExecMode

from swiftkv import registry
from swiftkv.base_model.fetch import local_dir
from swiftkv.config import freeze, resolve
from swiftkv.errors import UserError
from swiftkv.files import ROOT
from swiftkv.workloads import tasks

# Validated; every command reads it from RUN.path. A module that was handed its configuration (workflow/campaign.smk) takes no
# other.
try:
    if workflow.modifier.skip_configfile:
        RUN = resolve(config)
    else:
        RUN = resolve(
            config,
            workflow.config_settings.configfiles,
            workflow.config_settings.overwrite_config,
        )
    tasks.check_names(RUN)
except UserError as error:
    sys.exit(f"swiftkv: error: {error}")
# Written when jobs start and not while rules are read: a dry run leaves a run in progress alone. Not by the keyword `onstart`,
# which Snakemake overlooks in a module; an outer workflow that has an `onstart` freezes its runs there. Where a job runs on
# another machine, what it reads the rules for is that job.
if workflow.exec_mode == ExecMode.REMOTE:
    freeze(RUN)
else:
    before_start = workflow._onstart

    def start(log):
        before_start(log)
        freeze(RUN)

    workflow._onstart = start
# With `--sdm conda` by name, since Snakemake would make an environment from a copy of environment.yml, where the paths in it lead
# nowhere; and not `swiftkv`, since Snakemake takes the name of a directory for an environment that lies there. Otherwise by the
# file, which Snakemake only reads: to say what an environment of some name holds, it would ask a conda that need not be there.
CONDA_ENVIRONMENT = (
    "swiftkv-repro"
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else "../../environment.yml"
)
VARIANTS = [variant.name for variant in RUN.variants]
# The rows that are made for the base, where the configuration asks for such (rules/data.smk).
TRAINING_DATA = (
    [f"<results>/{registry.FILES['training_data'].path}"]
    if RUN.distill.data.source == "self"
    else []
)
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


def project(path):
    """A file of the project that a command reads from there, wherever the working directory is; by its short name where that
    is the project."""
    whole = ROOT / path
    return local(path if Path(path).resolve() == whole else str(whole))


def source_of_notebook(wildcards):
    """The notebook that is run."""
    return project(f"notebooks/{wildcards.notebook}.ipynb")


def made_by(stage):
    """What a stage writes, each file with its provenance record where it has one."""
    made = []
    for file in registry.of_stage(stage):
        path = f"<results>/{file.path}"
        made += recorded(path) if file.recorded else [path]
    return made


def base_files(wildcards):
    """Weights of a base model that lies in a directory: another model there reruns everything."""
    if RUN.base.source not in ("embedded", "local"):
        return []
    try:
        place = local_dir(RUN.base.path)
    except UserError:  # which the command then tells
        return []
    return local(sorted(map(str, place.glob("*.safetensors"))))


def mix_files(wildcards):
    """The user's files among the rows that are made for the base."""
    paths = [path for entry in RUN.distill.data.mix or () for path in entry.files or ()]
    # Of one that is missing, the command tells.
    return local([path for path in paths if os.path.isfile(path)])


def given_data(wildcards, input):
    """The option that names the rows of data source self, where the run has such."""
    return f"--data {shlex.quote(input.data[0])}" if input.get("data") else ""


def model_of(wildcards):
    """The model directory of an accuracy arm."""
    return f"<results>/models/{wildcards.arm}"


def run_dir(wildcards, input):
    """The run's directory, results/<scale> or where object storage keeps it here: what inputs below it begin with."""
    name = f"results/{RUN.scale}/"
    return next(
        path[: path.rindex(name) + len(name) - 1] for path in input if name in path
    )


def models_dir(wildcards, input):
    """The directory that holds one model directory per arm."""
    return os.path.join(run_dir(wildcards, input), "models")


def arms_dir(stage):
    """The directory of a stage that holds one directory per arm."""

    def directory(wildcards, input):
        return os.path.join(run_dir(wildcards, input), stage)

    return directory


def result_file(wildcards, output):
    """The file that a rule's command is told to write; its record of provenance stands beside it."""
    return output[0]


def out_dir(wildcards, output):
    """The directory of a rule's outputs."""
    return os.path.dirname(output[0])
