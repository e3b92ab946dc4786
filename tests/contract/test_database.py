"""The Database port: what holds on SQLite and on PostgreSQL alike."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import sqlalchemy as sa
import uvloop

from gateway.errors import StorageUnavailable
from gateway.ports import Change, ChangeKind, Database
from gateway.storage import audit, keys, projects, schema, tasks
from tests.contract.conftest import Place
from tests.support.stored import a_key, a_project, a_task, an_event


class Refusal(Exception):
    """What a function raises of its own."""


def add_event(conn: sa.Connection, number: int) -> int:
    audit.add(conn, an_event("race", number))
    return number


def add_event_and_raise(conn: sa.Connection, number: int) -> None:
    audit.add(conn, an_event("race", number))
    raise Refusal(number)


def count_events(conn: sa.Connection) -> int:
    found: int = conn.execute(
        sa.select(sa.func.count()).where(schema.audit_events.c.subject == "race")
    ).scalar_one()
    return found


def take_three_of_a_hundred(conn: sa.Connection, task_id: str) -> bool:
    """The portable conditional update: one statement that tests and changes."""
    taken = conn.execute(
        sa.update(schema.tasks)
        .where(schema.tasks.c.id == task_id, schema.tasks.c.poll_count + 3 <= 100)
        .values(poll_count=schema.tasks.c.poll_count + 3)
    )
    return taken.rowcount == 1


async def test_shows_a_write_to_every_later_read(database: Database) -> None:
    for number in range(20):
        await database.write(add_event, number)
        counts = await asyncio.gather(*(database.read(count_events) for _ in range(8)))
        assert counts == [number + 1] * 8


async def test_returns_what_the_function_returns(database: Database) -> None:
    assert await database.write(add_event, number=7) == 7


async def test_rolls_back_a_function_that_raises(database: Database) -> None:
    with pytest.raises(Refusal) as caught:
        await database.write(add_event_and_raise, 1)

    assert caught.value.args == (1,)
    assert await database.read(count_events) == 0


async def test_a_function_that_raises_does_not_hurt_its_neighbours(database: Database) -> None:
    outcomes = await asyncio.gather(
        *(
            database.write(add_event_and_raise if number % 3 == 0 else add_event, number)
            for number in range(60)
        ),
        return_exceptions=True,
    )

    refused = [number for number in range(60) if isinstance(outcomes[number], Refusal)]
    assert refused == list(range(0, 60, 3))
    assert await database.read(count_events) == 40


async def test_a_database_error_in_a_function_does_not_hurt_its_neighbours(
    database: Database,
) -> None:
    await database.write(add_event, 0)

    outcomes = await asyncio.gather(
        *(database.write(add_event, number) for number in (1, 0, 2, 0, 3)), return_exceptions=True
    )

    assert [isinstance(outcome, sa.exc.IntegrityError) for outcome in outcomes] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert await database.read(count_events) == 4


async def test_raises_a_stop_iteration_instead_of_hanging(database: Database) -> None:
    def run_dry(_conn: sa.Connection) -> None:
        next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(database.write(run_dry), 10)


async def test_grants_exactly_what_a_conditional_update_allows(database: Database) -> None:
    task = a_task()
    await database.write(tasks.admit, task, "{}", None)

    granted = await asyncio.gather(
        *(database.write(take_three_of_a_hundred, task.id) for _ in range(80))
    )

    assert sum(granted) == 33
    stored = await database.read(tasks.find, task.id)
    assert stored is not None
    assert stored.task.poll_count == 99


async def test_a_caller_that_is_cancelled_does_not_stop_its_write(place: Place) -> None:
    database = await place.open()
    callers = [asyncio.ensure_future(database.write(add_event, number)) for number in range(20)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    await database.close()

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with reopened(place) as again:
        assert await again.read(count_events) == 20


async def test_a_caller_that_is_cancelled_leaves_the_next_one_alone(database: Database) -> None:
    caller = asyncio.ensure_future(database.write(add_event_and_raise, 1))
    await asyncio.sleep(0)
    caller.cancel()

    assert await database.write(add_event, 2) == 2
    assert caller.cancelled()


async def test_refuses_to_write_in_a_read(database: Database) -> None:
    with pytest.raises(StorageUnavailable):
        await database.read(add_event, 1)

    assert await database.read(count_events) == 0


async def test_finishes_what_is_queued_when_it_closes(place: Place) -> None:
    database = await place.open()
    writes = [asyncio.ensure_future(database.write(add_event, number)) for number in range(50)]
    await asyncio.sleep(0)

    await database.close()

    assert await asyncio.gather(*writes) == list(range(50))
    async with reopened(place) as again:
        assert await again.read(count_events) == 50


async def test_refuses_work_once_it_is_closed(place: Place) -> None:
    database = await place.open()
    await database.close()

    with pytest.raises(StorageUnavailable):
        await database.write(add_event, 1)
    with pytest.raises(StorageUnavailable):
        await database.read(count_events)
    await database.close()


async def test_watch_tells_of_another_process_within_a_second(
    database: Database, place: Place
) -> None:
    async with watched(database) as seen:
        await asyncio.to_thread(run_python, place, "await db.write(keys.insert, a_key(1), E)")
        async with asyncio.timeout(1):
            change = await seen.get()

    assert change.kind in {ChangeKind.KEYS, ChangeKind.ALL}
    assert await database.read(keys.count) == 1


async def test_watch_stays_silent_when_nothing_is_committed(database: Database) -> None:
    async with watched(database) as seen:
        for _ in range(5):
            await database.read(count_events)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(seen.get(), 0.8)


async def test_a_killed_process_keeps_what_it_was_told_is_written(place: Place) -> None:
    source = program(
        place,
        """
        for number in range(1000):
            await db.write(audit.add, an_event("race", number))
            print(number, flush=True)
        """,
    )
    told = await asyncio.to_thread(run_until_killed, source, 50)

    async with reopened(place) as database:
        assert await database.read(count_events) >= told


async def test_two_processes_write_at_once_and_lose_nothing(
    database: Database, place: Place
) -> None:
    other = asyncio.to_thread(
        run_python,
        place,
        """
        async def add(first):
            for number in range(first, first + 50):
                await db.write(audit.add, an_event("race", number))
        await asyncio.gather(*(add(first) for first in range(1000, 1200, 50)))
        """,
    )

    async def add_fifty(first: int) -> None:
        for number in range(first, first + 50):
            await database.write(add_event, number)

    await asyncio.gather(other, *(add_fifty(first) for first in range(0, 200, 50)))

    assert await database.read(count_events) == 400


async def test_keeps_64_bit_integers_and_any_text(database: Database) -> None:
    greatest, text = 2**63 - 1, "名前 Ünï 🎬 \u2028 \"quoted\" 'single' \\ %s $1 ?"
    key = a_key(created_at_ms=greatest, expires_at_ms=-(2**63), name=text, models=(text,))
    await database.write(keys.insert, key, an_event())

    assert await database.read(keys.find, key.id) == key


async def test_refuses_integers_beyond_64_bits(database: Database) -> None:
    with pytest.raises((OverflowError, sa.exc.DBAPIError)):
        await database.write(keys.insert, a_key(created_at_ms=2**63), an_event())

    assert await database.read(keys.count) == 0


def test_works_on_uvloop_too(place: Place) -> None:
    async def scenario() -> int:
        async with reopened(place) as database:
            await asyncio.gather(*(database.write(add_event, number) for number in range(50)))
            with pytest.raises(Refusal):
                await database.write(add_event_and_raise, 99)
            return await database.read(count_events)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == 50


async def test_errors_do_not_show_what_was_stored(database: Database) -> None:
    await database.write(projects.insert, a_project("taken"), an_event())
    with pytest.raises(sa.exc.IntegrityError) as caught:
        await database.write(
            tasks.admit, a_task(version=0, model="secret-model"), "secret-prompt", None
        )

    shown = []
    error: BaseException | None = caught.value
    while error is not None:
        shown.append(repr(error) + str(error))
        error = error.__cause__
    assert "secret" not in "".join(shown)


@asynccontextmanager
async def reopened(place: Place) -> AsyncIterator[Database]:
    database = await place.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def watched(database: Database) -> AsyncIterator["asyncio.Queue[Change]"]:
    """Give the changes reported once the watch stands, which its first report says."""
    seen: asyncio.Queue[Change] = asyncio.Queue()
    watcher = asyncio.ensure_future(database.watch(seen.put_nowait))
    async with asyncio.timeout(10):
        assert await seen.get() == Change(ChangeKind.ALL)
    try:
        yield seen
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


def run_until_killed(source: str, line_count: int) -> int:
    """Run a program, kill it after so many lines; return how many it printed in all."""
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(line_count)]
        process.kill()
        return len(told + process.stdout.readlines())


def program(place: Place, body: str) -> str:
    """Return the source of a process that runs `body` with the database open as `db`."""
    url = place.config.url.get_secret_value() if place.config.url is not None else None
    lines = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from gateway.config import StorageConfig
        from gateway.storage import audit, keys
        from tests.contract.conftest import Place
        from tests.support.stored import a_key, an_event

        E = an_event("elsewhere")

        async def main():
            db = await Place(StorageConfig(url={url!r}), Path({str(place.path)!r})).open()
        BODY
            await db.close()

        asyncio.run(main())
        """
    ).replace("BODY", lines)


def run_python(place: Place, body: str) -> None:
    subprocess.run([sys.executable, "-c", program(place, body)], check=True, timeout=60)
