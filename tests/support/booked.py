"""Tasks with money to them, written as the gateway writes them, and hands that spoil the books."""

# ruff: noqa: S608
# The statements are made of constants of this file.

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.attempts import NO_MARKERS, Attempt, Shape
from gateway.domain.billing import Evidence, EvidenceKind, Reservation, Usage
from gateway.domain.tasks import Event, Task, TaskState
from gateway.services.moves import Move, apply_move, apply_resolution
from gateway.services.notifying import Outbox
from gateway.storage import attempts, ledger, orphans, schema, tasks
from gateway.storage.orphans import StoredOrphan
from tests.support.pricing import a_price, some_usage
from tests.support.stored import NOW_MS, a_task, moved

DAY_MS: Final = 86_400_000
SETTLED, OPEN, RELEASED, VANISHED, LOST = (a_task(number).id for number in range(1, 6))
CHARGED, FOUND, GIVEN_UP, CANCELLED, REFUSED, ESTIMATED = (
    a_task(number).id for number in range(7, 13)
)
"""The tasks of `make_books`."""
_TOLD_NOBODY: Final = Outbox(None, "")
_SPOILABLE: Final = (
    *(schema.tasks, schema.task_requests, schema.task_transitions, schema.attempts),
    *(schema.reservations, schema.ledger_entries, schema.balances, schema.orphans),
)
Books = dict[sa.Table, list[dict[str, Any]]]


def ended(upstream_task_id: str | None, status: str) -> Evidence:
    """Return what a look at the upstream of `a_task` proves."""
    return Evidence(EvidenceKind.ENDED, f"ark: {upstream_task_id} is {status}")


def fields_of(used: Usage) -> dict[str, object]:
    """Return the fields of a success that its upstream shows to have used so much."""
    return {"usage": {"completion_tokens": used.tokens}, "duration": used.seconds}


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
    tasks.admit(conn, task, '{"content":[]}', None)
    attempts.insert(conn, an_attempt(task))
    ledger.hold(conn, reservation)
    return reservation


def move(
    conn: sa.Connection,
    task: Task,
    event: Event,
    evidence: Evidence | None = None,
    **changes: object,
) -> Task:
    """Move a task, as every service does."""
    after = moved(task, event, **changes)
    assert apply_move(conn, Move(task, after, event, evidence), _TOLD_NOBODY) is not None
    return after


def end(conn: sa.Connection, task: Task, _held: Reservation, used: Usage | None = None) -> None:
    """Let an admitted task succeed with this usage, or fail without."""
    queued = move(conn, task, Event.ACCEPTED)
    if used is None:
        move(conn, queued, Event.FAILED, ended(queued.upstream_task_id, "failed"))
        return
    proof = ended(queued.upstream_task_id, "succeeded")
    move(conn, queued, Event.SUCCEEDED, proof, fields=fields_of(used))


def vanish(conn: sa.Connection, task: Task) -> Task:
    """Let an admitted task fail without evidence: its hold stays."""
    return move(conn, move(conn, task, Event.ACCEPTED), Event.VANISHED)


def lose(conn: sa.Connection, task: Task, evidence: Evidence | None) -> Task:
    """Let the answer to a task's submission be lost, and give the task up by this evidence."""
    lost = move(conn, task, Event.LOST, upstream_task_id=None)
    return move(conn, lost, Event.ABSENT, evidence, upstream_task_id=None)


def book_loss(conn: sa.Connection, task: Task, cost_micros: int, at_ms: int) -> None:
    """Let an upstream task that was found too late be a loss of the organization's."""
    reservation = ledger.find(conn, task.id)
    assert reservation is not None
    proof = ended(f"late-{task.id}", "succeeded")
    step = ledger.book_loss(conn, reservation, cost_micros, proof, at_ms)
    assert step is not None
    bear(conn, task.id, f"late-{task.id}", step)


def bear(conn: sa.Connection, task_id: str, upstream_task_id: str, step: int) -> None:
    """Record the orphan whose cost a loss is."""
    orphan = StoredOrphan("ark", "main", upstream_task_id, NOW_MS, "succeeded", task_id=task_id)
    assert orphans.record(conn, orphan)
    orphans.note_step(conn, orphan, step)


def decide(conn: sa.Connection, task: Task, evidence: Evidence, used: Usage | None = None) -> None:
    """Charge a task that had ended without evidence: as quoted, or for what is shown at last."""
    shown = None
    if used is not None:
        shown = replace(task, state=TaskState.SUCCEEDED, fields=fields_of(used))
    assert apply_resolution(
        conn, task, evidence, NOW_MS + DAY_MS, _TOLD_NOBODY, is_charged=True, shown=shown
    )


def make_books(conn: sa.Connection) -> None:
    """Write one task of each kind, whatever may become of one and of its money."""
    for number in range(1, 6):
        task = a_task(number)
        reservation = admit(conn, task)
        if task.id == SETTLED:
            end(conn, task, reservation, Usage(48_000, 5))
        elif task.id == RELEASED:
            end(conn, task, reservation)
        elif task.id == VANISHED:
            vanish(conn, task)
        elif task.id == LOST:
            absent = Evidence(EvidenceKind.ABSENT, "ark: 3 complete lists without it")
            book_loss(conn, lose(conn, task, absent), 720_000, NOW_MS + DAY_MS)
    tasks.admit(conn, a_task(6, state=TaskState.QUEUED, upstream_task_id=a_task(6).id), "{}", None)
    _make_rare_ones(conn)
    assert tasks.hide(conn, "proj_default", SETTLED, NOW_MS + DAY_MS)
    assert tasks.hide(conn, "proj_default", CHARGED, NOW_MS + DAY_MS)


def _make_rare_ones(conn: sa.Connection) -> None:
    said = Evidence(EvidenceKind.OPERATOR, "cli said charge")
    charged, found, given_up, cancelled, refused, estimated = (
        a_task(number) for number in range(7, 13)
    )
    for task in (charged, found, given_up, cancelled, refused, estimated):
        admit(conn, task)
    decide(conn, vanish(conn, charged), said)
    vanished = vanish(conn, found)
    decide(conn, vanished, ended(vanished.upstream_task_id, "succeeded"), Usage(47_000, 5))
    lost = move(conn, given_up, Event.LOST, upstream_task_id=None)
    gone = moved(lost, Event.ABSENT, upstream_task_id=None)
    assert apply_move(conn, Move(lost, gone, Event.ABSENT, said, is_charged=True), _TOLD_NOBODY)
    queued = move(conn, cancelled, Event.ACCEPTED)
    proof = Evidence(EvidenceKind.CANCELLED, f"ark: {queued.upstream_task_id} was cancelled")
    move(conn, queued, Event.CANCELLED, proof)
    no = Evidence(EvidenceKind.REJECTED, "InvalidParameter")
    move(conn, refused, Event.REFUSED, no, upstream_task_id=None)
    queued = move(conn, estimated, Event.ACCEPTED)
    move(conn, queued, Event.SUCCEEDED, ended(queued.upstream_task_id, "succeeded"), fields={})


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
    "a loss is made up": _spoiled(
        f"{RELEASED}: ",
        "INSERT INTO ledger_entries (task_id, step, kind, at_ms, project_id, key_id, "
        "day_start_ms, month_start_ms, currency, held_micros, held_tokens, held_seconds, "
        "held_videos, spent_micros, spent_tokens, spent_seconds, spent_videos, cost_currency, "
        "cost_micros, price_version, is_estimated, evidence, evidence_detail) "
        f"SELECT '{RELEASED}', step, {_COPIED.format(at='at_ms')} {_at(LOST)} AND step = 3",
    ),
    "a loss is taken away": _spoiled(
        f"{LOST}: ", f"DELETE FROM ledger_entries {_at(LOST)} AND step = 3"
    ),
    "the orphan of a loss is taken away": _spoiled(f"{LOST}: ", "DELETE FROM orphans"),
    "the orphan of a loss is given to another entry": _spoiled(
        f"{LOST}: ", "UPDATE orphans SET entry_step = 4"
    ),
    **{
        f"a settled task is said to have {state}": _spoiled(
            f"{SETTLED}: ", f"UPDATE tasks SET state = '{state}' WHERE id = '{SETTLED}'"
        )
        for state in ("failed", "cancelled", "expired")
    },
    "a task that failed by evidence is charged": _spoiled(
        f"{CHARGED}: ",
        f"UPDATE task_transitions SET event = 'failed' {_at(CHARGED)} AND to_state = 'failed'",
    ),
    "a task that failed by evidence keeps its hold": _spoiled(
        f"{VANISHED}: ",
        f"UPDATE task_transitions SET event = 'failed' {_at(VANISHED)} AND to_state = 'failed'",
    ),
    **{
        f"a settlement is by the evidence {kind}": _spoiled(
            f"{SETTLED}: ",
            f"UPDATE ledger_entries SET evidence = '{kind}' {_at(SETTLED)} AND step = 2",
        )
        for kind in sorted(set(EvidenceKind) - {EvidenceKind.ENDED})
    },
    **{
        f"the release of a failure is by the evidence {kind}": _spoiled(
            f"{RELEASED}: ",
            f"UPDATE ledger_entries SET evidence = '{kind}' {_at(RELEASED)} AND step = 2",
        )
        for kind in sorted(set(EvidenceKind) - {EvidenceKind.ENDED})
    },
    "a charge by decision is by a rejection": _spoiled(
        f"{CHARGED}: ",
        f"UPDATE ledger_entries SET evidence = 'rejected' {_at(CHARGED)} AND step = 2",
    ),
    "the evidence of a settlement tells of a failure": _spoiled(
        f"{SETTLED}: ",
        "UPDATE ledger_entries SET evidence_detail = replace(evidence_detail, 'succeeded', "
        f"'failed') {_at(SETTLED)} AND step = 2",
    ),
    "the evidence of a release tells of a success": _spoiled(
        f"{RELEASED}: ",
        "UPDATE ledger_entries SET evidence_detail = replace(evidence_detail, 'failed', "
        f"'succeeded') {_at(RELEASED)} AND step = 2",
    ),
    "the evidence is of another upstream task": _spoiled(
        f"{SETTLED}: ",
        "UPDATE ledger_entries SET evidence_detail = 'ark: another is succeeded' "
        f"{_at(SETTLED)} AND step = 2",
    ),
    "a task is given another upstream task": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE tasks SET upstream_task_id = 'another' WHERE id = '{SETTLED}'",
    ),
    "a task shows fewer tokens than are settled": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE tasks SET fields = replace(fields, '48000', '47000') WHERE id = '{SETTLED}'",
    ),
    "a task shows nothing that it used": _spoiled(
        f"{SETTLED}: ", f"UPDATE tasks SET fields = '{{}}' WHERE id = '{SETTLED}'"
    ),
    "what a task shows can't be read": _spoiled(
        f"{SETTLED}: ", f"UPDATE tasks SET fields = '{{' WHERE id = '{SETTLED}'"
    ),
    "an estimated task shows what it used": _spoiled(
        f"{ESTIMATED}: ",
        'UPDATE tasks SET fields = \'{"usage":{"completion_tokens":49005}}\' '
        f"WHERE id = '{ESTIMATED}'",
    ),
    "fewer tokens are settled everywhere": _spoiled(
        f"{SETTLED}: ",
        "UPDATE ledger_entries SET spent_tokens = 47000, spent_micros = 705000, "
        f"cost_micros = 705000 {_at(SETTLED)} AND step = 2",
        "UPDATE reservations SET tokens = 47000, charge_micros = 705000, cost_micros = 705000 "
        f"{_at(SETTLED)}",
        "UPDATE balances SET spent_tokens = spent_tokens - 1000, "
        "spent_micros = spent_micros - 15000",
    ),
    "a settlement is called estimated": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE ledger_entries SET is_estimated = 1 {_at(SETTLED)} AND step = 2",
        f"UPDATE reservations SET is_estimated = 1 {_at(SETTLED)}",
    ),
    "a charge by decision is called reported": _spoiled(
        f"{CHARGED}: ",
        f"UPDATE ledger_entries SET is_estimated = 0 {_at(CHARGED)} AND step = 2",
        f"UPDATE reservations SET is_estimated = 0 {_at(CHARGED)}",
    ),
    "a charge by decision is of fewer tokens than were quoted": _spoiled(
        f"{CHARGED}: ",
        "UPDATE ledger_entries SET spent_tokens = 1000, spent_micros = 15000, "
        f"cost_micros = 15000 {_at(CHARGED)} AND step = 2",
        "UPDATE reservations SET tokens = 1000, charge_micros = 15000, cost_micros = 15000 "
        f"{_at(CHARGED)}",
        "UPDATE balances SET spent_tokens = spent_tokens - 48005, "
        "spent_micros = spent_micros - 720075",
    ),
    **{
        f"a settlement is dated {name}": _spoiled(
            f"{SETTLED}: ",
            f"UPDATE ledger_entries SET at_ms = at_ms {shift} {_at(SETTLED)} AND step = 2",
            f"UPDATE reservations SET resolved_at_ms = resolved_at_ms {shift} {_at(SETTLED)}",
        )
        for name, shift in (
            ("before its hold", f"- {30 * DAY_MS}"),
            ("into the next month", f"+ {30 * DAY_MS}"),
        )
    },
    "a late charge is dated before its task's end": _spoiled(
        f"{CHARGED}: ",
        f"UPDATE ledger_entries SET at_ms = {NOW_MS} {_at(CHARGED)} AND step = 2",
        f"UPDATE reservations SET resolved_at_ms = {NOW_MS} {_at(CHARGED)}",
    ),
    "a hold is dated into the month before": _spoiled(
        f"{OPEN}: ",
        f"UPDATE ledger_entries SET at_ms = at_ms - {30 * DAY_MS} {_at(OPEN)}",
        f"UPDATE reservations SET at_ms = at_ms - {30 * DAY_MS} {_at(OPEN)}",
    ),
    **{
        f"the move to version {version} is taken away": _spoiled(
            f"{SETTLED}: ",
            f"DELETE FROM task_transitions {_at(SETTLED)} AND version = {version}",
        )
        for version in (1, 2, 3)
    },
    "all moves of a task are taken away": _spoiled(
        f"{OPEN}: ", f"DELETE FROM task_transitions {_at(OPEN)}"
    ),
    "a move led to another state": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE task_transitions SET to_state = 'running' {_at(SETTLED)} AND version = 2",
    ),
    "the last move led to another state": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE task_transitions SET to_state = 'expired' {_at(SETTLED)} AND version = 3",
    ),
    "the last move was made at another time": _spoiled(
        f"{SETTLED}: ",
        f"UPDATE task_transitions SET at_ms = at_ms + 1 {_at(SETTLED)} AND version = 3",
    ),
    "a task is set back to an earlier version": _spoiled(
        f"{VANISHED}: ",
        "UPDATE tasks SET version = 2, state = 'queued', "
        f"updated_at_ms = updated_at_ms - 1000 WHERE id = '{VANISHED}'",
    ),
    "a task is given to another key": _spoiled(
        f"{OPEN}: ", f"UPDATE tasks SET key_id = 'another' WHERE id = '{OPEN}'"
    ),
}
"""Each is to be found by the auditor and by `books.py`."""


def spoil(conn: sa.Connection, spoiled: Spoiled) -> None:
    """Do it, past the triggers that forbid it."""
    _disarm(conn)
    for statement in spoiled.statements:
        assert conn.exec_driver_sql(statement).rowcount, statement


def copy_books(conn: sa.Connection) -> Books:
    """Return all rows of the tables that can be spoiled."""
    return {
        table: [dict(row) for row in conn.execute(sa.select(table)).mappings()]
        for table in _SPOILABLE
    }


def put_back(conn: sa.Connection, kept: Books) -> None:
    """Make the books what they were when they were copied."""
    _disarm(conn)
    for table in reversed(kept):
        conn.execute(sa.delete(table))
    for table, rows in kept.items():
        conn.execute(sa.insert(table), rows)


def _disarm(conn: sa.Connection) -> None:
    for table in ("ledger_entries", "task_transitions"):
        if conn.dialect.name == "sqlite":
            for verb in ("update", "delete"):
                conn.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_no_{verb}")
        else:
            conn.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
