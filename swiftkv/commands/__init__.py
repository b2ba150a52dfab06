"""The sub-commands of `swiftkv` by what they are for, and the options they share."""

from pathlib import Path
from typing import Annotated

import typer

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Work = Annotated[Path, typer.Option(help="Where unfinished work is kept, to be resumed.")]
Base = Annotated[Path, typer.Option(help="Directory of the base model.")]
CONFIG = Path("config/config.yaml")


def load(path: Path):
    from swiftkv.config import load_config

    return load_config(path)


def take_gpu(count: int = 1) -> None:
    """Lease `count` GPUs until the command ends, where the machine has any."""
    from swiftkv import devices

    devices.lease(count)
