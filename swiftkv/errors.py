"""The error a user caused or can mend: printed as one line, no traceback."""


class UserError(Exception):
    """One clear line that names the culprit and, where there is one, the way out. `code` is the command's exit code.

    What it quotes of a user's files stays within the line: line breaks become blanks, control characters are escaped.
    """

    code = 2

    def __str__(self) -> str:
        line = " ".join(part.strip() for part in super().__str__().splitlines() if part.strip())
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


class Interrupted(UserError):
    """Ctrl-C: exit code 130, as a shell has it."""

    code = 130

    def __init__(self):
        super().__init__("interrupted; what was finished is kept, the same command goes on from there")


class NothingToJudge(UserError):
    """There is nothing that could be checked or judged, which is no success: exit code 1, as for a difference."""

    code = 1


def of_an_extra(error: ModuleNotFoundError) -> str | None:
    """One line for a package that this one imports and that was not installed with it; None where another package lacks
    something, which is that one's fault."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    importer = traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    package = (error.name or "").partition(".")[0]
    if importer != "swiftkv" or package in ("", "swiftkv"):
        return None
    extra = "'cpu' or 'cuda'" if package == "vllm" else "'suite'"
    return f"{package} is not installed: it comes with the extra {extra} of swiftkv-repro"
