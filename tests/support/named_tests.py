"""Tests as they are named elsewhere, in documents and in lists: whether they are there."""

import ast
from collections.abc import Iterable
from functools import cache

from tests.support.gateway import REPOSITORY


def find_missing(names: Iterable[str]) -> list[str]:
    """Return those of `path::function` and `path::Class::function` that no file has.

    A parameter, as in `function[sqlite]`, is not looked at.
    """
    return [name for name in names if name.partition("[")[0] not in _tests_of(_path_of(name))]


def _path_of(name: str) -> str:
    return name.partition("::")[0]


@cache
def _tests_of(path: str) -> frozenset[str]:
    file = REPOSITORY / path
    if not file.is_file():
        return frozenset()
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(f"{path}::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{path}::{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(found)
