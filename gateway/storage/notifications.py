"""The outbox: what is to be told to other servers, written with the move that it tells of.

Callbacks of one task go out in order: while an earlier one is still being tried, those after it
wait. Whoever finds one that has to wait plans it behind the one that it waits for, and the end of
that one makes it due.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.webhooks import (
    HOLDING_ATTEMPTS,
    DeliveryError,
    Notification,
    NotificationKind,
    NotificationState,
)
from gateway.storage import requests
from gateway.storage.schema import notifications

_PASSES_MAX: Final = 20
"""How often one claim looks on where it found callbacks that have to wait."""

# Jumps from receiver to receiver: however much waits for one of them, it is one step.
_WAITING: Final = sa.text(
    "WITH RECURSIVE waiting (receiver) AS ("
    "SELECT min(receiver) FROM notifications WHERE kind = :kind AND receiver > :after "
    "AND next_attempt_at_ms IS NOT NULL "
    "UNION ALL "
    "SELECT (SELECT min(n.receiver) FROM notifications n WHERE n.kind = :kind "
    "AND n.receiver > waiting.receiver AND n.next_attempt_at_ms IS NOT NULL) "
    "FROM waiting WHERE waiting.receiver IS NOT NULL) "
    "SELECT receiver FROM waiting WHERE receiver IS NOT NULL AND EXISTS (SELECT 1 "
    "FROM notifications d WHERE d.kind = :kind AND d.receiver = waiting.receiver "
    "AND d.next_attempt_at_ms <= :now_ms) LIMIT :count_max"
)


def add(conn: sa.Connection, notification: Notification) -> None:
    """Write a notification; nothing happens if its id is there: what it tells was told before."""
    conn.execute(
        sa.text(
            "INSERT INTO notifications (id, task_id, kind, receiver, url, body, state, "
            "created_at_ms, attempt_count, next_attempt_at_ms, ended_at_ms, last_status, "
            "last_error) VALUES (:id, :task_id, :kind, :receiver, :url, :body, :state, "
            ":created_at_ms, :attempt_count, :next_attempt_at_ms, :ended_at_ms, :last_status, "
            ":last_error) ON CONFLICT (id) DO NOTHING"
        ),
        {
            "id": notification.id,
            "task_id": notification.task_id,
            "kind": notification.kind.value,
            "receiver": notification.receiver,
            "url": notification.url,
            "body": notification.body.decode(),
            "created_at_ms": notification.created_at_ms,
            **_progress(notification),
        },
    )


def find_waiting(
    conn: sa.Connection, kind: NotificationKind, now_ms: int, after: str, limit: int
) -> Sequence[str]:
    """Return receivers for whom something is due, round from the one behind `after`."""
    asked = {"kind": kind.value, "now_ms": now_ms, "count_max": limit}
    found = list(conn.execute(_WAITING, {**asked, "after": after}).scalars())
    if after and len(found) < limit:
        first = conn.execute(_WAITING, {**asked, "after": ""}).scalars()
        found = list(dict.fromkeys([*found, *first]))[:limit]
    return found


def claim_due(
    conn: sa.Connection,
    kind: NotificationKind,
    counts: Mapping[str, int],
    now_ms: int,
    lease_until_ms: int,
) -> Sequence[Notification]:
    """Lease up to so many due notifications of each receiver: nobody else gets them meanwhile."""
    claimed: list[Notification] = []
    for receiver in sorted(counts):  # so that two processes lock shared rows in the same order
        claimed += _claim(conn, kind, receiver, counts[receiver], now_ms, lease_until_ms)
    return claimed


def _claim(
    conn: sa.Connection,
    kind: NotificationKind,
    receiver: str,
    limit: int,
    now_ms: int,
    lease_until_ms: int,
) -> Sequence[Notification]:
    claimed: list[Notification] = []
    for _ in range(_PASSES_MAX):
        due = _lock_due(conn, kind, receiver, now_ms, limit - len(claimed))
        earlier = _find_earlier(conn, due)
        for one in due:
            first = earlier.get(one.id, one)
            if _is_due(first, now_ms) and _lease(conn, first.id, now_ms, lease_until_ms):
                claimed.append(first)
            if first is not one:
                _plan(conn, one.id, max(first.next_attempt_at_ms or 0, lease_until_ms))
        if not earlier or len(claimed) >= limit:
            break
    return claimed


def _lock_due(
    conn: sa.Connection, kind: NotificationKind, receiver: str, now_ms: int, limit: int
) -> Sequence[Notification]:
    rows = conn.execute(
        sa.select(notifications)
        .where(
            notifications.c.kind == kind.value,
            notifications.c.receiver == receiver,
            notifications.c.next_attempt_at_ms <= now_ms,
        )
        .order_by(notifications.c.next_attempt_at_ms, notifications.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_notification(row) for row in rows]


def _find_earlier(conn: sa.Connection, due: Sequence[Notification]) -> Mapping[str, Notification]:
    """Return, by id, which callback of the same task each of them has to wait for, if any."""
    waiting = [one for one in due if one.kind is NotificationKind.CALLBACK]
    if not waiting:
        return {}
    rows = conn.execute(
        sa.select(notifications)
        .where(
            notifications.c.task_id.in_({one.task_id for one in waiting}),
            notifications.c.kind == NotificationKind.CALLBACK.value,
            notifications.c.state == NotificationState.PENDING.value,
            notifications.c.attempt_count < HOLDING_ATTEMPTS,
        )
        .order_by(notifications.c.id)
    )
    first: dict[str, Notification] = {}
    for row in rows:
        first.setdefault(row.task_id, _notification(row))
    # A task has less than ten versions, so ids sort as they do.
    return {
        one.id: first[one.task_id]
        for one in waiting
        if one.task_id in first and first[one.task_id].id < one.id
    }


def _is_due(notification: Notification, now_ms: int) -> bool:
    at_ms = notification.next_attempt_at_ms
    return at_ms is not None and at_ms <= now_ms


def _lease(conn: sa.Connection, notification_id: str, now_ms: int, lease_until_ms: int) -> bool:
    leased = conn.execute(
        sa.update(notifications)
        .where(notifications.c.id == notification_id, notifications.c.next_attempt_at_ms <= now_ms)
        .values(next_attempt_at_ms=lease_until_ms)
    )
    return leased.rowcount > 0


def _plan(conn: sa.Connection, notification_id: str, at_ms: int) -> None:
    conn.execute(
        sa.update(notifications)
        .where(
            notifications.c.id == notification_id,
            notifications.c.state == NotificationState.PENDING.value,
        )
        .values(next_attempt_at_ms=at_ms)
    )


def record(conn: sa.Connection, before: Notification, after: Notification, now_ms: int) -> bool:
    """Store how far a delivery has come, and let go of callbacks that waited for it.

    False, and nothing is written, if another process has told of an attempt meanwhile.
    """
    recorded = conn.execute(
        sa.update(notifications)
        .where(
            notifications.c.id == before.id,
            notifications.c.state == NotificationState.PENDING.value,
            notifications.c.attempt_count == before.attempt_count,
        )
        .values(**_progress(after))
    )
    if recorded.rowcount == 0:
        return False
    is_over = after.state is not NotificationState.PENDING
    if is_over and after.kind is NotificationKind.CALLBACK:
        # Locked: of this and a hashing of the request, the one that comes second erases.
        request = requests.lock(conn, after.task_id)
        if request is not None and request.expires_at_ms is None:
            _erase(conn, notifications.c.id == after.id)
    held = after.kind is NotificationKind.CALLBACK and before.attempt_count < HOLDING_ATTEMPTS
    if held and (is_over or after.attempt_count >= HOLDING_ATTEMPTS):
        conn.execute(
            sa.update(notifications)
            .where(
                notifications.c.task_id == after.task_id,
                notifications.c.kind == NotificationKind.CALLBACK.value,
                notifications.c.id > after.id,
                notifications.c.attempt_count == 0,
                notifications.c.next_attempt_at_ms > now_ms,
            )
            .values(next_attempt_at_ms=now_ms)
        )
    return True


def erase(conn: sa.Connection, task_ids: Collection[str]) -> None:
    """Forget address and body of the callbacks of these tasks that have ended.

    Of those that are still to be delivered, `record` does it once their task's request is hashed.
    """
    _erase(conn, notifications.c.task_id.in_(task_ids))


def _erase(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> None:
    """Usage events stay: they say nothing that the ledger does not."""
    conn.execute(
        sa.update(notifications)
        .where(
            chosen,
            notifications.c.kind == NotificationKind.CALLBACK.value,
            notifications.c.ended_at_ms.is_not(None),
        )
        .values(url="", body="")
    )


def renew(conn: sa.Connection, notification: Notification) -> None:
    """Store an operator's decision that it is to be delivered once more, unless it was erased."""
    conn.execute(
        sa.update(notifications)
        .where(notifications.c.id == notification.id, notifications.c.url != "")
        .values(**_progress(notification))
    )


def list_dead(
    conn: sa.Connection, kind: NotificationKind | None, after_id: str, limit: int
) -> Sequence[Notification]:
    """Return some that were given up, by id, from the one behind `after_id` on ("" to begin).

    Those that were erased can't be delivered again.
    """
    chosen = sa.select(notifications).where(
        notifications.c.state == NotificationState.DEAD.value,
        notifications.c.id > after_id,
        notifications.c.url != "",
    )
    if kind is not None:
        chosen = chosen.where(notifications.c.kind == kind.value)
    return [
        _notification(row) for row in conn.execute(chosen.order_by(notifications.c.id).limit(limit))
    ]


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


def rescue(conn: sa.Connection, now_ms: int, far_ms: int) -> int:
    """Make due what is planned after `far_ms`, as only a clock that was wrong did."""
    return conn.execute(
        sa.update(notifications)
        .where(notifications.c.next_attempt_at_ms > far_ms)
        .values(next_attempt_at_ms=now_ms)
    ).rowcount


def purge(conn: sa.Connection, before_ms: int, limit: int) -> int:
    """Forget some that were delivered or given up before `before_ms`; return how many."""
    old = sa.select(notifications.c.id).where(notifications.c.ended_at_ms < before_ms).limit(limit)
    return conn.execute(sa.delete(notifications).where(notifications.c.id.in_(old))).rowcount


def _progress(notification: Notification) -> Mapping[str, object]:
    error = notification.last_error
    return {
        "state": notification.state.value,
        "attempt_count": notification.attempt_count,
        "next_attempt_at_ms": notification.next_attempt_at_ms,
        "ended_at_ms": notification.ended_at_ms,
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
        ended_at_ms=row.ended_at_ms,
    )
