"""The audit on both stores: right books pass, and what it promises to notice is named."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from gateway.domain.auditing import Audit
from gateway.domain.billing import Usage
from gateway.domain.tasks import TaskState
from gateway.ports import Database
from gateway.storage import orphans, schema, tasks
from gateway.storage.auditing import audit_books
from gateway.storage.snapshots import snapshot
from tests.contract.conftest import Place
from tests.support.booked import (
    LOST,
    OPEN,
    SETTLED,
    SPOILED,
    admit,
    copy_books,
    end,
    make_books,
    put_back,
    spoil,
)
from tests.support.books import find_differences
from tests.support.stored import a_task

NAMES_MAX = 20


async def audit(database: Database, names_max: int = NAMES_MAX) -> Audit:
    return await database.read(audit_books, names_max)


def run(conn: sa.Connection, statement: str) -> None:
    conn.exec_driver_sql(statement)


def execute(conn: sa.Connection, statement: sa.Executable) -> None:
    conn.execute(statement)


def read_ledger(conn: sa.Connection) -> Sequence[tuple[Any, ...]]:
    query = sa.select(schema.ledger_entries).order_by("task_id", "step")
    return [tuple(row) for row in conn.execute(query)]


async def test_books_that_the_gateway_wrote_add_up(database: Database) -> None:
    await database.write(make_books)

    assert await audit(database) == Audit()


async def test_an_empty_store_adds_up(database: Database) -> None:
    assert await audit(database) == Audit()


@pytest.mark.tampers_with_books
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("what", SPOILED)
async def test_each_change_of_the_table_is_named_by_both_auditors(
    database: Database, place: Place, what: str
) -> None:
    await database.write(make_books)

    await database.write(spoil, SPOILED[what])

    found = await audit(database)
    assert found.count >= len(found.named) >= 1
    assert any(SPOILED[what].told in name for name in found.named), found.named
    twice = find_differences(place.path)
    assert any(SPOILED[what].told in name for name in twice), twice


@pytest.mark.tampers_with_books
@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_each_change_of_the_table_is_named_on_postgresql(database: Database) -> None:
    await database.write(make_books)
    kept = await database.read(copy_books)
    unnamed = []

    for what, spoiled in SPOILED.items():
        await database.write(spoil, spoiled)
        found = await audit(database)
        if not any(spoiled.told in name for name in found.named):
            unnamed.append(f"{what}: {found}")
        await database.write(put_back, kept)

    assert unnamed == []
    assert await audit(database) == Audit()


@pytest.mark.tampers_with_books
async def test_a_balance_below_zero_is_named(database: Database) -> None:
    await database.write(make_books)
    changed = "UPDATE balances SET held_micros = -1 WHERE scope = 'key' AND span = 'ever'"
    await database.write(run, changed)

    found = await audit(database)

    assert "balance key/Key000000000/ever/0: is negative" in found.named


@pytest.mark.tampers_with_books
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "price", ["", "{", "[]", "{}", '{"version":"v"}', '{"cost":{"video_micros":"1"},"charge":{}}']
)
async def test_a_price_that_cannot_be_read_is_named(database: Database, price: str) -> None:
    await database.write(make_books)
    changed = sa.update(schema.reservations).values(price=price)
    await database.write(execute, changed.where(schema.reservations.c.task_id == OPEN))

    found = await audit(database)

    assert found == Audit(1, (f"{OPEN}: its price can't be read",))


@pytest.mark.tampers_with_books
async def test_as_many_are_named_as_asked_for_and_the_others_counted(database: Database) -> None:
    await database.write(make_books)
    await database.write(run, "UPDATE reservations SET hold_micros = hold_micros + 1")

    every = await audit(database, 1000)
    some = await audit(database, 3)

    assert every.count == len(every.named) == some.count
    assert every.count >= 5
    assert len(some.named) == 3


async def test_a_loss_whose_orphan_an_operator_gave_to_a_task_is_no_difference(
    database: Database,
) -> None:
    await database.write(make_books)
    adopted = a_task(20, state=TaskState.QUEUED, upstream_task_id=f"late-{LOST}")

    await database.write(orphans.forget, "ark", f"late-{LOST}")
    before = await audit(database)
    await database.write(tasks.admit, adopted, "{}", None)

    assert before == Audit(1, (f"{LOST}: no orphan bears its loss",))
    assert await audit(database) == Audit()


async def test_a_loss_whose_orphan_was_noted_without_its_task_is_no_difference(
    database: Database,
) -> None:
    await database.write(make_books)

    await database.write(run, "UPDATE orphans SET task_id = NULL")

    assert await audit(database) == Audit()


async def test_tasks_from_before_the_ledger_are_no_difference(database: Database) -> None:
    await database.write(tasks.admit, a_task(), "{}", None)

    assert await audit(database) == Audit()


async def test_an_audit_sees_one_state_of_books_that_are_being_written(
    database: Database,
) -> None:
    async def go_through(number: int) -> None:
        task = a_task(number, key_id=f"Key{number % 7:09d}")
        reservation = await database.write(admit, task)
        await database.write(end, task, reservation, Usage(49_005 + number, 5))

    async def keep_auditing(is_over: asyncio.Event) -> list[Audit]:
        found = []
        while not is_over.is_set():
            found.append(await audit(database))
        return found

    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        auditing = group.create_task(keep_auditing(is_over))
        await asyncio.gather(*(go_through(number) for number in range(150)))
        is_over.set()

    assert len(auditing.result()) > 1
    assert set(map(str, auditing.result())) == {str(Audit())}


async def test_a_snapshot_does_not_see_what_is_committed_meanwhile(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def admit_one() -> Awaitable[object]:
        return database.write(tasks.admit, a_task(), "{}", None)

    def read_twice(conn: sa.Connection, freeze: Callable[[sa.Connection], Any]) -> list[int]:
        def count() -> int:
            return len(tasks.list_all(conn, 100))

        with freeze(conn):
            before = count()
            if database.name == "sqlite":  # whose reads are made in a thread
                asyncio.run_coroutine_threadsafe(admit_once(), loop).result(10)
            else:
                await_only(admit_once())
            return [before, count()]

    async def admit_once() -> None:
        await admit_one()

    assert await database.read(read_twice, snapshot) == [0, 0]
    assert await database.read(lambda conn: len(tasks.list_all(conn, 100))) == 1


@pytest.mark.parametrize(
    "statement",
    [
        sa.update(schema.ledger_entries).values(spent_micros=0),
        sa.update(schema.ledger_entries).values(held_micros=0).where(sa.text("step = 1")),
        sa.update(schema.ledger_entries).values(evidence_detail="forged").where(sa.text("1 = 0")),
        sa.delete(schema.ledger_entries),
        sa.delete(schema.ledger_entries).where(sa.text("step = 2")),
    ],
    ids=["update all", "update some", "update none", "delete all", "delete some"],
)
async def test_no_entry_is_changed_or_taken_away(
    database: Database, statement: sa.Update | sa.Delete
) -> None:
    await database.write(make_books)
    before = await database.read(read_ledger)

    # SQLite asks its triggers for each row that there is to change.
    is_harmless = database.name == "sqlite" and "1 = 0" in str(statement)
    if not is_harmless:
        with pytest.raises(sa.exc.DBAPIError, match="ledger_entries is append-only"):
            await database.write(execute, statement)

    assert await database.read(read_ledger) == before


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_no_entry_is_replaced(database: Database) -> None:
    await database.write(make_books)
    before = await database.read(read_ledger)

    with pytest.raises(sa.exc.IntegrityError, match="append-only"):
        await database.write(run, "REPLACE INTO ledger_entries SELECT * FROM ledger_entries")

    assert await database.read(read_ledger) == before


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_the_ledger_is_not_truncated(database: Database) -> None:
    await database.write(make_books)

    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        await database.write(run, "TRUNCATE ledger_entries")


async def test_a_hold_is_resolved_by_one_entry_alone(database: Database) -> None:
    await database.write(make_books)
    entries = schema.ledger_entries
    settled = sa.select(entries).where(entries.c.task_id == SETTLED)
    twice = sa.insert(entries).from_select(list(entries.c), settled)

    with pytest.raises(sa.exc.IntegrityError):
        await database.write(execute, twice)
