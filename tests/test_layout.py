"""The shape of the code: sizes, docstrings, and that there is no other place for configuration."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1] / "pytest_kvm"
MODULES = sorted(PACKAGE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
LONGEST_MODULE, LONGEST_FUNCTION = 400, 45


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.fixture(params=MODULES, ids=name_of)
def module(request: pytest.FixtureRequest) -> Path:
    """Give each module of the package in turn."""
    path: Path = request.param
    return path


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Count the lines from ``def`` to the end, the docstring left out."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_no_module_is_too_long(module: Path) -> None:
    """A module holds one concept."""
    assert len(module.read_text().splitlines()) <= LONGEST_MODULE


def test_no_function_is_too_long(module: Path) -> None:
    """A function fits on a screen."""
    tree = ast.parse(module.read_text())
    assert [(node.name, length(node)) for node in functions(tree) if length(node) > LONGEST_FUNCTION] == []


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    """Yield what a user can reach: no leading underscore, not inside a function."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def test_every_public_name_says_what_it_is_for(module: Path) -> None:
    """Modules, classes and functions have docstrings."""
    text = module.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not text.strip()
    assert [node.name for node in public(tree) if not ast.get_docstring(node)] == []


def test_a_docstring_starts_with_one_sentence(module: Path) -> None:
    """The first line can be read alone."""
    tree = ast.parse(module.read_text())
    docstrings = [ast.get_docstring(node) for node in (tree, *public(tree))]
    assert [text for text in docstrings if text and text.split("\n\n")[0].rstrip()[-1] not in ".:!?)"] == []
