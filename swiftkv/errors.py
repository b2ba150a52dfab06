"""The error a user caused or can mend: printed as one line, exit code 2, no traceback."""


class UserError(Exception):
    """One clear line that names the culprit and, where there is one, the way out."""
