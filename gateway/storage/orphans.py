"""Orphans: upstream tasks that belong to no task here, or to one that was given up.

Only those get a row that may be the gateway's. A row is never taken away because time has passed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from gateway.storage.schema import orphans

_IDS_PER_QUERY: Final = 500
# Several may find one at the same time: who comes second waits for the first, then adds nothing.
_ADD: Final = sa.text(
    "INSERT INTO orphans (upstream, credential, upstream_task_id, task_id, found_at_ms, "
    "created_at_ms, status, is_proved, model, tokens) VALUES (:upstream, :credential, "
    ":upstream_task_id, :task_id, :found_at_ms, :created_at_ms, :status, :is_proved, :model, "
    ":tokens) "
    "ON CONFLICT (upstream, credential, upstream_task_id) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class StoredOrphan:
    upstream: str
    credential: str
    upstream_task_id: str
    found_at_ms: int
    status: str
    """As the upstream told it last."""
    created_at_ms: int | None = None
    task_id: str | None = None
    """The task that it is believed to have come of; None if there is none."""
    is_proved: bool = False
    """Whether that is proved: by a marker, a callback, or the answer itself."""
    entry_step: int | None = None
    """The step of that task's entry in the ledger that bears what it costs."""
    model: str | None = None
    tokens: int | None = None
    """As the upstream told them last."""


def record(conn: sa.Connection, orphan: StoredOrphan) -> bool:
    """Write a new orphan, or how one that is known stands now. False if it was known."""
    added = conn.execute(
        _ADD,
        {
            "upstream": orphan.upstream,
            "credential": orphan.credential,
            "upstream_task_id": orphan.upstream_task_id,
            "task_id": orphan.task_id,
            "found_at_ms": orphan.found_at_ms,
            "created_at_ms": orphan.created_at_ms,
            "status": orphan.status,
            "is_proved": int(orphan.is_proved),
            "model": orphan.model,
            "tokens": orphan.tokens,
        },
    )
    if added.rowcount:
        return True
    conn.execute(
        sa.update(orphans)
        .where(*_is(orphan))
        .values(
            status=orphan.status,
            model=orphan.model,
            tokens=orphan.tokens,
            **({"is_proved": 1} if orphan.is_proved else {}),
        )
    )
    return False


def find_task_id(conn: sa.Connection, orphan: StoredOrphan) -> str | None:
    """Return the task that a recorded orphan is believed to have come of."""
    found = sa.select(orphans.c.task_id).where(*_is(orphan))
    return conn.execute(found).scalar_one_or_none()


def find_step(conn: sa.Connection, orphan: StoredOrphan) -> int | None:
    """Return the step of the entry that bears what a recorded orphan costs; None if none does."""
    found = sa.select(orphans.c.entry_step).where(*_is(orphan))
    return conn.execute(found).scalar_one_or_none()


def note_step(conn: sa.Connection, orphan: StoredOrphan, step: int) -> None:
    """Note which entry of the ledger bears what a recorded orphan costs."""
    conn.execute(sa.update(orphans).where(*_is(orphan)).values(entry_step=step))


def forget(conn: sa.Connection, upstream: str, upstream_task_id: str) -> None:
    """Take away an orphan that an operator gave to a task."""
    conn.execute(
        sa.delete(orphans).where(
            orphans.c.upstream == upstream, orphans.c.upstream_task_id == upstream_task_id
        )
    )


def find(
    conn: sa.Connection, upstream: str, credential: str, upstream_task_ids: Collection[str]
) -> Mapping[str, StoredOrphan]:
    """Return those of the ids that are orphans of the credential."""
    found: dict[str, StoredOrphan] = {}
    ids = iter(upstream_task_ids)
    while part := list(islice(ids, _IDS_PER_QUERY)):
        rows = conn.execute(
            sa.select(orphans).where(
                orphans.c.upstream == upstream,
                orphans.c.credential == credential,
                orphans.c.upstream_task_id.in_(part),
            )
        )
        found |= {row.upstream_task_id: _orphan(row) for row in rows}
    return found


def list_of_task(conn: sa.Connection, task_id: str) -> Sequence[StoredOrphan]:
    """Return the orphans that are believed to have come of a task."""
    rows = conn.execute(sa.select(orphans).where(orphans.c.task_id == task_id))
    return [_orphan(row) for row in rows]


def list_newest(conn: sa.Connection, limit: int) -> Sequence[StoredOrphan]:
    """Return the orphans found last: for operators."""
    newest = sa.select(orphans).order_by(orphans.c.found_at_ms.desc(), orphans.c.upstream_task_id)
    return [_orphan(row) for row in conn.execute(newest.limit(limit))]


def count(conn: sa.Connection) -> tuple[int, int]:
    """Return how many are proved to be of tasks that were given up, and how many are not."""
    rows = conn.execute(
        sa.select(orphans.c.is_proved, sa.func.count()).group_by(orphans.c.is_proved)
    )
    counts = {bool(row[0]): row[1] for row in rows}
    return counts.get(True, 0), counts.get(False, 0)


def _is(orphan: StoredOrphan) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        orphans.c.upstream == orphan.upstream,
        orphans.c.credential == orphan.credential,
        orphans.c.upstream_task_id == orphan.upstream_task_id,
    )


def _orphan(row: sa.Row[Any]) -> StoredOrphan:
    return StoredOrphan(
        upstream=row.upstream,
        credential=row.credential,
        upstream_task_id=row.upstream_task_id,
        found_at_ms=row.found_at_ms,
        status=row.status,
        created_at_ms=row.created_at_ms,
        task_id=row.task_id,
        is_proved=bool(row.is_proved),
        entry_step=row.entry_step,
        model=row.model,
        tokens=row.tokens,
    )
