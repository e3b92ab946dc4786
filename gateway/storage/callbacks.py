"""What callbacks of upstreams leave behind: an earlier look, a claim to be verified.

None of it moves a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.domain.attempts import Attempt
from gateway.domain.tasks import OBSERVED, Task, TaskState
from gateway.storage import attempts as attempt_rows
from gateway.storage import tasks as task_rows
from gateway.storage.schema import attempts, tasks

_CLAIMABLE = (TaskState.RESERVED, TaskState.UNKNOWN, TaskState.FAILED)


@dataclass(frozen=True, slots=True)
class Called:
    """An attempt whose callback address was called, and its task."""

    attempt: Attempt
    task: Task


def find_called(conn: sa.Connection, hashed_token: str) -> Called | None:
    """Return the attempt whose callback address holds the token with this hash."""
    attempt = attempt_rows.find_by_token(conn, hashed_token)
    return None if attempt is None else _with_task(conn, attempt)


def note_call(
    conn: sa.Connection, task_id: str, at_ms: int, claimed_task_id: str | None = None
) -> None:
    """Record that a task which nobody follows was called back, and which upstream task it may be.

    A claim that is there already stays until it was verified. A task that has been found meanwhile
    needs neither.
    """
    called = conn.execute(
        sa.update(tasks)
        .where(
            tasks.c.id == task_id,
            tasks.c.state.in_(_CLAIMABLE),
            tasks.c.upstream_task_id.is_(None),
        )
        .values(called_back_at_ms=at_ms)
    )
    if called.rowcount and claimed_task_id is not None:
        conn.execute(
            sa.update(attempts)
            .where(attempts.c.task_id == task_id, attempts.c.claimed_task_id.is_(None))
            .values(claimed_task_id=claimed_task_id)
        )


def hasten_look(conn: sa.Connection, task_id: str, called_at_ms: int, look_at_ms: int) -> None:
    """Have a followed task looked at by `look_at_ms`, for the news that it was called back with."""
    planned_at_ms = tasks.c.next_poll_at_ms
    conn.execute(
        sa.update(tasks)
        .where(tasks.c.id == task_id, tasks.c.state.in_(sorted(OBSERVED)))
        .values(
            called_back_at_ms=called_at_ms,
            next_poll_at_ms=sa.case((planned_at_ms < look_at_ms, planned_at_ms), else_=look_at_ms),
        )
    )


def put_off_look(conn: sa.Connection, task: Task, called_at_ms: int, look_at_ms: int) -> None:
    """Leave a followed task alone until `look_at_ms`, since its callbacks come.

    Nothing changes if it has moved, was called back or is looked at meanwhile.
    """
    conn.execute(
        sa.update(tasks)
        .where(
            tasks.c.id == task.id,
            tasks.c.version == task.version,
            tasks.c.called_back_at_ms.is_(None),
            tasks.c.next_poll_at_ms == task.next_poll_at_ms,
        )
        .values(called_back_at_ms=called_at_ms, next_poll_at_ms=look_at_ms)
    )


def list_claims(conn: sa.Connection, limit: int) -> Sequence[Called]:
    """Return attempts with a claim whose outcome is unknown, or that were given up."""
    chosen = (
        sa.select(attempts.c.task_id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .where(
            attempts.c.claimed_task_id.is_not(None),
            tasks.c.upstream_task_id.is_(None),
            tasks.c.state.in_([TaskState.UNKNOWN, TaskState.FAILED]),
        )
        .order_by(attempts.c.task_id)
        .limit(limit)
    )
    found = [attempt_rows.find(conn, task_id) for task_id in conn.execute(chosen).scalars()]
    return [_with_task(conn, attempt) for attempt in found if attempt is not None]


def drop_claim(conn: sa.Connection, task_id: str, claimed_task_id: str) -> None:
    """Forget a claim that was verified or refuted."""
    conn.execute(
        sa.update(attempts)
        .where(attempts.c.task_id == task_id, attempts.c.claimed_task_id == claimed_task_id)
        .values(claimed_task_id=None)
    )


def _with_task(conn: sa.Connection, attempt: Attempt) -> Called:
    stored = task_rows.find(conn, attempt.task_id)
    assert stored is not None  # noqa: S101 - the attempt's key refers to it
    return Called(attempt, stored.task)
