"""What gauges show of the money that is held and of the submissions that are unknown."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from gateway.domain.billing import EntryKind
from gateway.domain.tasks import TERMINAL, TaskState
from gateway.storage.schema import ledger_entries, reservations, tasks


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """The holds of one currency that are not resolved."""

    currency: str
    count: int
    micros: int
    oldest_at_ms: int
    ended_count: int
    """Those whose task has ended, without evidence that would resolve them."""


def sum_open_holds(conn: sa.Connection) -> Sequence[OpenHolds]:
    """Return the holds that are not resolved, by currency."""
    has_ended = sa.case((tasks.c.state.in_(sorted(TERMINAL)), 1), else_=0)
    rows = conn.execute(
        sa.select(
            ledger_entries.c.currency,
            sa.func.count(),
            sa.func.sum(reservations.c.hold_micros),
            sa.func.min(reservations.c.at_ms),
            sa.func.sum(has_ended),
        )
        .select_from(reservations)
        .join(tasks, tasks.c.id == reservations.c.task_id)
        .join(
            ledger_entries,
            (ledger_entries.c.task_id == reservations.c.task_id)
            & (ledger_entries.c.kind == EntryKind.HOLD.value),
        )
        .where(reservations.c.outcome.is_(None))
        .group_by(ledger_entries.c.currency)
    )
    # PostgreSQL adds up to decimals.
    return [OpenHolds(row[0], row[1], int(row[2]), row[3], row[4]) for row in rows]


def find_oldest_unknown(conn: sa.Connection) -> int | None:
    """Return when the oldest submission was made whose outcome is unknown."""
    oldest_at_ms: int | None = conn.execute(
        sa.select(sa.func.min(tasks.c.created_at_ms)).where(
            tasks.c.state == TaskState.UNKNOWN.value
        )
    ).scalar_one()
    return oldest_at_ms
