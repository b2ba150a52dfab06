"""Generated Python, parsed and compared, never run."""

import ast
from difflib import SequenceMatcher


def normal_form(source: str) -> str | None:
    """The source as its syntax tree writes it, without comments; None if it does not parse."""
    try:
        return ast.unparse(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def edit_similarity(expected: str, given: str) -> float:
    """Share of characters in common, 2 M / T of difflib (fuzzywuzzy's ratio, as code completion reports it)."""
    return SequenceMatcher(None, expected, given, autojunk=False).ratio()
