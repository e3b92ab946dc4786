"""Telling other processes what a transaction changed.

On PostgreSQL a change is a NOTIFY of the transaction itself: it is heard if, and only when, the
transaction commits. On SQLite there is nothing to send: every process sees that the file moved.
"""

from typing import Final

import sqlalchemy as sa

from gateway.ports import Change, ChangeKind

CHANNEL: Final = "gateway_changes"


def emit(conn: sa.Connection, change: Change) -> None:
    """Report `change` to whoever watches, once this transaction is committed."""
    if conn.dialect.name == "postgresql":
        payload = f"{change.kind} {change.task_id} {change.version}"
        conn.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))


def parse(payload: str) -> Change:
    """Return the change that `emit` wrote; ALL for anything else, as from another release."""
    parts = payload.split(" ")
    if len(parts) == 3 and parts[0] in {kind.value for kind in ChangeKind} and parts[2].isdecimal():
        return Change(ChangeKind(parts[0]), parts[1], int(parts[2]))
    return Change(ChangeKind.ALL)
