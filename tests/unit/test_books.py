"""The audit after each test: that it fires, and that it can be told not to."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.storage import projects, schema
from tests.support.booked import OPEN, SPOILED, make_books, spoil
from tests.support.books import DATABASE_FILE, find_differences, find_differences_below
from tests.support.stored import a_project, an_event

REPOSITORY = Path(__file__).parents[2]
TESTS = """
from pathlib import Path

import pytest

from tests.unit.test_books import write_books


def test_that_spoils_books_by_mistake(tmp_path: Path) -> None:
    write_books(tmp_path / "data", "a hold is made smaller")


@pytest.mark.tampers_with_books
def test_that_spoils_books_on_purpose(tmp_path: Path) -> None:
    write_books(tmp_path / "data", "a hold is made smaller")


def test_that_keeps_books(tmp_path: Path) -> None:
    write_books(tmp_path / "data")


def test_without_books() -> None:
    pass
"""


def write_books(folder: Path, spoiled: str | None = None) -> Path:
    """Make a database with a task of each kind in a folder, and spoil it if that is asked for."""
    folder.mkdir()
    path = folder / DATABASE_FILE
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as conn:
        schema.create(conn)
        projects.insert(conn, a_project(), an_event("default"))
        make_books(conn)
        if spoiled is not None:
            spoil(conn, SPOILED[spoiled])
    engine.dispose()
    return path


@pytest.mark.tampers_with_books
def test_a_test_that_leaves_wrong_books_fails_unless_it_means_to(tmp_path: Path) -> None:
    module = tmp_path / "test_inner.py"
    module.write_text(TESTS)

    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    command += ["--basetemp", str(tmp_path / "inner"), str(module)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )

    assert "4 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR" in done.stdout
    assert "test_that_spoils_books_by_mistake" in done.stdout
    assert f"{OPEN}: " in done.stdout


def test_right_books_have_no_difference_on_disk_or_in_memory(tmp_path: Path) -> None:
    path = write_books(tmp_path / "data")

    with closing(sqlite3.connect(path)) as conn:
        assert find_differences(conn) == []
    assert find_differences(path) == []
    assert find_differences_below(tmp_path) == []


@pytest.mark.tampers_with_books
def test_each_difference_tells_in_which_file_it_is(tmp_path: Path) -> None:
    write_books(tmp_path / "right")
    path = write_books(tmp_path / "wrong", "a hold is made smaller")

    differences = find_differences_below(tmp_path)

    assert differences
    assert all(difference.startswith(f"{path}: ") for difference in differences)


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
def test_a_file_without_a_ledger_has_no_difference(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(content)

    assert find_differences_below(tmp_path) == []
