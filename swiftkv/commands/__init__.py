"""The sub-commands of `swiftkv` by what they are for, and the options they share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from swiftkv.errors import Interrupted, UserError

# Modules of this room by the heading of their commands in the help.
PANELS = {"models": "Models", "measure": "Measure", "planning": "Plan", "results": "Results"}
WHOLE = 500  # characters of a command's summary: no word is left out
LARGEST = 2**53  # no number of a command line is as large; a float holds every whole number below it


class Command(TyperCommand):
    """A command whose numbers are finite: the bounds of an option let NaN through, and infinity where one is open.
    Interrupted, it ends in a line like other errors."""

    def invoke(self, context: typer.Context) -> Any:
        for option in self.params:
            value = context.params.get(option.name)
            if isinstance(value, int | float) and not abs(value) < LARGEST:
                raise typer.BadParameter(f"{value:.4g} is no number that could be meant.", context, option)
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise Interrupted from None


class Group(TyperGroup):
    """The commands in the help under the headings of PANELS."""

    def format_commands(self, context: typer.Context, formatter: Any) -> None:
        found: dict[str, list[tuple[str, TyperCommand]]] = {heading: [] for heading in PANELS.values()}
        for name, command in self.commands.items():
            found[PANELS[command.callback.__module__.rpartition(".")[2]]].append((name, command))
        for heading, commands in found.items():
            with formatter.section(heading):
                formatter.write_dl([(name, command.get_short_help_str(WHOLE)) for name, command in commands])


class Commands(typer.Typer):
    """Registers each command as a `Command`."""

    def command(self, name: str | None = None, **settings) -> Callable:
        return super().command(name, **{"cls": Command} | settings)


# Without Rich's markup, which takes what stands in brackets for a tag and leaves it out of the help.
cli = Commands(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Work = Annotated[Path, typer.Option(help="Where unfinished work is kept, to be resumed.")]
Base = Annotated[Path, typer.Option(help="Directory of the base model.")]
Students = Annotated[Path, typer.Option(help="Holds one directory per variant.")]
Arm = Annotated[str, typer.Option(help="base, a variant, or VARIANT-undistilled.")]
ArmModel = Annotated[Path, typer.Option(help="Directory of the arm's model.")]
ArmScores = Annotated[Path, typer.Option(help="Holds one directory of scores per arm.")]
Mirror = Annotated[Path | None, typer.Option(envvar="SWIFTKV_MIRROR", help="Local copy of the public data.")]
RunDir = Annotated[
    Path | None, typer.Option("--results", help="Directory of the run, named by its scale [results/SCALE].")
]
CONFIG = Path("config/config.yaml")


def load(path: Path):
    from swiftkv.config import load_config
    from swiftkv.workloads import tasks

    loaded = load_config(path)
    tasks.check_names(loaded)
    return loaded


def load_with_gpu(path: Path):
    """The configuration, and a GPU for this command alone until it ends, where the machine has any. A wrong
    configuration is told before the wait for a device."""
    loaded = load(path)
    take_gpu()
    return loaded


def load_with_engine_gpus(path: Path):
    """As `load_with_gpu`, with the GPUs of an engine: for what times something."""
    loaded = load(path)
    take_gpu(loaded.tensor_parallel_size)
    return loaded


def load_beside_others(path: Path, model: Path, need: Callable):
    """As `load_with_gpu`, for what times nothing: a GPU is shared with others, as many as its memory holds. `need` of
    planning.memory_plan says how much a stage takes of it with a model of the shape of `model`."""
    from swiftkv.engines.engine import GIB
    from swiftkv.modeling.checkpoint import read_shape

    loaded = load(path)
    wanted = need(loaded, read_shape(model))
    take_gpu(wanted.gpus, wanted.each / GIB if wanted.gpus == 1 else None)
    return loaded


def jobs_here(config, model: Path, most: Callable) -> int:
    """How many jobs of a stage run side by side on this machine; `most` of planning.memory_plan says how many a GPU
    holds with a model of the shape of `model`."""
    from swiftkv import devices, provenance
    from swiftkv.modeling.checkpoint import read_shape

    smallest = min(devices.memory_gib().values(), default=None) if devices.visible() else None
    machine = provenance.hardware()
    return most(config, read_shape(model), smallest, machine["cores"], machine.get("memory_gib", 0))


def take_gpu(count: int = 1, gib: float | None = None) -> None:
    """Lease `count` GPUs until the command ends, where the machine has any: alone, or `gib` of the memory of each."""
    from swiftkv import devices

    devices.lease(count, gib)


def instead(show: Callable, *arguments) -> NoReturn:
    """End a command with what an option such as --plan asks for in its place: `show` prints it, and nothing is run."""
    show(*arguments)
    raise typer.Exit()


def student_dirs(config, models: Path) -> dict[str, Path]:
    """The directory of every variant below `models`."""
    return {variant.name: models / variant.name for variant in config.variants}


def base_of(config, base: Path | None) -> Path:
    """The base model's directory: the one that was named, which must be there, else where the pipeline keeps it."""
    if base is not None and not base.is_dir():
        raise UserError(f"--base {base}: no such model directory")
    return base or config.model_dir("base")


def root_of(config, results: Path | None) -> Path:
    """The directory above that of the run. Raises UserError if `results` does not bear the name of the scale."""
    if results is None:
        return config.results.parent
    if results.name != config.scale:
        raise UserError(
            f"--results {results}: allowed is a directory named {config.scale!r}, the configuration's scale"
        )
    return results.parent
