"""Scripts of benchmarks/ with `python3` and `swiftkv` that only note how they were called."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import typer

from swiftkv import cli
from swiftkv.config import ROOT

# Python still runs what a script hands it as text.
RECORD = '#!/bin/sh\ncase "$1" in -c | -) exec {python} "$@" ;; esac\necho "${{0##*/}} $*" >>{log}\n{then}\n'


def recorded(
    script: str, project: Path, *arguments: str, then: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Run a script of `project`/benchmarks; `then` is what every command does after it noted its arguments in
    commands.log."""
    (project / "bin").mkdir(exist_ok=True)
    for name in ("python3", "swiftkv"):
        path = project / "bin" / name
        path.write_text(RECORD.format(python=sys.executable, log=project / "commands.log", then=then))
        path.chmod(0o755)
    settings = {"PATH": f"{project / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", str(project / "benchmarks" / script), *arguments]
    return subprocess.run(command, env=os.environ | settings | environment, capture_output=True, text=True, timeout=120)


def noted(project: Path) -> list[list[str]]:
    """The words of every command so far."""
    path = project / "commands.log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def parse(words: list[str]) -> str:
    """The stage's name, if the command line fits the command's options; click raises an error otherwise."""
    if words[0] == "swiftkv":
        app, words = cli.cli, words[1:]
    else:
        module = importlib.import_module(os.path.basename(words[1]).removesuffix(".py"))
        app, words = getattr(module, "cli", None), words[2:]
        if app is None:
            app = typer.Typer(add_completion=False)
            app.command(module.__name__)(module.main)
    command = typer.main.get_command(app)
    if hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context(command.name, words).command.name
