"""Benchmarks are not run by the tests; what they take from one another must be there all the same."""

import ast
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))
TREES = {path.stem: ast.parse(path.read_text()) for path in FILES}


def defined(tree):
    """Names at the top of a file."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name)) if target else ()


@pytest.mark.parametrize("name", TREES)
def test_what_a_benchmark_takes_from_another_is_there(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            assert {alias.name for alias in node.names} <= set(defined(TREES[node.module])), node.module
