"""The ledger: holds and their resolutions, in rows that the database refuses to change.

`hold` runs in the transaction that admits a task, `resolve` in the one that ends it. Each adds one
entry, whose key makes it exactly once, and brings the balances along.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.balances import Amounts, amounts_of
from gateway.domain.billing import (
    EntryKind,
    Evidence,
    EvidenceKind,
    Outcome,
    Price,
    Reservation,
    Resolution,
    Usage,
    price_from_json,
)
from gateway.domain.limits import accounts_of
from gateway.storage import balances
from gateway.storage.schema import ledger_entries, reservations

RESOLUTION_STEP: Final = 2
_STEP: Final = {EntryKind.HOLD: 1, EntryKind.SETTLE: 2, EntryKind.RELEASE: 2, EntryKind.LOSS: 3}
_KIND_OF: Final = {Outcome.SETTLED: EntryKind.SETTLE, Outcome.RELEASED: EntryKind.RELEASE}
_NO_AMOUNTS: Final = Amounts()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger. Amounts are signed: a hold adds to `held`, its end takes it away."""

    task_id: str
    kind: EntryKind
    at_ms: int
    currency: str
    held: Amounts
    spent: Amounts
    cost_currency: str
    cost_micros: int
    price_version: str
    is_estimated: bool
    evidence: Evidence | None


_HOLD: Final = sa.insert(reservations)
_ADD_ENTRY: Final = sa.insert(ledger_entries)


def hold(conn: sa.Connection, reservation: Reservation) -> None:
    """Hold what the task may cost, in its project's, key's and organization's balances."""
    held, price = reservation.held, reservation.price
    conn.execute(
        _HOLD,
        {
            "task_id": reservation.task_id,
            "project_id": reservation.project_id,
            "key_id": reservation.key_id,
            "at_ms": reservation.at_ms,
            "day_start_ms": reservation.day_start_ms,
            "month_start_ms": reservation.month_start_ms,
            "price": json.dumps(price.as_json()),
            "hold_micros": reservation.hold_micros,
            "held_tokens": held.tokens,
            "held_seconds": held.seconds,
            "held_videos": held.videos,
            "held_tool_calls": held.tool_calls,
        },
    )
    amounts = amounts_of(reservation.hold_micros, held)
    _add_entry(conn, reservation, EntryKind.HOLD, reservation.at_ms, held=amounts)
    balances.add(
        conn,
        accounts_of(reservation.project_id, reservation.key_id),
        balances.starts_of(reservation),
        held=amounts,
        tasks_count=1,
    )


def resolve(
    conn: sa.Connection,
    reservation: Reservation,
    resolution: Resolution,
    at_ms: int,
    *,
    tasks_count: int,
) -> bool:
    """Settle or release the hold. False, and nothing is written, if that was done before.

    `tasks_count` is -1 if the task ends by it, 0 if that was counted when it ended.

    There is no other way to let go of a hold, and none without evidence. Only
    `gateway/services/moves.py` may call it.
    """
    usage = resolution.usage
    resolved = conn.execute(
        sa.update(reservations)
        .where(reservations.c.task_id == reservation.task_id, reservations.c.outcome.is_(None))
        .values(
            outcome=resolution.outcome.value,
            resolved_at_ms=at_ms,
            charge_micros=resolution.charge_micros,
            cost_micros=resolution.cost_micros,
            tokens=usage.tokens,
            seconds=usage.seconds,
            videos=usage.videos,
            is_estimated=int(resolution.is_estimated),
        )
    )
    if resolved.rowcount == 0:
        return False
    held = -amounts_of(reservation.hold_micros, reservation.held)
    spent = amounts_of(resolution.charge_micros, usage)
    _add_entry(
        conn,
        reservation,
        _KIND_OF[resolution.outcome],
        at_ms,
        held=held,
        spent=spent,
        cost_micros=resolution.cost_micros,
        evidence=resolution.evidence,
        is_estimated=resolution.is_estimated,
    )
    balances.add(
        conn,
        accounts_of(reservation.project_id, reservation.key_id),
        balances.starts_of(reservation),
        held=held,
        spent=spent,
        tasks_count=tasks_count,
    )
    return True


def book_loss(
    conn: sa.Connection, reservation: Reservation, cost_micros: int, evidence: Evidence, at_ms: int
) -> int | None:
    """Book what the upstream bills for a task that nobody bears; return the step of the entry.

    It is the organization's loss: no budget bears it. None if what this evidence proves is booked:
    each upstream task that came of one here is another loss.
    """
    lock(conn, reservation.task_id)
    booked = [
        each for each in list_entries(conn, reservation.task_id) if each.kind is EntryKind.LOSS
    ]
    if any(each.evidence == evidence for each in booked):
        return None
    step = _STEP[EntryKind.LOSS] + len(booked)
    _add_entry(
        conn,
        reservation,
        EntryKind.LOSS,
        at_ms,
        step=step,
        cost_micros=cost_micros,
        evidence=evidence,
    )
    return step


def lock(conn: sa.Connection, task_id: str) -> None:
    """Of two that book for one task at once, let the second one see what the first has booked."""
    held = sa.select(reservations.c.task_id).where(reservations.c.task_id == task_id)
    conn.execute(held.with_for_update())


def find_open(conn: sa.Connection, task_id: str) -> Reservation | None:
    """Return the task's hold, unless it is resolved or never was."""
    row = conn.execute(
        sa.select(reservations).where(
            reservations.c.task_id == task_id, reservations.c.outcome.is_(None)
        )
    ).one_or_none()
    return None if row is None else _reservation(row)


def find(conn: sa.Connection, task_id: str) -> Reservation | None:
    """Return the task's hold, resolved or not; None for a task that was imported."""
    row = conn.execute(
        sa.select(reservations).where(reservations.c.task_id == task_id)
    ).one_or_none()
    return None if row is None else _reservation(row)


def has_holds(conn: sa.Connection) -> bool:
    """Whether anything was ever held."""
    return conn.execute(sa.select(sa.exists().select_from(reservations))).scalar_one()


def list_entries(conn: sa.Connection, task_id: str) -> Sequence[Entry]:
    """Return the task's entries in order."""
    rows = conn.execute(
        sa.select(ledger_entries)
        .where(ledger_entries.c.task_id == task_id)
        .order_by(ledger_entries.c.step)
    )
    return [_entry(row) for row in rows]


def _add_entry(
    conn: sa.Connection,
    reservation: Reservation,
    kind: EntryKind,
    at_ms: int,
    *,
    step: int | None = None,
    held: Amounts = _NO_AMOUNTS,
    spent: Amounts = _NO_AMOUNTS,
    cost_micros: int = 0,
    evidence: Evidence | None = None,
    is_estimated: bool = False,
) -> None:
    price = reservation.price
    conn.execute(
        _ADD_ENTRY,
        {
            "task_id": reservation.task_id,
            "step": _STEP[kind] if step is None else step,
            "kind": kind.value,
            "at_ms": at_ms,
            "project_id": reservation.project_id,
            "key_id": reservation.key_id,
            "day_start_ms": reservation.day_start_ms,
            "month_start_ms": reservation.month_start_ms,
            "currency": price.charge_currency,
            **_columns("held", held),
            **_columns("spent", spent),
            "cost_currency": price.cost_currency,
            "cost_micros": cost_micros,
            "price_version": price.version,
            "is_estimated": int(is_estimated),
            "evidence": None if evidence is None else evidence.kind.value,
            "evidence_detail": "" if evidence is None else evidence.detail,
        },
    )


def _columns(prefix: str, amounts: Amounts) -> Mapping[str, int]:
    return {
        f"{prefix}_micros": amounts.micros,
        f"{prefix}_tokens": amounts.tokens,
        f"{prefix}_seconds": amounts.seconds,
        f"{prefix}_videos": amounts.videos,
    }


def _reservation(row: sa.Row[Any]) -> Reservation:
    return Reservation(
        task_id=row.task_id,
        project_id=row.project_id,
        key_id=row.key_id,
        held=Usage(row.held_tokens, row.held_seconds, row.held_videos, row.held_tool_calls),
        price=_price(row.price),
        at_ms=row.at_ms,
        day_start_ms=row.day_start_ms,
        month_start_ms=row.month_start_ms,
    )


def _price(stored: str) -> Price:
    return price_from_json(json.loads(stored))


def _entry(row: sa.Row[Any]) -> Entry:
    evidence = None
    if row.evidence is not None:
        evidence = Evidence(EvidenceKind(row.evidence), row.evidence_detail)
    return Entry(
        task_id=row.task_id,
        kind=EntryKind(row.kind),
        at_ms=row.at_ms,
        currency=row.currency,
        held=Amounts(row.held_micros, row.held_tokens, row.held_seconds, row.held_videos),
        spent=Amounts(row.spent_micros, row.spent_tokens, row.spent_seconds, row.spent_videos),
        cost_currency=row.cost_currency,
        cost_micros=row.cost_micros,
        price_version=row.price_version,
        is_estimated=bool(row.is_estimated),
        evidence=evidence,
    )
