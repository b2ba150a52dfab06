"""The error a user caused or can mend: printed as one line, no traceback."""


class UserError(Exception):
    """One clear line that names the culprit and, where there is one, the way out. `code` is the command's exit code."""

    code = 2


class NothingToJudge(UserError):
    """There is nothing that could be checked or judged, which is no success: exit code 1, as for a difference."""

    code = 1
