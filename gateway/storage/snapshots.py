"""Reads of several statements that see one state of the database."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa


@contextmanager
def snapshot(conn: sa.Connection) -> Iterator[None]:
    """Let all statements of a read see the same state, whatever is committed meanwhile.

    Both engines run the statements of a read each by itself. While this lasts SQLite's log grows,
    and one of the readers is taken.
    """
    if conn.dialect.name == "sqlite":
        if getattr(conn.connection.dbapi_connection, "in_transaction", False):
            yield  # somebody has seen to it already
            return
        begin = "BEGIN"
    else:
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    conn.exec_driver_sql(begin)
    try:
        yield
    except BaseException:
        # What went wrong is to be seen, not that a lost connection can't be rolled back.
        with suppress(sa.exc.SQLAlchemyError):
            conn.exec_driver_sql("ROLLBACK")
        raise
    conn.exec_driver_sql("ROLLBACK")
