"""Which processes are alive: each says so now and then, by a clock that all of them share.

With PostgreSQL that is the database's own, since those of several hosts differ. The one server of a
SQLite database goes by its own.
"""

from typing import Any, Final

import sqlalchemy as sa

from gateway.storage.schema import processes

_DATABASE_NOW_MS: Final = sa.cast(
    sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger
)


def find_alive(now_ms: sa.ColumnElement[int], age_ms: sa.ColumnElement[int]) -> sa.Select[Any]:
    """Return the query of the processes that were seen in the last `age_ms`."""
    return sa.select(processes.c.id).where(processes.c.seen_at_ms >= now_ms - age_ms)


def shared_now_ms(dialect: str, own_now_ms: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return what all processes of the database take for now."""
    return _DATABASE_NOW_MS if dialect == "postgresql" else own_now_ms


def see_process(
    conn: sa.Connection, process_id: str, now_ms: int, forget_after_ms: int | None
) -> None:
    """Note that a process is alive; forget those not seen for so long, or without it all others."""
    seen_at_ms = shared_now_ms(conn.dialect.name, sa.literal(now_ms, sa.BigInteger))
    is_own = processes.c.id == process_id
    seen = conn.execute(sa.update(processes).where(is_own).values(seen_at_ms=seen_at_ms))
    if seen.rowcount == 0:
        conn.execute(sa.insert(processes).values(id=process_id, seen_at_ms=seen_at_ms))
    is_gone = processes.c.id != process_id
    if forget_after_ms is not None:
        is_gone &= processes.c.seen_at_ms < seen_at_ms - forget_after_ms
    conn.execute(sa.delete(processes).where(is_gone))
