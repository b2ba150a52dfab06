"""The tests themselves: what they share lies in tests/helpers, and no test reaches into another."""

import ast

from swiftkv.config import ROOT


def test_tests_import_helpers_and_not_each_other():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            ours = [name for name in names if name.split(".")[0] == "tests"]
            assert all(name.startswith("tests.helpers") for name in ours), f"{path}: imports {ours}"
        assert path.name == "test_tests.py" or "sys.path.insert" not in text, f"{path}: changes sys.path"
