"""Tasks with money to them, written as the gateway writes them, and hands that spoil the books."""

# ruff: noqa: S608
# The statements are made of constants of this file.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from gateway.domain.attempts import NO_MARKERS, Attempt, Shape
from gateway.domain.billing import Evidence, EvidenceKind, Reservation, Usage, release, settle
from gateway.domain.tasks import Event, Task, TaskState
from gateway.storage import attempts, balances, ledger, tasks
from tests.support.pricing import a_price, some_usage
from tests.support.stored import NOW_MS, a_task, moved

DAY_MS: Final = 86_400_000
ENDED: Final = Evidence(EvidenceKind.ENDED, "ark: up-1 is succeeded")
SETTLED, OPEN, RELEASED, VANISHED, LOST = (a_task(number).id for number in range(1, 6))
"""The tasks of `make_books`."""


def a_reservation(task: Task) -> Reservation:
    """Return the hold of a task, in the day and (near enough) the month of its admission."""
    day_start_ms = task.created_at_ms // DAY_MS * DAY_MS
    return Reservation(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        held=some_usage(),
        price=a_price(),
        at_ms=task.created_at_ms,
        day_start_ms=day_start_ms,
        month_start_ms=day_start_ms,
    )


def an_attempt(task: Task) -> Attempt:
    return Attempt(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        fingerprint="0" * 64,
        owner="process",
        client_owner="process",
        created_at_ms=task.created_at_ms,
        shape=Shape(task.route.deployment),
        markers=NO_MARKERS,
    )


def admit(conn: sa.Connection, task: Task) -> Reservation:
    """Write a task with its attempt and its hold."""
    reservation = a_reservation(task)
    tasks.admit(conn, task, "{}", None)
    attempts.insert(conn, an_attempt(task))
    ledger.hold(conn, reservation)
    return reservation


def end(
    conn: sa.Connection, task: Task, reservation: Reservation, used: Usage | None = None
) -> None:
    """Let an admitted task succeed with this usage, or fail without."""
    queued = moved(task, Event.ACCEPTED)
    event = Event.FAILED if used is None else Event.SUCCEEDED
    ended = moved(queued, event)
    assert tasks.apply_transition(conn, task, queued, Event.ACCEPTED)
    assert tasks.apply_transition(conn, queued, ended, event)
    if used is None:
        resolution = release(ENDED)
    else:
        resolution = settle(reservation.price, reservation.held, used, ENDED)
    assert ledger.resolve(conn, reservation, resolution, ended.updated_at_ms, tasks_count=-1)


def make_books(conn: sa.Connection) -> None:
    """Write one task of each kind: settled, going on, released, vanished, given up and billed."""
    for number in range(1, 6):
        task = a_task(number)
        reservation = admit(conn, task)
        if task.id == SETTLED:
            end(conn, task, reservation, Usage(48_000, 5))
        elif task.id == VANISHED:
            queued = moved(task, Event.ACCEPTED)
            failed = moved(queued, Event.VANISHED)
            assert tasks.apply_transition(conn, task, queued, Event.ACCEPTED)
            assert tasks.apply_transition(conn, queued, failed, Event.VANISHED)
            balances.end_task(conn, reservation)
        elif task.id != OPEN:
            end(conn, task, reservation)
        if task.id == LOST:
            assert ledger.book_loss(conn, reservation, 720_000, ENDED, NOW_MS + DAY_MS)
    tasks.admit(conn, a_task(6, state=TaskState.QUEUED, upstream_task_id=a_task(6).id), "{}", None)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """What somebody did to the database, and a piece of the sentence that must tell of it."""

    statements: tuple[str, ...]
    told: str


def _spoiled(told: str, *statements: str) -> Spoiled:
    return Spoiled(statements, told)


def _at(task_id: str) -> str:
    return f"WHERE task_id = '{task_id}'"


_COPIED: Final = (
    "kind, {at}, project_id, key_id, day_start_ms, month_start_ms, currency, held_micros, "
    "held_tokens, held_seconds, held_videos, spent_micros, spent_tokens, spent_seconds, "
    "spent_videos, cost_currency, cost_micros, price_version, is_estimated, evidence, "
    "evidence_detail FROM ledger_entries"
)

SPOILED: Final[Mapping[str, Spoiled]] = {
    "a settlement is made smaller": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE ledger_entries SET spent_micros = spent_micros - 1 {_at(SETTLED)} AND step = 2",
    ),
    "a settlement is made smaller everywhere": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE ledger_entries SET spent_micros = spent_micros - 1 {_at(SETTLED)} AND step = 2",
        f"UPDATE reservations SET charge_micros = charge_micros - 1 {_at(SETTLED)}",
        "UPDATE balances SET spent_micros = spent_micros - 1",
    ),
    "fewer tokens were used": _spoiled(
        f"{SETTLED}: ", f"UPDATE ledger_entries SET spent_tokens = 1 {_at(SETTLED)} AND step = 2"
    ),
    "the upstream bills less": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE ledger_entries SET cost_micros = 1 {_at(SETTLED)} AND step = 2",
        f"UPDATE reservations SET cost_micros = 1 {_at(SETTLED)}",
    ),
    "a hold is made smaller": _spoiled(
        f"{OPEN}: ", f"UPDATE ledger_entries SET held_micros = 1 {_at(OPEN)}"
    ),
    "a hold is of fewer videos": _spoiled(
        f"{OPEN}: ", f"UPDATE ledger_entries SET held_videos = 0 {_at(OPEN)}"
    ),
    "a hold is made smaller everywhere": _spoiled(
        f"{OPEN}: ",
        f"UPDATE ledger_entries SET held_micros = held_micros - 1 {_at(OPEN)}",
        f"UPDATE reservations SET hold_micros = hold_micros - 1 {_at(OPEN)}",
        "UPDATE balances SET held_micros = held_micros - 1",
    ),
    "a resolution is taken away": _spoiled(
        f"{SETTLED}: ", f"DELETE FROM ledger_entries {_at(SETTLED)} AND step = 2"
    ),
    "a hold's entry is taken away": _spoiled(
        f"{OPEN}: ", f"DELETE FROM ledger_entries {_at(OPEN)}"
    ),
    "a hold is taken away, and its entries stay": _spoiled(
        f"{OPEN}: ", f"DELETE FROM reservations {_at(OPEN)}"
    ),
    "a hold is taken away with all that it did": _spoiled(
        f"{OPEN}: ",
        f"DELETE FROM reservations {_at(OPEN)}",
        f"DELETE FROM ledger_entries {_at(OPEN)}",
        "UPDATE balances SET held_micros = held_micros - 735075, "
        "held_tokens = held_tokens - 49005, held_seconds = held_seconds - 5, "
        "held_videos = held_videos - 1, "
        "tasks_count = CASE span WHEN 'ever' THEN tasks_count - 1 ELSE tasks_count END",
    ),
    "an open hold is ended by an entry alone": _spoiled(
        f"{OPEN}: ",
        "INSERT INTO ledger_entries (task_id, step, kind, at_ms, project_id, key_id, "
        "day_start_ms, month_start_ms, currency, held_micros, held_tokens, held_seconds, "
        "held_videos, spent_micros, spent_tokens, spent_seconds, spent_videos, cost_currency, "
        "cost_micros, price_version, is_estimated, evidence, evidence_detail) "
        f"SELECT '{OPEN}', step, {_COPIED.format(at='at_ms')} {_at(RELEASED)} AND step = 2",
    ),
    "a release is made a settlement": _spoiled(
        f"{RELEASED}: ", f"UPDATE ledger_entries SET kind = 'settle' {_at(RELEASED)} AND step = 2"
    ),
    "a settlement is made a release": _spoiled(
        f"{SETTLED}: ", f"UPDATE reservations SET outcome = 'released' {_at(SETTLED)}"
    ),
    "a resolution is undone": _spoiled(
        f"{SETTLED}: ",
        "UPDATE reservations SET outcome = NULL, resolved_at_ms = NULL, charge_micros = NULL, "
        "cost_micros = NULL, tokens = NULL, seconds = NULL, videos = NULL, "
        f"is_estimated = NULL {_at(SETTLED)}",
    ),
    "the frozen price is lowered": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE reservations SET price = replace(price, '15000000', '14000000') {_at(SETTLED)}",
    ),
    "an entry is of another currency": _spoiled(
        f"{SETTLED}: ", f"UPDATE ledger_entries SET currency = 'IDR' {_at(SETTLED)} AND step = 2"
    ),
    "all entries are of another price": _spoiled(
        f"{SETTLED}: ", f"UPDATE ledger_entries SET price_version = 'other' {_at(SETTLED)}"
    ),
    "an entry is of another day": _spoiled(
        f"{SETTLED}: ", f"UPDATE ledger_entries SET day_start_ms = 0 {_at(SETTLED)} AND step = 2"
    ),
    "an entry is of another key": _spoiled(
        f"{OPEN}: ", f"UPDATE ledger_entries SET key_id = 'another' {_at(OPEN)}"
    ),
    "a loss is charged to a budget": _spoiled(
        "balance ", f"UPDATE ledger_entries SET spent_micros = 1 {_at(LOST)} AND step = 3"
    ),
    "a balance is made smaller": _spoiled(
        "balance key/Key000000000/day/",
        "UPDATE balances SET held_micros = held_micros - 1 WHERE scope = 'key' AND span = 'day'",
    ),
    "a balance of the organization is made greater": _spoiled(
        "balance org//month/",
        "UPDATE balances SET spent_videos = 99 WHERE scope = 'org' AND span = 'month'",
    ),
    "a balance is taken away": _spoiled(
        "balance project/proj_default/ever/0",
        "DELETE FROM balances WHERE scope = 'project' AND span = 'ever'",
    ),
    "a balance is made up": _spoiled(
        "balance org//day/1",
        "INSERT INTO balances SELECT scope, scope_id, span, 1, held_micros, held_tokens, "
        "held_seconds, held_videos, spent_micros, spent_tokens, spent_seconds, spent_videos, 0 "
        "FROM balances WHERE scope = 'org' AND span = 'day'",
    ),
    "a task in progress is not counted": _spoiled(
        "balance project/proj_default/ever",
        "UPDATE balances SET tasks_count = tasks_count - 1 "
        "WHERE scope = 'project' AND span = 'ever'",
    ),
    "a settled task goes on": _spoiled(
        f"{SETTLED}: ", f"UPDATE tasks SET state = 'running' WHERE id = '{SETTLED}'"
    ),
    "a task ends without its hold": _spoiled(
        f"{OPEN}: ", f"UPDATE tasks SET state = 'cancelled' WHERE id = '{OPEN}'"
    ),
    "a released task succeeded": _spoiled(
        f"{RELEASED}: ", f"UPDATE tasks SET state = 'succeeded' WHERE id = '{RELEASED}'"
    ),
    "a task is given to another key": _spoiled(
        f"{OPEN}: ", f"UPDATE tasks SET key_id = 'another' WHERE id = '{OPEN}'"
    ),
}
"""Each is to be found by the auditor and by `books.py`."""


def spoil(conn: sa.Connection, spoiled: Spoiled) -> None:
    """Do it, past the triggers that forbid it."""
    if conn.dialect.name == "sqlite":
        for verb in ("update", "delete"):
            conn.exec_driver_sql(f"DROP TRIGGER IF EXISTS ledger_entries_no_{verb}")
    else:
        conn.exec_driver_sql("ALTER TABLE ledger_entries DISABLE TRIGGER USER")
    for statement in spoiled.statements:
        assert conn.exec_driver_sql(statement).rowcount, statement
