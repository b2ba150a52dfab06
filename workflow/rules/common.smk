# Helpers shared by the rules: the validated configuration and the names that follow from it.
from swiftkv.config import freeze

RUN = freeze(config)  # validated; also written to RUN.path, which every command reads
VARIANTS = [variant.name for variant in RUN.variants]
CONTROLS = [arm for arm in RUN.accuracy_arms if arm.endswith("-undistilled")]


wildcard_constraints:
    variant="|".join(map(re.escape, VARIANTS)),
    arm="|".join(map(re.escape, RUN.accuracy_arms)),


def section(*names):
    """The parts of the configuration a rule depends on; a change in them, and only in them, reruns it."""
    return {name: RUN[name] for name in ("scale", "seed", *names)}


def model_of(wildcards):
    """The model directory of an accuracy arm."""
    return f"<results>/models/{wildcards.arm}"
