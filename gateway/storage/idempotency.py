"""Idempotency keys: which task a key stands for. Taken in the transaction that admits the task."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway.storage.schema import idempotency_keys


@dataclass(frozen=True, slots=True)
class Claim:
    """A client's key for one operation of a project, and what the request says."""

    project_id: str
    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a key stands for already."""

    task_id: str
    fingerprint: str


def find(conn: sa.Connection, claim: Claim, since_ms: int) -> Claimed | None:
    """Return what the key stands for; None if it is new, or older than it is kept."""
    row = conn.execute(
        sa.select(idempotency_keys.c.task_id, idempotency_keys.c.fingerprint).where(
            *_is(claim), idempotency_keys.c.created_at_ms >= since_ms
        )
    ).one_or_none()
    return None if row is None else Claimed(row.task_id, row.fingerprint)


def take(conn: sa.Connection, claim: Claim, task_id: str, now_ms: int, since_ms: int) -> bool:
    """Let the key stand for the task. False if another transaction was first."""
    conn.execute(
        sa.delete(idempotency_keys).where(*_is(claim), idempotency_keys.c.created_at_ms < since_ms)
    )
    taken = conn.execute(
        sa.text(
            "INSERT INTO idempotency_keys "
            "(project_id, route, key, fingerprint, task_id, created_at_ms) "
            "VALUES (:project_id, :route, :key, :fingerprint, :task_id, :now_ms) "
            "ON CONFLICT (project_id, route, key) DO NOTHING"
        ),
        {
            "project_id": claim.project_id,
            "route": claim.route,
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "task_id": task_id,
            "now_ms": now_ms,
        },
    )
    return taken.rowcount == 1


def free(conn: sa.Connection, task_id: str) -> None:
    """Forget the keys of a task that was refused: a refused request stores nothing."""
    conn.execute(sa.delete(idempotency_keys).where(idempotency_keys.c.task_id == task_id))


def purge(conn: sa.Connection, before_ms: int, limit: int) -> int:
    """Forget keys made before `before_ms`, some at a time; return how many."""
    old = (
        sa.select(idempotency_keys.c.project_id, idempotency_keys.c.route, idempotency_keys.c.key)
        .where(idempotency_keys.c.created_at_ms < before_ms)
        .limit(limit)
    )
    rows = list(conn.execute(old))
    for row in rows:
        conn.execute(sa.delete(idempotency_keys).where(*_is(Claim(row[0], row[1], row[2], ""))))
    return len(rows)


def _is(claim: Claim) -> tuple[sa.ColumnElement[Any], ...]:
    columns = idempotency_keys.c
    return (
        columns.project_id == claim.project_id,
        columns.route == claim.route,
        columns.key == claim.key,
    )
