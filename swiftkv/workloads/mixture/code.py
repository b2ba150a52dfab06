"""Functions of the running Python's standard library, whole or with the middle to be filled in."""

import ast
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

from swiftkv.workloads.fim import fim_marks, fim_prompt

LINES = (5, 60)  # of a function, decorators included
LARGEST_HOLE = 6  # lines
# Not the library's own code: installed packages, and tests, which repeat themselves.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def standard_library() -> Iterator[Path]:
    """The library's source files, in order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            yield path


def definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods below `node`, without those inside other functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from definitions(child)


def parsed(source: str) -> ast.Module | None:
    """The syntax tree; None if the source does not parse."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def functions(source: str) -> Iterator[str]:
    """The functions of a source, of as many lines as LINES says, brought to the left margin."""
    tree, lines = parsed(source), source.split("\n")
    for node in definitions(tree) if tree else ():
        first = min(part.lineno for part in (node, *node.decorator_list))
        if LINES[0] <= node.end_lineno - first + 1 <= LINES[1]:
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
            if parsed(text):  # a string that begins further left than the function may keep it from moving
                yield text


def hole(function: str, rng: Random) -> tuple[str, str, str]:
    """The function as prefix, middle and suffix; the middle is a line, or a few, of its body."""
    lines = function.splitlines(keepends=True)
    start = rng.choice([number for number, line in enumerate(lines) if number and line.strip()])
    end = start + rng.choice((1, rng.randint(2, LARGEST_HOLE)))
    return "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:])


def filled(marks: tuple[str, str, str], prefix: str, middle: str, suffix: str) -> str:
    """What a model that fills in the middle is trained on."""
    return fim_prompt(marks, prefix, suffix) + middle


def rows(fim: float, tokenizer, rng: Random) -> Iterator[dict]:
    """Every function once; a share of `fim` with a hole, if the tokenizer has the marks for it."""
    found = [
        text for path in standard_library() for text in functions(path.read_text(encoding="utf-8", errors="replace"))
    ]
    rng.shuffle(found)
    marks = fim_marks(tokenizer)
    for text in found:
        yield {"text": filled(marks, *hole(text, rng)) if marks and rng.random() < fim else text}
