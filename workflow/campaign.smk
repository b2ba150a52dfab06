# Several models in one DAG: every configuration listed is the whole pipeline of workflow/Snakefile, as a module of its own.
# snakemake --cores all --snakefile workflow/campaign.smk --config 'runs=[config/paper.yaml, config/paper-70b.yaml]'
import sys

from snakemake.utils import min_version

from swiftkv.config import campaign
from swiftkv.errors import UserError

min_version("9.19")

try:
    RUNS = campaign(config.get("runs"))
except UserError as error:
    sys.exit(f"swiftkv: error: {error}")


def prefix_of(scale):
    """What the names of a run's rules begin with."""
    return f"{scale}_".replace("-", "_")


for scale, raw in RUNS.items():
    prefix = prefix_of(scale)

    module:
        name: scale
        snakefile:
            "Snakefile"
        config:
            raw

    use rule * from scale as prefix*


rule all:
    default_target: True
    input:
        [getattr(rules, f"{prefix_of(scale)}all").input for scale in RUNS],
