"""Who changed what. Rows are added, beside the change itself, and never altered."""

from collections.abc import Sequence

import sqlalchemy as sa

from gateway.domain.projects import AuditEvent
from gateway.storage.schema import audit_events


def add(conn: sa.Connection, event: AuditEvent) -> None:
    """Record `event` in the caller's transaction."""
    conn.execute(
        sa.insert(audit_events),
        {
            "id": event.id,
            "at_ms": event.at_ms,
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "detail": event.detail,
        },
    )


def list_events(conn: sa.Connection, since_ms: int, limit: int) -> Sequence[AuditEvent]:
    """Return the newest events from `since_ms` on, newest first."""
    columns = audit_events.c
    rows = conn.execute(
        sa.select(audit_events)
        .where(columns.at_ms >= since_ms)
        .order_by(columns.at_ms.desc(), columns.id.desc())
        .limit(limit)
    )
    return [
        AuditEvent(
            id=row.id,
            at_ms=row.at_ms,
            actor=row.actor,
            action=row.action,
            subject=row.subject,
            detail=row.detail,
        )
        for row in rows
    ]
