"""Stored requests: the JSON text of each task's normalized request, kept as long as it may be.

What a body is replaced by, when it expires, is the services' decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway.ports import Change, ChangeKind
from gateway.storage import changes
from gateway.storage.schema import task_requests, tasks


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A task's request; `expires_at_ms` says when it must be erased, None if it may stay."""

    task_id: str
    body: str
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class RequestSelector:
    """Which requests an operator means: all conditions given must hold."""

    task_id: str | None = None
    project_id: str | None = None
    before_ms: int | None = None
    """Those of tasks created before this time."""


def insert(conn: sa.Connection, request: StoredRequest) -> None:
    """Store a new task's request."""
    conn.execute(
        sa.insert(task_requests),
        {
            "task_id": request.task_id,
            "body": request.body,
            "expires_at_ms": request.expires_at_ms,
        },
    )


def find_expired(conn: sa.Connection, now_ms: int, limit: int) -> Sequence[StoredRequest]:
    """Return requests whose time is over, the oldest first."""
    return _read(
        conn,
        sa.select(task_requests)
        .where(task_requests.c.expires_at_ms <= now_ms)
        .order_by(task_requests.c.expires_at_ms)
        .limit(limit),
    )


def find_body(conn: sa.Connection, task_id: str) -> str | None:
    """Return the JSON text of a task's request."""
    found = sa.select(task_requests.c.body).where(task_requests.c.task_id == task_id)
    body: str | None = conn.execute(found).scalar_one_or_none()
    return body


def lock(conn: sa.Connection, task_id: str) -> StoredRequest | None:
    """Return a task's request for changing it; nobody else changes it before we are done."""
    found = sa.select(task_requests).where(task_requests.c.task_id == task_id).with_for_update()
    return next(iter(_read(conn, found)), None)


def page_requests(
    conn: sa.Connection, selector: RequestSelector, after_id: str, limit: int
) -> Sequence[StoredRequest]:
    """Return the selected requests by task id, from the one behind `after_id` on ("" to begin)."""
    chosen = (
        sa.select(task_requests)
        .join(tasks, tasks.c.id == task_requests.c.task_id)
        .where(task_requests.c.task_id > after_id)
        .order_by(task_requests.c.task_id)
        .limit(limit)
    )
    if selector.task_id is not None:
        chosen = chosen.where(tasks.c.id == selector.task_id)
    if selector.project_id is not None:
        chosen = chosen.where(tasks.c.project_id == selector.project_id)
    if selector.before_ms is not None:
        chosen = chosen.where(tasks.c.created_at_ms < selector.before_ms)
    return _read(conn, chosen)


def replace_body(conn: sa.Connection, request: StoredRequest) -> None:
    """Store another body in the transaction of a move, which is itself reported."""
    _replace(conn, [request])


def replace_bodies(conn: sa.Connection, requests: Sequence[StoredRequest]) -> None:
    """Store other bodies for these tasks, and let nobody keep answers that show the old ones."""
    if requests:
        _replace(conn, requests)
        changes.emit(conn, Change(ChangeKind.ALL))


def _replace(conn: sa.Connection, requests: Sequence[StoredRequest]) -> None:
    conn.execute(
        sa.update(task_requests)
        .where(task_requests.c.task_id == sa.bindparam("of_task"))
        .values(body=sa.bindparam("body"), expires_at_ms=sa.bindparam("expires_at_ms")),
        # In the order of ids, so that two writers lock shared rows in the same order.
        [
            {"of_task": each.task_id, "body": each.body, "expires_at_ms": each.expires_at_ms}
            for each in sorted(requests, key=lambda each: each.task_id)
        ],
    )


def _read(conn: sa.Connection, chosen: sa.Select[Any]) -> Sequence[StoredRequest]:
    return [StoredRequest(row.task_id, row.body, row.expires_at_ms) for row in conn.execute(chosen)]
