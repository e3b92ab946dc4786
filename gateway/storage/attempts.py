"""Attempts: what is kept of each submission, to know it again.

Whether one may be joined is decided by one compare-and-set, so that two repeats of a request can't
both take the place of its first client. A repeat that says so may, if there is no other place: its
own first request was then never heard of, or is this very one.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.attempts import Attempt, Markers, Shape
from gateway.domain.tasks import TaskState
from gateway.storage import presence
from gateway.storage.schema import attempts, tasks

_OPEN: Final = (TaskState.RESERVED.value, TaskState.UNKNOWN.value)
_IDS_PER_QUERY: Final = 500
_ADD: Final = sa.insert(attempts)


def _joinable(dialect: str) -> sa.Select[Any]:
    now_ms = presence.shared_now_ms(dialect, sa.bindparam("now_ms", type_=sa.BigInteger))
    alive = presence.find_alive(now_ms, sa.bindparam("alive_for_ms", type_=sa.BigInteger))
    return (
        sa.select(attempts.c.task_id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .where(
            attempts.c.key_id == sa.bindparam("by_key_id"),
            attempts.c.fingerprint == sa.bindparam("with_fingerprint"),
            attempts.c.is_answered == 0,
            attempts.c.created_at_ms >= sa.bindparam("since_ms"),
            tasks.c.state != TaskState.REJECTED.value,
            tasks.c.deleted_at_ms.is_(None),
            # Its client is gone: it hung up, its process died, or this request says it repeats.
            (attempts.c.has_client_left == 1)
            | (
                (sa.bindparam("is_repeat", type_=sa.Integer) == 1)
                & (
                    (attempts.c.is_id_given == 0)
                    | (sa.bindparam("may_share", type_=sa.Integer) == 1)
                )
            )
            | (
                (attempts.c.client_owner != sa.bindparam("by_owner"))
                & attempts.c.client_owner.not_in(alive)
            ),
        )
        # First one whose client is known to be gone.
        .order_by(attempts.c.has_client_left.desc(), attempts.c.created_at_ms)
        .limit(1)
        .with_for_update(of=attempts)
    )


_JOINABLE: Final = {dialect: _joinable(dialect) for dialect in ("sqlite", "postgresql")}


def insert(conn: sa.Connection, attempt: Attempt) -> None:
    """Record the attempt of a new task."""
    conn.execute(
        _ADD,
        {
            "task_id": attempt.task_id,
            "project_id": attempt.project_id,
            "key_id": attempt.key_id,
            "fingerprint": attempt.fingerprint,
            "owner": attempt.owner,
            "client_owner": attempt.client_owner,
            "created_at_ms": attempt.created_at_ms,
            "shape": json.dumps(asdict(attempt.shape)),
            "markers": json.dumps(asdict(replace(attempt.markers, callback_token=None))),
            "callback_token": attempt.markers.callback_token,
            "callback_url": attempt.callback_url,
            "has_client_left": int(attempt.has_client_left),
            "is_answered": int(attempt.is_answered),
            "is_id_given": int(attempt.is_id_given),
            "probe_count": attempt.probe_count,
            "pass_count": attempt.pass_count,
            "next_probe_at_ms": attempt.next_probe_at_ms,
        },
    )


def join(
    conn: sa.Connection,
    *,
    key_id: str,
    fingerprint: str,
    since_ms: int,
    owner: str,
    now_ms: int,
    alive_for_ms: int,
    is_repeat: bool,
) -> str | None:
    """Take the place of the client of an identical attempt that was never answered.

    `owner` is the process that asks; others are dead that were not seen in the last `alive_for_ms`.
    Return its task's id, or None if there is none whose client is gone. Until the new client is
    gone, too, nobody else can join it but one that says that it repeats, and finds no other.
    """
    given = {
        "by_key_id": key_id,
        "with_fingerprint": fingerprint,
        "since_ms": since_ms,
        "by_owner": owner,
        "now_ms": now_ms,
        "alive_for_ms": alive_for_ms,
        "is_repeat": int(is_repeat),
    }
    joinable = _JOINABLE[conn.dialect.name]
    task_id: str | None = conn.execute(joinable, {**given, "may_share": 0}).scalar_one_or_none()
    if task_id is None and is_repeat:
        task_id = conn.execute(joinable, {**given, "may_share": 1}).scalar_one_or_none()
    if task_id is not None:
        conn.execute(
            sa.update(attempts)
            .where(attempts.c.task_id == task_id)
            .values(client_owner=owner, has_client_left=0, is_id_given=1)
        )
    return task_id


def note_answered(conn: sa.Connection, task_id: str) -> None:
    """Record that the id was delivered: from now on, an identical request is a new one."""
    _set(conn, task_id, {"is_answered": 1, "is_id_given": 1})


def note_client_left(conn: sa.Connection, task_id: str) -> None:
    """Record that the client hung up before it got the id."""
    _set(conn, task_id, {"has_client_left": 1})


def leave_joined(conn: sa.Connection, *, key_id: str, fingerprint: str, owner: str) -> None:
    """Record that a client is gone, which may have taken another's place: nobody knows which.

    Of clients that are still given the id of an equal attempt, one may have to share it by this.
    """
    conn.execute(
        sa.update(attempts)
        .where(
            attempts.c.key_id == key_id,
            attempts.c.fingerprint == fingerprint,
            attempts.c.client_owner == owner,
            attempts.c.is_answered == 0,
            attempts.c.is_id_given == 1,
        )
        .values(has_client_left=1)
    )


def give_id(conn: sa.Connection, task_id: str) -> TaskState | None:
    """Record that a client is told the id now, and return the state that the task is in.

    From then on a refusal is the failure of a task that a client knows. None: there is no such
    task, or it was refused before.
    """
    # The task's row first, in which a refusal, too, is written: one of the two comes first.
    state = conn.execute(
        sa.select(tasks.c.state).where(tasks.c.id == task_id).with_for_update()
    ).scalar_one_or_none()
    if state is None or state == TaskState.REJECTED.value:
        return None
    _set(conn, task_id, {"is_id_given": 1})
    return TaskState(state)


def find(conn: sa.Connection, task_id: str) -> Attempt | None:
    """Return the task's attempt; None for a task that was imported."""
    row = conn.execute(sa.select(attempts).where(attempts.c.task_id == task_id)).one_or_none()
    return None if row is None else _attempt(row)


def find_by_token(conn: sa.Connection, hashed_token: str) -> Attempt | None:
    """Return the attempt whose callback address holds the token with this hash."""
    row = conn.execute(
        sa.select(attempts).where(attempts.c.callback_token == hashed_token)
    ).one_or_none()
    return None if row is None else _attempt(row)


def list_unknown(
    conn: sa.Connection, upstream: str, credential: str, limit: int
) -> Sequence[Attempt]:
    """Return the attempts whose outcome is unknown, the oldest first."""
    rows = conn.execute(
        sa.select(attempts)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .where(
            tasks.c.upstream == upstream,
            tasks.c.credential == credential,
            tasks.c.state == TaskState.UNKNOWN.value,
        )
        .order_by(attempts.c.created_at_ms)
        .limit(limit)
    )
    return [_attempt(row) for row in rows]


def find_many(conn: sa.Connection, task_ids: Collection[str]) -> Mapping[str, Attempt]:
    """Return the attempts of these tasks, of those that have one."""
    found: dict[str, Attempt] = {}
    ids = iter(task_ids)
    while part := list(islice(ids, _IDS_PER_QUERY)):
        rows = conn.execute(sa.select(attempts).where(attempts.c.task_id.in_(part)))
        found |= {row.task_id: _attempt(row) for row in rows}
    return found


def claim_probes(
    conn: sa.Connection,
    upstream: str,
    credential: str,
    *,
    now_ms: int,
    far_ms: int,
    lease_until_ms: int,
    limit: int,
) -> Collection[str]:
    """Lease the unknown attempts of the credential whose probe is due; return their tasks' ids.

    No probe is ever planned after `far_ms`: one that is was planned by a clock that went wrong.
    """
    due = (
        sa.select(attempts.c.task_id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .where(
            tasks.c.upstream == upstream,
            tasks.c.credential == credential,
            tasks.c.state == TaskState.UNKNOWN.value,
            attempts.c.next_probe_at_ms.is_(None)
            | (attempts.c.next_probe_at_ms <= now_ms)
            | (attempts.c.next_probe_at_ms > far_ms),
        )
        .order_by(attempts.c.created_at_ms)
        .limit(limit)
        .with_for_update(of=attempts, skip_locked=True)
    )
    rows = conn.execute(
        sa.update(attempts)
        .where(attempts.c.task_id.in_(due.scalar_subquery()))
        .values(next_probe_at_ms=lease_until_ms)
        .returning(attempts.c.task_id)
    )
    return frozenset(rows.scalars())


def count_unknown(conn: sa.Connection, upstream: str, credential: str) -> Mapping[str, int]:
    """Return how many submissions of the credential are unknown, by the key that asked."""
    rows = conn.execute(
        sa.select(tasks.c.key_id, sa.func.count())
        .where(
            tasks.c.state == TaskState.UNKNOWN.value,
            tasks.c.upstream == upstream,
            tasks.c.credential == credential,
        )
        .group_by(tasks.c.key_id)
    )
    return {row[0]: row[1] for row in rows}


def schedule_probe(
    conn: sa.Connection, task_id: str, probe_count: int, pass_count: int, next_probe_at_ms: int
) -> None:
    """Note what the lists have shown so far, and when to read them again for this attempt."""
    _set(
        conn,
        task_id,
        {
            "probe_count": probe_count,
            "pass_count": pass_count,
            "next_probe_at_ms": next_probe_at_ms,
        },
    )


def forget_callback_url(conn: sa.Connection, task_id: str) -> None:
    """Forget where the client wants to be told: all that it is ever told has been written."""
    _set(conn, task_id, {"callback_url": None})


def _set(conn: sa.Connection, task_id: str, values: Mapping[str, int | None]) -> None:
    conn.execute(sa.update(attempts).where(attempts.c.task_id == task_id).values(**values))


def _attempt(row: sa.Row[Any]) -> Attempt:
    markers = Markers(**json.loads(row.markers))
    return Attempt(
        task_id=row.task_id,
        project_id=row.project_id,
        key_id=row.key_id,
        fingerprint=row.fingerprint,
        owner=row.owner,
        client_owner=row.client_owner,
        created_at_ms=row.created_at_ms,
        shape=Shape(**json.loads(row.shape)),
        markers=replace(markers, callback_token=row.callback_token),
        has_client_left=bool(row.has_client_left),
        is_answered=bool(row.is_answered),
        is_id_given=bool(row.is_id_given),
        claimed_task_id=row.claimed_task_id,
        callback_url=row.callback_url,
        probe_count=row.probe_count,
        pass_count=row.pass_count,
        next_probe_at_ms=row.next_probe_at_ms,
    )
