"""Limits set by command. A cap of None lifts the limit that configuration would set."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.domain.projects import AuditEvent
from gateway.ports import Change, ChangeKind
from gateway.storage import audit, changes
from gateway.storage.schema import limits

_NO_WINDOW: Final = ""
_FIND: Final = sa.select(limits).where(
    (
        (limits.c.scope == Scope.ORGANIZATION.value)
        & (limits.c.scope_id == sa.bindparam("organization_id"))
    )
    | (
        (limits.c.scope == Scope.PROJECT.value)
        & (limits.c.scope_id == sa.bindparam("by_project_id"))
    )
    | ((limits.c.scope == Scope.KEY.value) & (limits.c.scope_id == sa.bindparam("by_key_id")))
)


def put(conn: sa.Connection, limit: LimitSetting, at_ms: int, event: AuditEvent) -> None:
    """Set the limit in place of an earlier one, and record who did."""
    conn.execute(
        sa.text(
            "INSERT INTO limits (scope, scope_id, metric, span, cap, updated_at_ms) "
            "VALUES (:scope, :scope_id, :metric, :span, :cap, :at_ms) "
            "ON CONFLICT (scope, scope_id, metric, span) "
            "DO UPDATE SET cap = excluded.cap, updated_at_ms = excluded.updated_at_ms"
        ),
        {
            "scope": limit.account.scope.value,
            "scope_id": limit.account.id,
            "metric": limit.metric.value,
            "span": _NO_WINDOW if limit.window is None else limit.window.value,
            "cap": limit.cap,
            "at_ms": at_ms,
        },
    )
    audit.add(conn, event)
    changes.emit(conn, Change(ChangeKind.LIMITS))


def find(conn: sa.Connection, accounts: Sequence[Account]) -> Sequence[LimitSetting]:
    """Return the limits of an organization, a project and a key, given in that order."""
    organization, project, key = accounts
    rows = conn.execute(
        _FIND,
        {
            "organization_id": organization.id,
            "by_project_id": project.id,
            "by_key_id": key.id,
        },
    )
    return [_limit(row) for row in rows]


def list_all(conn: sa.Connection) -> Sequence[LimitSetting]:
    rows = conn.execute(
        sa.select(limits).order_by(
            limits.c.scope, limits.c.scope_id, limits.c.metric, limits.c.span
        )
    )
    return [_limit(row) for row in rows]


def _limit(row: sa.Row[Any]) -> LimitSetting:
    return LimitSetting(
        Account(Scope(row.scope), row.scope_id),
        Metric(row.metric),
        None if row.span == _NO_WINDOW else Window(row.span),
        row.cap,
    )
