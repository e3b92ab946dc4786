"""Fixtures for every folder: a throw-away PostgreSQL cluster, and an audit after each test."""

from collections.abc import Iterator

import pytest

from tests.support.books import find_differences_below
from tests.support.postgres import (
    _database_numbers,
    postgres_server,
    postgres_url,
)

__all__ = ["_books_add_up", "_database_numbers", "postgres_server", "postgres_url"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables of long tests that passed, too, whichever worker they ran in."""
    for report in terminalreporter.stats.get("passed", ()):
        if "long" in report.keywords and report.capstdout.strip():
            terminalreporter.section(report.nodeid)
            terminalreporter.write_line(report.capstdout.strip())


_ROOMS_THAT_WAIT = ("chaos", "e2e", "simulation", "contract", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long-winded rooms: many workers end together on many small tests."""
    ranks = {room: rank for rank, room in enumerate(_ROOMS_THAT_WAIT)}
    rooms = {item.nodeid: item.nodeid.partition("/")[2].partition("/")[0] for item in items}
    items.sort(key=lambda item: ranks.get(rooms[item.nodeid], len(ranks)))


@pytest.fixture(autouse=True)
def _books_add_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, the books of every gateway database in its folder add up.

    A test that spoils them on purpose has the marker `tampers_with_books`.
    """
    is_judged = request.node.get_closest_marker("tampers_with_books") is None
    # Asked for before anything that puts a database there, it is looked into after all that.
    uses_folder = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if uses_folder and is_judged else None
    yield
    if folder is not None:
        differences = find_differences_below(folder)
        assert not differences, "\n".join(differences)
