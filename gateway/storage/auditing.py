"""The audit: the books recomputed from the ledger's own rows, and each difference named.

Rows are compared and added up inside the database, which holds them in pages and temporary files,
not in memory; only the prices are recomputed here, a page of holds at a time. All of it sees one
state: what is admitted or settled meanwhile is no difference.

The cost grows with the ledger: one to two seconds of one core and one reader for 100,000 tasks. On
PostgreSQL `storage.statement_timeout_s` bounds each statement.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import orjson
import sqlalchemy as sa

from gateway.domain.auditing import (
    ENDS,
    Audit,
    find_wrong_charge,
    find_wrong_hold,
    find_wrong_usage,
)
from gateway.domain.billing import NO_USAGE, Outcome, Price, Usage, price_from_json
from gateway.domain.limits import Scope, Window
from gateway.domain.quotes import settled_usage
from gateway.domain.tasks import TERMINAL, TaskState
from gateway.storage.snapshots import snapshot

_PAGE_ROWS: Final = 500
"""What is recomputed at a stretch: on PostgreSQL requests wait meanwhile, for some milliseconds."""
_FIGURES_KEPT: Final = 4096
_PRICES_KEPT: Final = 256

_METRICS: Final = ("micros", "tokens", "seconds", "videos")
_SUMMED: Final = (*(f"held_{each}" for each in _METRICS), *(f"spent_{each}" for each in _METRICS))
_COUNTED: Final = (*_SUMMED, "tasks_count")
_HELD: Final = ("r.hold_micros", "r.held_tokens", "r.held_seconds", "r.held_videos")
_USED: Final = ("r.charge_micros", "r.tokens", "r.seconds", "r.videos")
_BOOKED: Final = (*_USED, "r.cost_micros")
_SCOPES: Final = {Scope.ORGANIZATION: "''", Scope.PROJECT: "project_id", Scope.KEY: "key_id"}
_STARTS: Final = {Window.DAY: "day_start_ms", Window.MONTH: "month_start_ms", Window.EVER: "0"}


def _words(states: Iterable[TaskState]) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(states))


def _ends() -> str:
    """Return the SQL of all that goes together: outcome, evidence, and how the task ended."""
    return ", ".join(
        f"'{outcome or ''}/{evidence or ''}/{event}'"
        for (outcome, evidence), events in ENDS.items()
        for event in events
    )


def _contradicts(end: str) -> str:
    """Return the SQL of whether a task that ended so has other books, or by other evidence."""
    books = "COALESCE(r.outcome, '') || '/' || COALESCE(e.evidence, '')"
    return f"{books} || '/' || {end} NOT IN ({_ends()})"


def _any_differ(*pairs: tuple[str, str]) -> str:
    return " OR ".join(f"{found} <> {due}" for found, due in pairs)


_CONTRADICTED: Final = "its end, its evidence and its books do not go together"
_ENDED: Final = _words(TERMINAL)
_UNFINISHED: Final = _words(set(TaskState) - TERMINAL)
# A task may fail without evidence, as when its upstream denies it: then its hold stays.
_PROVED: Final = _words(TERMINAL - {TaskState.FAILED})
_BY_STATE: Final = "CASE t.state WHEN 'rejected' THEN 'refused' ELSE t.state END"
_NAMED: Final = "t.upstream || ': ' || t.upstream_task_id || ' is '"
# A version is a move, that its client took it out of view, or that it was charged after its end.
_MOVED: Final = "t.version - CASE WHEN t.deleted_at_ms IS NULL THEN 0 ELSE 1 END"
_PLACE: Final = ("project_id", "key_id", "day_start_ms", "month_start_ms")
_PRICED: Final = ("currency", "cost_currency", "price_version")

_HOLD_FLAWS: Final = (
    ("t.id IS NULL", "there is no such task"),
    (
        _any_differ(("t.project_id", "r.project_id"), ("t.key_id", "r.key_id")),
        "is held for another project or key than its own",
    ),
    ("h.task_id IS NULL", "no entry holds its amount"),
    (
        _any_differ(
            *zip((f"h.held_{each}" for each in _METRICS), _HELD, strict=True),
            *((f"h.spent_{each}", "0") for each in _METRICS),
            ("h.cost_micros", "0"),
            ("h.at_ms", "r.at_ms"),
            *((f"h.{each}", f"r.{each}") for each in _PLACE),
        ),
        "its first entry is not its hold",
    ),
    ("r.outcome IS NULL AND e.task_id IS NOT NULL", "its hold is open, and an entry ends it"),
    ("r.outcome IS NOT NULL AND e.task_id IS NULL", "its hold was resolved by no entry"),
    (
        _any_differ(
            ("e.kind", "CASE r.outcome WHEN 'settled' THEN 'settle' ELSE 'release' END"),
            *zip((f"e.held_{each}" for each in _METRICS), (f"-{x}" for x in _HELD), strict=True),
            *zip((f"e.spent_{each}" for each in _METRICS), _USED, strict=True),
            ("e.cost_micros", "r.cost_micros"),
            ("e.is_estimated", "r.is_estimated"),
            ("e.at_ms", "r.resolved_at_ms"),
            *((f"e.{each}", f"r.{each}") for each in _PLACE),
            *((f"e.{each}", f"h.{each}") for each in _PRICED),
        ),
        "its last entry is not its resolution",
    ),
    (
        f"r.outcome = 'released' AND ({_any_differ(*((each, '0') for each in _BOOKED))})",
        "its hold was released, and it is charged",
    ),
    ("r.outcome = 'released' AND t.state = 'succeeded'", "succeeded, and its hold was released"),
    (f"r.outcome IS NOT NULL AND t.state NOT IN ({_ENDED})", "goes on, and its hold was resolved"),
    (f"r.outcome IS NULL AND t.state IN ({_PROVED})", "has ended, and its hold is open"),
    (f"t.state IN ({_PROVED}) AND {_contradicts(_BY_STATE)}", _CONTRADICTED),
    (
        (
            "e.evidence = 'ended' AND "
            "(e.evidence_detail LIKE '% is succeeded') <> (r.outcome = 'settled')"
        ),
        "its evidence tells of another end than its books",
    ),
    (
        f"e.evidence = 'ended' AND substr(e.evidence_detail, 1, length({_NAMED})) <> {_NAMED}",
        "its evidence is of another upstream task",
    ),
    ("r.at_ms <> t.created_at_ms", "was not held for when it was made"),
    (
        (
            "r.resolved_at_ms < t.updated_at_ms "
            f"OR (r.resolved_at_ms > t.updated_at_ms AND t.state IN ({_PROVED}))"
        ),
        "its hold was not resolved when it ended",
    ),
    (
        "r.outcome = 'settled' AND r.is_estimated = 0 AND e.evidence IN ('operator', 'policy')",
        "was charged without a report, and not as quoted",
    ),
    (
        (
            "r.is_estimated = 1 AND "
            f"({_any_differ(*((f'r.{each}', f'r.held_{each}') for each in _METRICS[1:]))})"
        ),
        "was charged as quoted, and not what was",
    ),
)
# Of two processes that find one orphan at once, one may book what the other has noted without its
# task. And what was an orphan is none any more once an operator has given it to a task.
_BORNE: Final = (
    "(e.task_id, e.step) IN (SELECT o.task_id, o.entry_step FROM orphans o "  # noqa: S608
    "WHERE o.task_id IS NOT NULL AND o.entry_step IS NOT NULL) "
    "OR e.evidence_detail IN (SELECT o.upstream || ': ' || o.upstream_task_id || ' is succeeded' "
    "FROM orphans o WHERE o.task_id IS NULL AND o.entry_step IS NOT NULL) "
    f"OR e.evidence_detail IN (SELECT {_NAMED} || 'succeeded' FROM tasks t "
    "WHERE t.upstream_task_id IS NOT NULL)"
)
_ENTRY_FLAWS: Final = (
    ("r.task_id IS NULL", "has an entry, and no hold"),
    (
        f"e.step >= 3 AND ({_any_differ(*((f'e.{each}', '0') for each in _SUMMED))})",
        "its loss is in a balance",
    ),
    (f"e.step >= 3 AND NOT ({_BORNE})", "no orphan bears its loss"),
)
_TASK_FLAWS: Final = (
    (
        "COALESCE(l.task_id, b.task_id) IS NULL OR n.task_id IS NOT NULL",
        "has not the version of its last move",
    ),
    ("COALESCE(l.to_state, b.to_state) <> t.state", "its last move led to another state"),
    ("COALESCE(l.at_ms, b.at_ms) <> t.updated_at_ms", "its last move was made at another time"),
)
_FAILURE_FLAWS: Final = ((_contradicts("m.event"), _CONTRADICTED),)


def _cases(flaws: Sequence[tuple[str, str]]) -> str:
    """Return the SQL that is the words of the first flaw, NULL if there is none."""
    return "CASE " + " ".join(f"WHEN {flaw} THEN '{words}'" for flaw, words in flaws) + " END"


def _flawed(rows: str) -> sa.TextClause:
    """Return the query of the first rows with a flaw, and of how many there are."""
    return sa.text(
        f"SELECT task_id, flaw, COUNT(*) OVER () AS found_count FROM ({rows}) AS looked "  # noqa: S608
        "WHERE flaw IS NOT NULL ORDER BY task_id LIMIT :names_max"
    )


_TASK_CHECKS: Final = (
    _flawed(
        f"SELECT r.task_id AS task_id, {_cases(_HOLD_FLAWS)} AS flaw FROM reservations r "  # noqa: S608
        "LEFT JOIN tasks t ON t.id = r.task_id "
        "LEFT JOIN ledger_entries h ON h.task_id = r.task_id AND h.step = 1 "
        "LEFT JOIN ledger_entries e ON e.task_id = r.task_id AND e.step = 2"
    ),
    _flawed(
        f"SELECT e.task_id AS task_id, {_cases(_ENTRY_FLAWS)} AS flaw FROM ledger_entries e "  # noqa: S608
        "LEFT JOIN reservations r ON r.task_id = e.task_id"
    ),
    _flawed(
        "SELECT o.task_id AS task_id, CASE WHEN e.task_id IS NULL THEN 'no entry bears its orphan' "
        "END AS flaw FROM orphans o LEFT JOIN ledger_entries e ON e.task_id = o.task_id "
        "AND e.step = o.entry_step WHERE o.task_id IS NOT NULL AND o.entry_step IS NOT NULL"
    ),
    _flawed(
        f"SELECT t.id AS task_id, {_cases(_TASK_FLAWS)} AS flaw FROM tasks t "  # noqa: S608
        f"LEFT JOIN task_transitions l ON l.task_id = t.id AND l.version = {_MOVED} "
        f"LEFT JOIN task_transitions b ON b.task_id = t.id AND b.version = {_MOVED} - 1 "
        "AND t.state = 'failed' AND t.bill IS NOT NULL "
        f"LEFT JOIN task_transitions n ON n.task_id = t.id AND n.version = {_MOVED} + 1"
    ),
    # Why a task failed is told by its moves alone.
    _flawed(
        f"SELECT r.task_id AS task_id, {_cases(_FAILURE_FLAWS)} AS flaw FROM tasks t "  # noqa: S608
        "JOIN reservations r ON r.task_id = t.id "
        "JOIN task_transitions m ON m.task_id = t.id AND m.to_state = 'failed' "
        "LEFT JOIN ledger_entries e ON e.task_id = t.id AND e.step = 2 WHERE t.state = 'failed'"
    ),
    _flawed(
        "SELECT m.task_id AS task_id, CASE WHEN COALESCE(m.from_state, '') <> "
        "COALESCE(b.to_state, '') THEN 'there is a gap in its moves' END AS flaw "
        "FROM task_transitions m LEFT JOIN task_transitions b "
        "ON b.task_id = m.task_id AND b.version = m.version - 1"
    ),
    # An attempt is written with its hold. What was imported, or was there before the ledger, has
    # neither.
    _flawed(
        "SELECT a.task_id AS task_id, CASE WHEN r.task_id IS NULL "
        "THEN 'was to be sent, and nothing is held for it' END AS flaw FROM attempts a "
        "LEFT JOIN reservations r ON r.task_id = a.task_id"
    ),
)


def _due_balances() -> str:
    """Return the SQL of what is to cancel out: balances, and less what makes them, row by row."""
    balances = f"SELECT scope, scope_id, span, start_ms, 1 AS is_there, {', '.join(_COUNTED)}"
    sums = ", ".join(f"-{each}" for each in _SUMMED)
    zeros = ", ".join("0" for _ in _SUMMED)
    return " UNION ALL ".join(
        [
            f"{balances} FROM balances",
            *(
                f"SELECT '{scope.value}', {scope_id}, '{window.value}', {start_ms}, 0, {sums}, 0 "  # noqa: S608
                "FROM summed"
                for scope, scope_id in _SCOPES.items()
                for window, start_ms in _STARTS.items()
            ),
            *(
                f"SELECT '{scope.value}', {scope_id}, '{Window.EVER.value}', 0, 0, {zeros}, "  # noqa: S608
                "-tasks_count FROM going"
                for scope, scope_id in _SCOPES.items()
            ),
        ]
    )


_BALANCES: Final = sa.text(
    "WITH summed AS ("  # noqa: S608
    f"SELECT {', '.join(_PLACE)}, {', '.join(f'SUM({each}) AS {each}' for each in _SUMMED)} "
    f"FROM ledger_entries GROUP BY {', '.join(_PLACE)}), "
    "going AS (SELECT r.project_id, r.key_id, COUNT(*) AS tasks_count FROM tasks t "
    f"JOIN reservations r ON r.task_id = t.id WHERE t.state IN ({_UNFINISHED}) "
    "GROUP BY r.project_id, r.key_id), "
    f"due AS ({_due_balances()}) "
    "SELECT scope, scope_id, span, start_ms, SUM(is_there) AS is_there, "
    f"{', '.join(f'SUM({each}) AS {each}' for each in _COUNTED)}, COUNT(*) OVER () AS found_count "
    "FROM due GROUP BY scope, scope_id, span, start_ms "
    f"HAVING SUM(is_there) <> 1 OR {' OR '.join(f'SUM({each}) <> 0' for each in _COUNTED)} "
    "ORDER BY scope, scope_id, span, start_ms LIMIT :names_max"
)
_NEGATIVE: Final = sa.text(
    f"SELECT scope, scope_id, span, start_ms, {', '.join(_COUNTED)}, "  # noqa: S608
    "COUNT(*) OVER () AS found_count FROM balances "
    f"WHERE {' OR '.join(f'{each} < 0' for each in _COUNTED)} "
    "ORDER BY scope, scope_id, span, start_ms LIMIT :names_max"
)


class _Figures(NamedTuple):
    """What the price of one task is held against: columns of its hold, and of its first entry."""

    price: str
    hold_micros: int
    held_tokens: int
    held_seconds: int
    held_videos: int
    held_tool_calls: int
    outcome: str | None
    is_estimated: int | None
    charge_micros: int
    cost_micros: int
    tokens: int
    seconds: int
    videos: int
    currency: str | None
    cost_currency: str | None
    price_version: str | None


_RESOLVED: Final = slice(
    _Figures._fields.index("charge_micros"), _Figures._fields.index("videos") + 1
)
_FIGURES: Final = ", ".join(
    f"{'h' if each in _PRICED else 'r'}.{each}" for each in _Figures._fields
)
# Each table is bounded, or PostgreSQL may merge it from its very first row, page after page.
_PRICED_PAGE: Final = sa.text(
    "SELECT r.task_id, CASE WHEN r.outcome = 'settled' AND t.state = 'succeeded' "  # noqa: S608
    f"THEN COALESCE(t.fields, '') END AS shown, {_FIGURES} FROM reservations r "
    "LEFT JOIN ledger_entries h ON h.task_id = r.task_id AND h.step = 1 AND h.task_id > :after_id "
    "LEFT JOIN tasks t ON t.id = r.task_id AND t.id > :after_id "
    "WHERE r.task_id > :after_id ORDER BY r.task_id LIMIT :page_rows"
)


def audit_books(conn: sa.Connection, names_max: int) -> Audit:
    """Recompute everything; return how many differences there are, `names_max` named at most.

    Tasks are named before balances: one wrong entry is in nine of these.
    """
    with snapshot(conn):
        found = [
            *(_check_tasks(conn, check, names_max) for check in _TASK_CHECKS),
            _check_prices(conn, names_max),
            _check_negatives(conn, names_max),
            _check_balances(conn, names_max),
        ]
    named = [name for each in found for name in each.named]
    return Audit(sum(each.count for each in found), tuple(named[:names_max]))


def _check_balances(conn: sa.Connection, names_max: int) -> Audit:
    rows = conn.execute(_BALANCES, {"names_max": names_max}).all()
    return _audit_of(rows, _describe_balance)


def _describe_balance(row: sa.Row[Any]) -> str:
    if row.is_there == 0:
        return f"{_name_balance(row)}: there is none"
    # PostgreSQL adds up to decimals.
    sums = {each: int(getattr(row, each)) for each in _COUNTED}
    off = (f"{each} {amount:+d}" for each, amount in sums.items() if amount)
    return f"{_name_balance(row)}: off by {', '.join(off)}"


def _check_negatives(conn: sa.Connection, names_max: int) -> Audit:
    rows = conn.execute(_NEGATIVE, {"names_max": names_max}).all()
    return _audit_of(rows, lambda row: f"{_name_balance(row)}: is negative")


def _name_balance(row: sa.Row[Any]) -> str:
    return f"balance {row.scope}/{row.scope_id}/{row.span}/{row.start_ms}"


def _check_tasks(conn: sa.Connection, check: sa.TextClause, names_max: int) -> Audit:
    rows = conn.execute(check, {"names_max": names_max}).all()
    return _audit_of(rows, lambda row: f"{row.task_id}: {row.flaw}")


def _audit_of(rows: Sequence[sa.Row[Any]], describe: Callable[[sa.Row[Any]], str]) -> Audit:
    return Audit(rows[0].found_count if rows else 0, tuple(map(describe, rows)))


def _check_prices(conn: sa.Connection, names_max: int) -> Audit:
    """Recompute every task: the hold and the charge by the price that was frozen for it."""
    # Tasks are much alike: what was computed for one holds for all with the same figures.
    read_price = lru_cache(_PRICES_KEPT)(_read_price)
    find_flaw = lru_cache(_FIGURES_KEPT)(partial(_find_wrong_figures, read_price))
    named: list[str] = []
    count, after_id = 0, ""
    while rows := conn.execute(_PRICED_PAGE, {"after_id": after_id, "page_rows": _PAGE_ROWS}).all():
        for row in rows:
            figures = _Figures(*row[2:])
            flaw = find_flaw(figures, _read_report(row[1], figures))
            if flaw is not None:
                count += 1
                if len(named) < names_max:
                    named.append(f"{row[0]}: {flaw}")
        after_id = rows[-1][0]
    return Audit(count, tuple(named))


def _read_report(fields: str | None, figures: _Figures) -> tuple[Usage | None] | None:
    """Return what a settled success shows that it used, if anything; None of any other task."""
    if fields is None:
        return None
    try:
        shown = orjson.loads(fields)
    except orjson.JSONDecodeError:  # of what Python alone reads, such as half a character
        shown = _read_json(fields)
    held = Usage(figures.held_tokens, figures.held_seconds, figures.held_videos)
    return (settled_usage(shown, held) if isinstance(shown, dict) else None,)


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None  # which nobody wrote who went through the gateway


def _find_wrong_figures(
    read_price: Callable[[str], Price | None],
    row: _Figures,
    report: tuple[Usage | None] | None,
) -> str | None:
    price = read_price(row.price)
    if price is None:
        return "its price can't be read"
    frozen = (price.charge_currency, price.cost_currency, price.version)
    if row.currency is not None and (row.currency, row.cost_currency, row.price_version) != frozen:
        return "its entries are of another price"
    held = Usage(row.held_tokens, row.held_seconds, row.held_videos, row.held_tool_calls)
    flaw = find_wrong_hold(price, held, row.hold_micros)
    if flaw is None and row.outcome == Outcome.SETTLED.value:
        if None in tuple[object, ...](row)[_RESOLVED]:
            return "its settlement has no amount"
        used = Usage(row.tokens, row.seconds, row.videos)
        if report is not None:
            flaw = find_wrong_usage(report[0], held, used, is_estimated=bool(row.is_estimated))
        flaw = flaw or find_wrong_charge(price, used, row.charge_micros, row.cost_micros)
    return flaw


def _read_price(stored: str) -> Price | None:
    try:
        price = price_from_json(json.loads(stored))
        for units in (price.cost, price.charge):
            units.amount(NO_USAGE)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None  # which nobody wrote who went through the ledger
    return price
