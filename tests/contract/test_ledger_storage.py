"""The ledger on both stores: each hold ends once, and all nine balances go along."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa

from gateway.domain.balances import Amounts, Balance, amounts_of
from gateway.domain.billing import (
    EntryKind,
    Evidence,
    EvidenceKind,
    Price,
    Reservation,
    Resolution,
    UnitPrices,
    Usage,
    release,
    settle,
)
from gateway.domain.limits import Account, Scope, Window, accounts_of
from gateway.domain.tasks import Event, Task
from gateway.ports import Database
from gateway.storage import attempts, balances, ledger, schema, tasks
from tests.support.booked import DAY_MS, admit, an_attempt, bear, ended, fields_of
from tests.support.stored import NOW_MS, a_task, moved

HELD: Final = Usage(49_005, 5)
HOLD: Final = amounts_of(735_075, HELD)
NOTHING: Final = Amounts()
USED: Final = Usage(48_000, 4, tool_calls=2)
LATER_MS: Final = NOW_MS + 2 * DAY_MS
DONE: Final = ended(f"up-{a_task().id}", "succeeded")
FAILED: Final = ended(f"up-{a_task().id}", "failed")
ABSENT: Final = Evidence(EvidenceKind.ABSENT, "3 lists without it")

Windows = dict[tuple[str, str, str, int], tuple[Amounts, Amounts, int]]


def read_balances(conn: sa.Connection) -> Windows:
    return {
        (each.account.scope.value, each.account.id, each.window.value, each.start_ms): (
            each.held,
            each.spent,
            each.tasks_count,
        )
        for each in balances.list_all(conn)
    }


def nine(
    reservation: Reservation, held: Amounts, spent: Amounts = NOTHING, count: int = 0
) -> Windows:
    """Return the balances that one task alone makes."""
    starts = balances.starts_of(reservation)
    return {
        (account.scope.value, account.id, window.value, starts[window]): (
            held,
            spent,
            count if window is Window.EVER else 0,
        )
        for account in accounts_of(reservation.project_id, reservation.key_id)
        for window in Window
    }


def end(conn: sa.Connection, task: Task, reservation: Reservation, resolution: Resolution) -> bool:
    """End a task with the resolution of its hold, as the moves do, two days later."""
    if resolution.evidence.kind is EvidenceKind.ABSENT:
        first, last, upstream_task_id = Event.LOST, Event.ABSENT, None
    else:
        first, upstream_task_id = Event.ACCEPTED, f"up-{task.id}"
        last = Event.SUCCEEDED if resolution.charge_micros else Event.FAILED
    sent = moved(task, first, upstream_task_id=upstream_task_id)
    shown = {} if resolution.is_estimated else fields_of(resolution.usage)
    ended = replace(moved(sent, last), updated_at_ms=LATER_MS, fields=shown)
    ended = replace(ended, upstream_task_id=upstream_task_id)
    if tasks.apply_transition(conn, task, sent, first):
        tasks.apply_transition(conn, sent, ended, last)
    return ledger.resolve(conn, reservation, resolution, LATER_MS, tasks_count=-1)


def settled(reservation: Reservation, reported: Usage | None = USED, number: int = 0) -> Resolution:
    proof = replace(DONE, detail=DONE.detail.replace(a_task().id, a_task(number).id))
    return settle(reservation.price, reservation.held, reported, proof)


async def test_a_hold_is_in_all_nine_balances_and_in_one_entry(database: Database) -> None:
    reservation = await database.write(admit, a_task())

    assert await database.read(read_balances) == nine(reservation, HOLD, count=1)
    (entry,) = await database.read(ledger.list_entries, a_task().id)
    assert (entry.kind, entry.at_ms, entry.evidence) == (EntryKind.HOLD, NOW_MS, None)
    assert (entry.held, entry.spent, entry.cost_micros) == (HOLD, NOTHING, 0)
    assert (entry.currency, entry.price_version) == ("CNY", reservation.price.version)


async def test_a_settlement_moves_the_charge_and_lets_go_of_the_rest_in_the_windows_of_admission(
    database: Database,
) -> None:
    task = a_task()
    reservation = await database.write(admit, task)

    assert await database.write(end, task, reservation, settled(reservation))

    spent = Amounts(720_000, 48_000, 4, 1)
    assert await database.read(read_balances) == nine(reservation, NOTHING, spent)
    _, entry = await database.read(ledger.list_entries, task.id)
    assert (entry.kind, entry.at_ms, entry.evidence) == (EntryKind.SETTLE, LATER_MS, DONE)
    assert (entry.held, entry.spent, entry.cost_micros) == (-HOLD, spent, 720_000)
    assert not entry.is_estimated
    assert await database.read(ledger.find_open, task.id) is None


async def test_a_release_leaves_nothing_but_its_entry(database: Database) -> None:
    task, evidence = a_task(), ABSENT
    reservation = await database.write(admit, task)

    assert await database.write(end, task, reservation, release(evidence))

    assert await database.read(read_balances) == nine(reservation, NOTHING)
    _, entry = await database.read(ledger.list_entries, task.id)
    assert (entry.kind, entry.evidence) == (EntryKind.RELEASE, evidence)
    assert (entry.held, entry.spent, entry.cost_micros) == (-HOLD, NOTHING, 0)


async def test_a_settlement_may_pass_its_hold_and_may_be_estimated(database: Database) -> None:
    over, estimated = a_task(1), a_task(2, key_id="Key000000002")
    for number, task, reported in ((1, over, Usage(98_010, 10)), (2, estimated, None)):
        reservation = await database.write(admit, task)
        resolution = settled(reservation, reported, number)
        assert await database.write(end, task, reservation, resolution)

    _, passed = await database.read(ledger.list_entries, over.id)
    _, guessed = await database.read(ledger.list_entries, estimated.id)
    assert (passed.spent.micros, passed.is_estimated) == (1_470_150, False)
    assert (guessed.spent, guessed.is_estimated) == (HOLD, True)
    found = await database.read(read_balances)
    assert found["org", "", "ever", 0] == (NOTHING, HOLD + passed.spent, 0)
    assert found["key", "Key000000002", "ever", 0] == (NOTHING, HOLD, 0)


async def test_a_task_whose_end_was_counted_is_not_counted_out_again(database: Database) -> None:
    task = a_task()
    reservation = await database.write(admit, task)
    await database.write(balances.end_task, reservation)
    assert await database.read(read_balances) == nine(reservation, HOLD, count=0)
    queued = moved(task, Event.ACCEPTED)
    for before, after, event in (
        (task, queued, Event.ACCEPTED),
        (queued, moved(queued, Event.VANISHED), Event.VANISHED),
    ):
        await database.write(tasks.apply_transition, before, after, event)

    await database.write(ledger.resolve, reservation, release(FAILED), LATER_MS, tasks_count=0)

    assert await database.read(read_balances) == nine(reservation, NOTHING)


async def test_of_sixteen_resolutions_at_once_one_is_written(database: Database) -> None:
    task = a_task()
    reservation = await database.write(admit, task)
    resolutions = [
        settled(reservation, Usage(10_000 + number, 5)) if number % 2 else release(FAILED)
        for number in range(16)
    ]

    results = await asyncio.gather(
        *(database.write(end, task, reservation, resolution) for resolution in resolutions)
    )

    assert sum(results) == 1
    won = resolutions[results.index(True)]
    entries = await database.read(ledger.list_entries, task.id)
    assert [entry.spent.micros for entry in entries] == [0, won.charge_micros]
    spent = amounts_of(won.charge_micros, won.usage)
    assert await database.read(read_balances) == nine(reservation, NOTHING, spent)
    assert not await database.write(end, task, reservation, release(FAILED))


async def test_a_loss_is_booked_once_and_borne_by_no_budget(database: Database) -> None:
    task = a_task()
    reservation = await database.write(admit, task)
    await database.write(end, task, reservation, release(FAILED))
    evidence = ended("up-9", "succeeded")

    booked = await asyncio.gather(
        *(
            database.write(ledger.book_loss, reservation, 700_000 + number, evidence, LATER_MS)
            for number in range(8)
        )
    )

    assert sorted(step for step in booked if step is not None) == [3]
    await database.write(bear, task.id, "up-9", 3)
    assert await database.read(read_balances) == nine(reservation, NOTHING)
    *_, entry = await database.read(ledger.list_entries, task.id)
    assert (entry.kind, entry.evidence) == (EntryKind.LOSS, evidence)
    assert (entry.held, entry.spent) == (NOTHING, NOTHING)
    assert entry.cost_micros == 700_000 + booked.index(3)


async def test_each_upstream_task_that_nobody_bears_is_a_loss_of_its_own(
    database: Database,
) -> None:
    task = a_task()
    reservation = await database.write(admit, task)
    await database.write(end, task, reservation, release(FAILED))
    proofs = [ended(f"up-{number}", "succeeded") for number in range(3)]

    booked = await asyncio.gather(
        *(
            database.write(ledger.book_loss, reservation, 700_000, each, LATER_MS)
            for each in proofs * 3
        )
    )

    assert sorted(step for step in booked if step is not None) == [3, 4, 5]
    for number in range(3):
        step = next(step for step in booked[number::3] if step is not None)
        await database.write(bear, task.id, f"up-{number}", step)
    entries = await database.read(ledger.list_entries, task.id)
    losses = [each for each in entries if each.kind is EntryKind.LOSS]
    assert {each.evidence for each in losses} == set(proofs)
    assert [each.cost_micros for each in losses] == [700_000] * 3


async def test_a_hold_is_found_as_it_was_taken(database: Database) -> None:
    task = a_task()
    price = Price("v/ü", "USD", UnitPrices(10**13, 1, 2, 3), "CNY", UnitPrices(7, 10**13, 5, 4))
    held = Usage(2**38, 3600, 1, 1000)

    def take(conn: sa.Connection) -> Reservation:
        reservation = Reservation(task.id, task.project_id, task.key_id, held, price, 3, 2, 1)
        tasks.admit(conn, task, "{}", None)
        attempts.insert(conn, an_attempt(task))
        ledger.hold(conn, reservation)
        return reservation

    reservation = await database.write(take)

    assert await database.read(ledger.find, task.id) == reservation
    assert await database.read(ledger.find_open, task.id) == reservation
    assert reservation.hold_micros > 2**40
    assert await database.read(ledger.find, a_task(9).id) is None
    assert await database.read(ledger.find_open, a_task(9).id) is None
    assert await database.read(ledger.list_entries, a_task(9).id) == []


FORBIDDEN: Final[dict[str, str]] = {
    "UPDATE ledger_entries SET spent_micros = 0": "append-only",
    "DELETE FROM ledger_entries": "append-only",
    "UPDATE reservations SET outcome = 'settled'": "reservations_resolution_check",
    "UPDATE reservations SET hold_micros = -1": "reservations_hold_check",
    "UPDATE reservations SET outcome = 'kept'": "reservations_",
    "UPDATE balances SET scope = 'team'": "balances_scope_check",
}
AMOUNTS: Final = [
    f"{kind}_{name}" for kind in ("held", "spent") for name in ("micros", "tokens", "seconds")
]
ENTRY: Final[dict[str, object]] = {
    **dict.fromkeys((*AMOUNTS, "held_videos", "spent_videos", "cost_micros", "is_estimated"), 0),
    **dict.fromkeys(("at_ms", "day_start_ms", "month_start_ms"), 1),
    **dict.fromkeys(("project_id", "key_id", "price_version", "evidence_detail"), "some"),
    **dict.fromkeys(("currency", "cost_currency"), "CNY"),
}
MALFORMED: Final[list[tuple[dict[str, object], str]]] = [
    ({"step": 1, "kind": "hold", "evidence": None}, "(?i)unique|append-only"),  # the task has one
    ({"step": 2, "kind": "settle", "evidence": None}, "ledger_entries_proved_check"),
    ({"step": 4, "kind": "hold", "evidence": "ended"}, "ledger_entries_"),
    ({"step": 2, "kind": "loss", "evidence": "ended"}, "ledger_entries_"),
    ({"step": 3, "kind": "settle", "evidence": "ended"}, "ledger_entries_step_check"),
    ({"step": 2, "kind": "gift", "evidence": "ended"}, "ledger_entries_"),
    ({"step": 2, "kind": "settle", "evidence": "a hunch"}, "ledger_entries_evidence_check"),
]


async def test_the_database_itself_refuses_what_no_ledger_does(database: Database) -> None:
    task = a_task()
    reservation = await database.write(admit, task)
    before = await database.read(read_balances)

    def insert(conn: sa.Connection, values: dict[str, object]) -> None:
        conn.execute(sa.insert(schema.ledger_entries), {**ENTRY, "task_id": task.id, **values})

    for statement, told in FORBIDDEN.items():
        with pytest.raises(sa.exc.DBAPIError, match=told):
            await database.write(lambda conn, text: conn.exec_driver_sql(text), statement)
    for values, told in MALFORMED:
        with pytest.raises(sa.exc.IntegrityError, match=told):
            await database.write(insert, values)
    with pytest.raises(sa.exc.IntegrityError):
        await database.write(ledger.hold, reservation)
    assert len(await database.read(ledger.list_entries, task.id)) == 1
    assert await database.read(read_balances) == before


def watch_accounts(
    conn: sa.Connection, act: Callable[..., Any], *arguments: Any
) -> list[tuple[str, str]]:
    """Return the accounts whose balances an act writes, in the order in which it does."""
    seen: list[tuple[str, str]] = []

    def before(*event: Any) -> None:
        statement, parameters = event[2], event[3]
        if "INTO balances" in statement:
            rows = parameters if isinstance(parameters, list) else [parameters]
            seen.extend((row[0], row[1]) for row in rows)

    sa.event.listen(conn, "before_cursor_execute", before)
    try:
        act(conn, *arguments)
    finally:
        sa.event.remove(conn, "before_cursor_execute", before)
    return seen


async def test_balances_are_always_written_from_the_organization_down(database: Database) -> None:
    task = a_task()
    downwards = [
        (scope, account)
        for scope, account in (("org", ""), ("project", "proj_default"), ("key", task.key_id))
        for _ in Window
    ]
    reservation = await database.write(admit, task)
    accounts = accounts_of(reservation.project_id, reservation.key_id)

    taken = await database.write(
        watch_accounts, lambda conn: ledger.hold(conn, replace(reservation, task_id=other(conn)))
    )
    locked = await database.write(
        watch_accounts, balances.lock, accounts, balances.starts_of(reservation)
    )
    resolved = await database.write(watch_accounts, end, task, reservation, settled(reservation))

    assert taken == locked == resolved == downwards


def other(conn: sa.Connection) -> str:
    """Return the id of another task, which is there."""
    tasks.admit(conn, a_task(1), "{}", None)
    return a_task(1).id


async def test_locked_balances_are_told_in_that_order_and_made_if_they_are_not_there(
    database: Database,
) -> None:
    accounts = accounts_of("proj_default", "Key000000000")
    starts = {Window.DAY: 2000, Window.MONTH: 1000, Window.EVER: 0}

    assert await database.read(balances.find, accounts, starts) == []
    locked = await database.write(balances.lock, accounts, starts)

    assert [each.account for each in locked] == [each for each in accounts for _ in Window]
    assert set(locked) == {
        Balance(account, window, starts[window]) for account in accounts for window in Window
    }
    only_today = await database.read(balances.find, accounts[:1], {Window.DAY: 2000})
    assert only_today == [Balance(Account(Scope.ORGANIZATION, ""), Window.DAY, 2000)]
