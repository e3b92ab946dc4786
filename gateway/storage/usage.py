"""Reads of usage reports, from the ledger's own entries and in one state of the database."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from gateway.domain.billing import EntryKind
from gateway.domain.tasks import TaskState
from gateway.domain.usage import (
    Basis,
    Group,
    Span,
    TaskSink,
    TaskUsage,
    UsageKind,
    UsageQuery,
    UsageRow,
)
from gateway.storage.schema import ledger_entries, projects, reservations, tasks
from gateway.storage.snapshots import snapshot

_PAGE_ROWS: Final = 1000
_KIND_OF: Final = {
    EntryKind.SETTLE.value: UsageKind.SETTLED,
    EntryKind.LOSS.value: UsageKind.LOSS,
    EntryKind.HOLD.value: UsageKind.HELD,
}
_COLUMN_OF: Final = {
    Group.PROJECT: projects.c.name,
    Group.KEY: ledger_entries.c.key_id,
    Group.MODEL: tasks.c.model,
}
_FROM: Final = (
    ledger_entries.join(reservations, reservations.c.task_id == ledger_entries.c.task_id)
    .join(tasks, tasks.c.id == ledger_entries.c.task_id)
    .join(projects, projects.c.id == ledger_entries.c.project_id)
)
_BOOKED: Final = ledger_entries.c.kind.in_([EntryKind.SETTLE.value, EntryKind.LOSS.value])
_OPEN: Final = sa.and_(
    ledger_entries.c.kind == EntryKind.HOLD.value, reservations.c.outcome.is_(None)
)
_HELD: Final = sa.case((_OPEN, ledger_entries.c.held_micros), else_=0)


CutTime = Callable[[int, int], Sequence[Span]]
"""(from, to) -> the spans of a report that has entries then alone."""


class _Extent(NamedTuple):
    currency: str
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a report; none if there are several currencies and none was asked for."""

    currencies: Sequence[str]
    rows: Sequence[UsageRow] = ()


def sum_usage(
    conn: sa.Connection, query: UsageQuery, cut: CutTime, groups: Collection[Group]
) -> Found:
    """Return the sums of each span that `cut` makes of the report's time, by the groups."""
    with snapshot(conn):
        extents = _find_extents(conn, query)
        currencies = [extent.currency for extent in extents]
        if len(extents) != 1:
            return Found(currencies)
        columns = [_COLUMN_OF[group] for group in Group if group in groups and group in _COLUMN_OF]
        spans = cut(extents[0].first_ms, extents[0].last_ms + 1)
        rows = [row for span in spans for row in _sum_span(conn, query, span, columns)]
    return Found(currencies, sorted(rows, key=_place_of))


def list_usage(conn: sa.Connection, query: UsageQuery, sink: TaskSink) -> Found:
    """Give `sink` every task's entries in the order of their dates, a page at a time."""
    with snapshot(conn):
        currencies = [extent.currency for extent in _find_extents(conn, query)]
        sink.begin()
        if len(currencies) == 1:
            for page in _page(conn, query):
                sink.add(page)
    return Found(currencies)


def list_currencies(conn: sa.Connection) -> Sequence[str]:
    """Return the currencies of all charges that there are."""
    currency = ledger_entries.c.currency
    return list(conn.execute(sa.select(currency).distinct().order_by(currency)).scalars())


def _find_extents(conn: sa.Connection, query: UsageQuery) -> Sequence[_Extent]:
    """Return in which currencies there are charges, and from when to when."""
    dated = _dated(query.basis)
    currency = ledger_entries.c.currency
    rows = conn.execute(
        sa.select(currency, sa.func.min(dated), sa.func.max(dated))
        .select_from(_FROM)
        .where(*_conditions(query, query.from_ms, query.to_ms))
        .group_by(currency)
        .order_by(currency)
    )
    return [_Extent(row[0], row[1], row[2]) for row in rows]


def _sum_span(
    conn: sa.Connection,
    query: UsageQuery,
    span: Span,
    columns: Sequence[sa.Column[str]],
) -> Iterator[UsageRow]:
    entry = ledger_entries.c
    by = [*columns, entry.kind, entry.cost_currency]
    # PostgreSQL adds up to decimals.
    sums = {
        "tasks": sa.func.count(),
        "estimated": sa.func.sum(entry.is_estimated),
        "videos": sa.func.sum(entry.spent_videos),
        "seconds": sa.func.sum(entry.spent_seconds),
        "tokens": sa.func.sum(entry.spent_tokens),
        "charge_micros": sa.func.sum(entry.spent_micros),
        "held_micros": sa.func.sum(_HELD),
        "cost_micros": sa.func.sum(entry.cost_micros),
    }
    rows = conn.execute(
        sa.select(*by, *(each.label(name) for name, each in sums.items()))
        .select_from(_FROM)
        .where(*_conditions(query, span.start_ms, span.end_ms))
        .group_by(*by)
    )
    for row in rows:
        found = row._mapping  # noqa: SLF001 - the public name of it
        yield UsageRow(
            kind=_KIND_OF[row.kind],
            project=found.get(projects.c.name),
            key=found.get(entry.key_id),
            model=found.get(tasks.c.model),
            day=span.day,
            cost_currency=row.cost_currency,
            **{name: int(found[name]) for name in sums},
        )


def _place_of(row: UsageRow) -> tuple[str, ...]:
    day = row.day.isoformat() if row.day is not None else None
    by = (row.project, row.key, row.model, day, row.kind.value, row.cost_currency)
    return tuple(each or "" for each in by)


def _page(conn: sa.Connection, query: UsageQuery) -> Iterator[Sequence[TaskUsage]]:
    place = (_dated(query.basis), ledger_entries.c.task_id, ledger_entries.c.step)
    chosen = (
        sa.select(
            ledger_entries,
            reservations.c.at_ms.label("submitted_at_ms"),
            _HELD.label("open_micros"),
            projects.c.name.label("project"),
            tasks.c.model,
            tasks.c.state,
            tasks.c.upstream,
            tasks.c.upstream_task_id,
            tasks.c.upstream_request_id,
        )
        .select_from(_FROM)
        .order_by(*place)
        .limit(_PAGE_ROWS)
    )
    conditions = _conditions(query, query.from_ms, query.to_ms)
    while rows := conn.execute(chosen.where(*conditions)).all():
        yield [_task_usage(row) for row in rows]
        last = rows[-1]
        dated = last.submitted_at_ms if query.basis is Basis.SUBMITTED else last.at_ms
        conditions = [
            # From there on: an index may know the first column of the comparison alone.
            *_conditions(query, dated, query.to_ms),
            sa.tuple_(*place) > sa.tuple_(dated, last.task_id, last.step),
        ]


def _conditions(query: UsageQuery, start_ms: int, end_ms: int) -> Sequence[sa.ColumnElement[bool]]:
    dated = _dated(query.basis)
    shown = sa.or_(_BOOKED, _OPEN) if query.basis is Basis.SUBMITTED else _BOOKED
    conditions: list[sa.ColumnElement[bool]] = [dated >= start_ms, dated < end_ms, shown]
    if query.currency is not None:
        conditions.append(ledger_entries.c.currency == query.currency)
    return conditions


def _dated(basis: Basis) -> sa.Column[int]:
    return reservations.c.at_ms if basis is Basis.SUBMITTED else ledger_entries.c.at_ms


def _task_usage(row: sa.Row[Any]) -> TaskUsage:
    kind = _KIND_OF[row.kind]
    return TaskUsage(
        kind=kind,
        project=row.project,
        key=row.key_id,
        model=row.model,
        task_id=row.task_id,
        upstream=row.upstream,
        upstream_task_id=row.upstream_task_id,
        upstream_request_id=row.upstream_request_id,
        state=TaskState(row.state),
        submitted_at_ms=row.submitted_at_ms,
        settled_at_ms=None if kind is UsageKind.HELD else row.at_ms,
        is_estimated=bool(row.is_estimated),
        videos=row.spent_videos,
        seconds=row.spent_seconds,
        tokens=row.spent_tokens,
        charge_micros=row.spent_micros,
        held_micros=row.open_micros,
        cost_currency=row.cost_currency,
        cost_micros=row.cost_micros,
        price_version=row.price_version,
        evidence=row.evidence,
        evidence_detail=row.evidence_detail,
    )
