"""House rules that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.observability.logging import EVENTS

REPOSITORY = Path(__file__).resolve().parents[2]
LOGGING_METHODS = {"debug", "info", "warning", "error", "exception", "log", "write"}
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
MONEY = ("auditing", "balances", "billing", "money", "prices", "quotes", "usage")
"""Modules of the domain that count money, which is whole numbers and nothing else."""
SOURCES = sorted(
    path
    for folder in ("gateway", "tests", "scripts")
    for path in (REPOSITORY / folder).rglob("*.py")
    if "clients" not in path.parts
)
PRODUCT = [path for path in SOURCES if (REPOSITORY / "gateway") in path.parents]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert path.read_text().count("\n") <= FILE_LINES_MAX
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long


def logged_events() -> set[str]:
    """Every literal first argument of a logging method."""
    found = set()
    for path in PRODUCT:
        if "sandbox" in path.parts:
            continue  # a program of its own
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOGGING_METHODS
            ):
                words = [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
                found |= {word for word in words if re.fullmatch(r"[a-z]+\.[a-z_]+", word)}
    return found


def test_every_log_event_is_declared_and_every_declared_one_is_logged() -> None:
    assert logged_events() == EVENTS


@pytest.mark.parametrize("name", MONEY)
def test_no_money_is_ever_a_float(name: str) -> None:
    tree = ast.parse((REPOSITORY / "gateway" / "domain" / f"{name}.py").read_text())

    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div), "the quotient of two whole numbers may be none"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"})


def test_only_the_client_modules_import_httpx() -> None:
    importing = [
        str(path.relative_to(REPOSITORY))
        for path in PRODUCT
        if re.search(r"^\s*(import|from) httpx", path.read_text(), re.MULTILINE)
    ]

    assert importing == ["gateway/delivery/client.py", "gateway/upstreams/client.py"]


def test_no_tracked_text_names_a_package_registry() -> None:
    names = ("py" + "pi.org", "python" + "hosted", "npm" + "js.", "crates" + ".io")
    suffixes = {".py", ".md", ".toml", ".lock", ".in", ".yaml", ".json", ".sh"}
    files = [
        path
        for path in REPOSITORY.rglob("*")
        if path.is_file()
        and (path.suffix in suffixes or path.name in {"Makefile", "Dockerfile"})
        and not any(part.startswith(".") and part != ".ci" for part in path.parts[1:])
    ]

    assert files
    assert not [path for path in files if any(name in path.read_text() for name in names)]


def test_what_the_architecture_page_names_exists() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(gateway/[a-z_/]+(?:\.py)?)`", text))

    assert len(named) > 15
    assert not [name for name in named if not (REPOSITORY / name).exists()]


def test_the_architecture_page_names_every_service() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    services = {path.stem for path in (REPOSITORY / "gateway" / "services").glob("[a-z]*.py")}

    assert not [name for name in services if f"`{name}`" not in text and f"`{name}.py`" not in text]
