"""The outbox: what is to be told to other servers, written with the move that it tells of."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from gateway.domain.webhooks import (
    DeliveryError,
    Notification,
    NotificationKind,
    NotificationState,
)
from gateway.storage.schema import notifications


def add(conn: sa.Connection, notification: Notification) -> None:
    """Write a notification; nothing happens if its id is there: what it tells was told before."""
    conn.execute(
        sa.text(
            "INSERT INTO notifications (id, task_id, kind, url, body, state, created_at_ms, "
            "attempt_count, next_attempt_at_ms, last_status, last_error) VALUES (:id, :task_id, "
            ":kind, :url, :body, :state, :created_at_ms, :attempt_count, :next_attempt_at_ms, "
            ":last_status, :last_error) ON CONFLICT (id) DO NOTHING"
        ),
        {
            "id": notification.id,
            "task_id": notification.task_id,
            "kind": notification.kind.value,
            "url": notification.url,
            "body": notification.body.decode(),
            "created_at_ms": notification.created_at_ms,
            **_progress(notification),
        },
    )


def claim_due(
    conn: sa.Connection, now_ms: int, lease_until_ms: int, limit: int
) -> Sequence[Notification]:
    """Lease notifications whose attempt is due: nobody else gets them before the lease ends."""
    due = (
        sa.select(notifications.c.id)
        .where(
            notifications.c.next_attempt_at_ms <= now_ms,
            notifications.c.state == NotificationState.PENDING.value,
        )
        .order_by(notifications.c.next_attempt_at_ms, notifications.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = conn.execute(
        sa.update(notifications)
        .where(notifications.c.id.in_(sa.select(due.c.id)))
        .values(next_attempt_at_ms=lease_until_ms)
        .returning(notifications)
    )
    return sorted(map(_notification, rows), key=lambda one: (one.created_at_ms, one.id))


def record(conn: sa.Connection, notification: Notification) -> None:
    """Store how far its delivery has come."""
    conn.execute(
        sa.update(notifications)
        .where(notifications.c.id == notification.id)
        .values(**_progress(notification))
    )


def find(conn: sa.Connection, notification_id: str) -> Notification | None:
    row = conn.execute(
        sa.select(notifications).where(notifications.c.id == notification_id)
    ).one_or_none()
    return None if row is None else _notification(row)


def list_newest(
    conn: sa.Connection,
    limit: int,
    *,
    state: NotificationState | None = None,
    task_id: str | None = None,
) -> Sequence[Notification]:
    """Return the newest notifications, for operators."""
    chosen = sa.select(notifications)
    if state is not None:
        chosen = chosen.where(notifications.c.state == state.value)
    if task_id is not None:
        chosen = chosen.where(notifications.c.task_id == task_id)
    newest = chosen.order_by(notifications.c.created_at_ms.desc(), notifications.c.id.desc())
    return [_notification(row) for row in conn.execute(newest.limit(limit))]


def count_by_state(conn: sa.Connection) -> Mapping[NotificationState, int]:
    """Return how many wait and how many were given up; the delivered ones are not counted."""
    counted = (NotificationState.PENDING, NotificationState.DEAD)
    rows = conn.execute(
        sa.select(notifications.c.state, sa.func.count())
        .where(notifications.c.state.in_([state.value for state in counted]))
        .group_by(notifications.c.state)
    )
    return dict.fromkeys(counted, 0) | {NotificationState(row[0]): row[1] for row in rows}


def purge(conn: sa.Connection, before_ms: int, limit: int) -> int:
    """Forget some of those made before `before_ms` that are not pending; return how many."""
    old = (
        sa.select(notifications.c.id)
        .where(
            notifications.c.created_at_ms < before_ms,
            notifications.c.state != NotificationState.PENDING.value,
        )
        .limit(limit)
    )
    return conn.execute(sa.delete(notifications).where(notifications.c.id.in_(old))).rowcount


def _progress(notification: Notification) -> Mapping[str, object]:
    error = notification.last_error
    return {
        "state": notification.state.value,
        "attempt_count": notification.attempt_count,
        "next_attempt_at_ms": notification.next_attempt_at_ms,
        "last_status": notification.last_status,
        "last_error": None if error is None else error.value,
    }


def _notification(row: sa.Row[Any]) -> Notification:
    return Notification(
        id=row.id,
        task_id=row.task_id,
        kind=NotificationKind(row.kind),
        url=row.url,
        body=row.body.encode(),
        created_at_ms=row.created_at_ms,
        next_attempt_at_ms=row.next_attempt_at_ms,
        attempt_count=row.attempt_count,
        state=NotificationState(row.state),
        last_status=row.last_status,
        last_error=None if row.last_error is None else DeliveryError(row.last_error),
    )
