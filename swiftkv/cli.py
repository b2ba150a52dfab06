"""The `swiftkv` command: one sub-command per pipeline stage, each of which also runs by hand.

Errors a user can mend are printed as one line on standard error and end with exit code 2; where there is nothing to
check or to judge, it is 1.
"""

import os
import sys
from collections.abc import Callable

from swiftkv import devices

devices.keep_memory()  # before anything heavy is imported, because the command begins again

from swiftkv.commands import cli, measure, models, planning, results  # noqa: E402, F401 (each registers its commands)
from swiftkv.errors import UserError  # noqa: E402

cli.info.help = __doc__


def end_in_one_line(command: Callable[[], None]) -> None:
    """Run a command; a UserError becomes one line on standard error and its exit code."""
    try:
        command()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"swiftkv: error: {error}", file=sys.stderr)
        sys.exit(error.code)


def app() -> None:
    """Entry point."""
    end_in_one_line(cli)


if __name__ == "__main__":
    app()
