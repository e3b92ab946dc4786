"""What a PostgreSQL database says, for the judge, who reads SQLite."""

import sqlite3
from contextlib import closing
from typing import Any, Final

import pytest

from tests.support.oracle import Books, read_books_of

_TABLES: Final = (
    *("tasks", "task_transitions", "reservations", "ledger_entries", "balances", "orphans"),
)


async def read_books_at(url: str) -> Books:
    """Read all that counts in one transaction."""
    asyncpg: Any = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = {name: await connection.fetch(f"SELECT * FROM {name}") for name in _TABLES}  # noqa: S608
    finally:
        await connection.close()
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.row_factory = sqlite3.Row
        for name, rows in found.items():
            _copy(conn, name, [dict(row) for row in rows])
        return read_books_of(conn)


def _copy(conn: sqlite3.Connection, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        columns, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        conn.execute(f"CREATE TABLE {name} ({columns})")
        conn.executemany(
            f"INSERT INTO {name} VALUES ({marks})",  # noqa: S608
            [list(row.values()) for row in rows],
        )
