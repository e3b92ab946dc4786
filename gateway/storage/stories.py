"""All that is stored of one task, from its admission to its last notification."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.attempts import Attempt
from gateway.domain.billing import Reservation
from gateway.domain.projects import AuditEvent, Project
from gateway.domain.tasks import Event, Task, TaskState
from gateway.domain.webhooks import Notification
from gateway.storage import attempts, ledger, notifications, orphans, projects, tasks
from gateway.storage.ledger import Entry
from gateway.storage.orphans import StoredOrphan
from gateway.storage.schema import audit_events, idempotency_keys, task_transitions
from gateway.storage.snapshots import snapshot

_NOTIFICATIONS_MAX: Final = 1000
_AUDIT_EVENTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Transition:
    """One move of a task. Its admission, version 1, comes from no state by no event."""

    version: int
    from_state: TaskState | None
    event: Event | None
    to_state: TaskState
    at_ms: int


@dataclass(frozen=True, slots=True)
class Story:
    """What is on record of a task. An imported one has no attempt, hold or entries."""

    task: Task
    project: Project | None
    transitions: Sequence[Transition]
    attempt: Attempt | None
    has_idempotency_key: bool
    reservation: Reservation | None
    entries: Sequence[Entry]
    notifications: Sequence[Notification]
    orphans: Sequence[StoredOrphan]
    audit_events: Sequence[AuditEvent]


def read_story(conn: sa.Connection, task_id: str) -> Story | None:
    """Return everything about one task, as it is at one moment."""
    with snapshot(conn):
        stored = tasks.find(conn, task_id)
        if stored is None:
            return None
        task = stored.task
        told = notifications.list_newest(conn, _NOTIFICATIONS_MAX, task_id=task_id)
        return Story(
            task=task,
            project=projects.find(conn, task.project_id),
            transitions=_list_transitions(conn, task_id),
            attempt=attempts.find(conn, task_id),
            has_idempotency_key=_has_idempotency_key(conn, task_id),
            reservation=ledger.find(conn, task_id),
            entries=ledger.list_entries(conn, task_id),
            notifications=sorted(told, key=lambda one: (one.created_at_ms, one.id)),
            orphans=orphans.list_of_task(conn, task_id),
            audit_events=_list_audit_events(conn, [task_id, *(one.id for one in told)]),
        )


def _list_transitions(conn: sa.Connection, task_id: str) -> Sequence[Transition]:
    rows = conn.execute(
        sa.select(task_transitions)
        .where(task_transitions.c.task_id == task_id)
        .order_by(task_transitions.c.version)
    )
    return [_transition(row) for row in rows]


def _has_idempotency_key(conn: sa.Connection, task_id: str) -> bool:
    """Whether a key stands for the task; a refused request's is forgotten, and so is an old one."""
    found = conn.execute(
        sa.select(idempotency_keys.c.task_id).where(idempotency_keys.c.task_id == task_id).limit(1)
    )
    return found.first() is not None


def _list_audit_events(conn: sa.Connection, subjects: Collection[str]) -> Sequence[AuditEvent]:
    """Return what people did about these subjects, in order: all rows are looked at."""
    rows = conn.execute(
        sa.select(audit_events)
        .where(audit_events.c.subject.in_(subjects))
        .order_by(audit_events.c.at_ms, audit_events.c.id)
        .limit(_AUDIT_EVENTS_MAX)
    )
    return [
        AuditEvent(row.id, row.at_ms, row.actor, row.action, row.subject, row.detail)
        for row in rows
    ]


def _transition(row: sa.Row[Any]) -> Transition:
    return Transition(
        row.version,
        None if row.from_state is None else TaskState(row.from_state),
        None if row.event is None else Event(row.event),
        TaskState(row.to_state),
        row.at_ms,
    )
