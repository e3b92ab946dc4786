"""Balances, the ledger's projections: nine rows bear a task, three accounts by three windows.

Rows are always written in the order organization, project, key, so that two transactions wait for
each other instead of locking each other out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.balances import Amounts, Balance
from gateway.domain.billing import Reservation
from gateway.domain.limits import Account, Scope, Window, accounts_of
from gateway.storage.schema import balances

Starts = Mapping[Window, int]
"""When the windows that bear a task began."""

_NO_AMOUNTS: Final = Amounts()
_COUNTED: Final = (
    "held_micros",
    "held_tokens",
    "held_seconds",
    "held_videos",
    "spent_micros",
    "spent_tokens",
    "spent_seconds",
    "spent_videos",
    "tasks_count",
)
# One statement for both databases: make the row, or add to it.
_ADD: Final = sa.text(
    f"INSERT INTO balances (scope, scope_id, span, start_ms, {', '.join(_COUNTED)}) "  # noqa: S608
    f"VALUES (:scope, :scope_id, :span, :start_ms, {', '.join(f':{name}' for name in _COUNTED)}) "
    "ON CONFLICT (scope, scope_id, span, start_ms) DO UPDATE SET "
    + ", ".join(f"{name} = balances.{name} + excluded.{name}" for name in _COUNTED)
)
_IN_ORDER: Final = sa.case(
    {scope.value: number for number, scope in enumerate(Scope)}, value=balances.c.scope
)


def starts_of(reservation: Reservation) -> Starts:
    return {
        Window.DAY: reservation.day_start_ms,
        Window.MONTH: reservation.month_start_ms,
        Window.EVER: 0,
    }


def add(
    conn: sa.Connection,
    accounts: Sequence[Account],
    starts: Starts,
    *,
    held: Amounts = _NO_AMOUNTS,
    spent: Amounts = _NO_AMOUNTS,
    tasks_count: int = 0,
) -> None:
    """Add signed amounts to every window of the accounts."""
    conn.execute(
        _ADD,
        [
            {
                "scope": account.scope.value,
                "scope_id": account.id,
                "span": window.value,
                "start_ms": starts[window],
                "held_micros": held.micros,
                "held_tokens": held.tokens,
                "held_seconds": held.seconds,
                "held_videos": held.videos,
                "spent_micros": spent.micros,
                "spent_tokens": spent.tokens,
                "spent_seconds": spent.seconds,
                "spent_videos": spent.videos,
                "tasks_count": tasks_count if window is Window.EVER else 0,
            }
            for account in accounts
            for window in Window
        ],
    )


def end_task(conn: sa.Connection, reservation: Reservation) -> None:
    """Count one task in progress less; what is held for it stays."""
    accounts = accounts_of(reservation.project_id, reservation.key_id)
    add(conn, accounts, starts_of(reservation), tasks_count=-1)


def lock(conn: sa.Connection, accounts: Sequence[Account], starts: Starts) -> Sequence[Balance]:
    """Return the balances of the windows, which nobody else changes before this transaction ends.

    Rows that are not there yet are made first: two transactions that found none would both have
    room.
    """
    add(conn, accounts, starts)
    return find(conn, accounts, starts)


def find(conn: sa.Connection, accounts: Sequence[Account], starts: Starts) -> Sequence[Balance]:
    """Return those balances of the windows that exist."""
    rows = conn.execute(
        sa.select(balances)
        .where(
            sa.or_(*(_is_of(account) for account in accounts)),
            sa.or_(
                *(
                    sa.and_(balances.c.span == window.value, balances.c.start_ms == start_ms)
                    for window, start_ms in starts.items()
                )
            ),
        )
        .order_by(_IN_ORDER)
    )
    return [_balance(row) for row in rows]


def list_all(conn: sa.Connection) -> Iterable[Balance]:
    """Return every balance: for the auditor."""
    return [_balance(row) for row in conn.execute(sa.select(balances))]


def _is_of(account: Account) -> sa.ColumnElement[bool]:
    return sa.and_(balances.c.scope == account.scope.value, balances.c.scope_id == account.id)


def _balance(row: sa.Row[Any]) -> Balance:
    return Balance(
        Account(Scope(row.scope), row.scope_id),
        Window(row.span),
        row.start_ms,
        Amounts(row.held_micros, row.held_tokens, row.held_seconds, row.held_videos),
        Amounts(row.spent_micros, row.spent_tokens, row.spent_seconds, row.spent_videos),
        row.tasks_count,
    )
