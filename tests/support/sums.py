"""Whether the money in a database adds up, by plain SQL that both databases understand."""

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

Row = tuple[Any, ...]

_AMOUNTS: Final = (
    *("held_micros", "held_tokens", "held_seconds", "held_videos"),
    *("spent_micros", "spent_tokens", "spent_seconds", "spent_videos"),
)
_SCOPES: Final = {"org": "''", "project": "project_id", "key": "key_id"}
_SPANS: Final = {"day": "day_start_ms", "month": "month_start_ms", "ever": "0"}
_ENDED: Final = "('succeeded', 'failed', 'cancelled', 'expired', 'rejected')"


def find_wrong_sums(conn: sa.Connection) -> list[str]:
    """Return a sentence for everything that does not add up; none if all is well."""
    return [*_find_wrong_balances(conn), *_find_wrong_counts(conn), *_find_wrong_entries(conn)]


def _find_wrong_balances(conn: sa.Connection) -> Iterator[str]:
    """Yield balances that are not the sums of their entries."""
    columns = ", ".join(_AMOUNTS)
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _AMOUNTS)
    due: dict[Row, Row] = {}
    for scope, scope_id in _SCOPES.items():
        for span, start in _SPANS.items():
            rows = _read(
                conn,
                f"SELECT '{scope}', {scope_id}, '{span}', {start}, {sums} "  # noqa: S608
                "FROM ledger_entries GROUP BY 1, 2, 3, 4",
            )
            due |= {row[:4]: row[4:] for row in rows}
    found = _read(conn, f"SELECT scope, scope_id, span, start_ms, {columns} FROM balances")  # noqa: S608
    known = {row[:4]: row[4:] for row in found}
    nothing = (0,) * len(_AMOUNTS)
    for key in sorted(due.keys() | known.keys()):
        if due.get(key, nothing) != known.get(key, nothing):
            yield f"balance {key}: {known.get(key)}, its entries add up to {due.get(key)}"


def _find_wrong_counts(conn: sa.Connection) -> Iterator[str]:
    """Yield balances whose tasks in progress are not those that have a hold and no end."""
    due: dict[Row, int] = {}
    for scope, scope_id in _SCOPES.items():
        rows = _read(
            conn,
            f"SELECT '{scope}', t.{scope_id}, count(*) FROM tasks t "  # noqa: S608
            "JOIN reservations r ON r.task_id = t.id "
            f"WHERE t.state NOT IN {_ENDED} GROUP BY 1, 2".replace("t.''", "''"),
        )
        due |= {row[:2]: row[2] for row in rows}
    for scope, scope_id, span, count in _read(
        conn, "SELECT scope, scope_id, span, tasks_count FROM balances"
    ):
        wanted = due.get((scope, scope_id), 0) if span == "ever" else 0
        if count != wanted:
            yield f"balance {scope}/{scope_id}/{span}: {count} tasks in progress, not {wanted}"


def _find_wrong_entries(conn: sa.Connection) -> Iterator[str]:
    """Yield tasks whose entries are not those that their reservation asks for."""
    entries: dict[str, list[str]] = {}
    for task_id, kind in _read(
        conn, "SELECT task_id, kind FROM ledger_entries WHERE step < 3 ORDER BY task_id, step"
    ):
        entries.setdefault(task_id, []).append(kind)
    ends = {None: ["hold"], "settled": ["hold", "settle"], "released": ["hold", "release"]}
    for task_id, outcome in _read(conn, "SELECT task_id, outcome FROM reservations"):
        if entries.pop(task_id, []) != ends[outcome]:
            yield f"{task_id}: its entries are not those of outcome {outcome}"
    for task_id in entries:
        yield f"{task_id}: has entries, and no reservation"


def _read(conn: sa.Connection, query: str) -> list[Row]:
    return [tuple(row) for row in conn.execute(sa.text(query))]
