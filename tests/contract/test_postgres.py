"""What only the store for several processes has: a server that is away, slow or in a deadlock."""

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.util import await_only

from gateway.config import StorageConfig
from gateway.domain.tasks import Event
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.ports import Change, ChangeKind, Database
from gateway.storage import audit, keys, postgres, projects, schema, tasks
from gateway.storage.changes import CHANNEL, parse
from gateway.storage.postgres import RERUNS_MAX, open_postgres
from gateway.storage.snapshots import snapshot
from tests.contract.conftest import Place
from tests.contract.test_database import count_events, watched
from tests.support.stored import a_key, a_project, a_task, an_event, moved

MARKED: Final = {"prompt": "marked-text"}
"""Kept out of the test itself, whose lines a traceback shows."""


@asynccontextmanager
async def opened(config: StorageConfig) -> AsyncIterator[Database]:
    await postgres.upgrade(config)
    database = await open_postgres(config)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def server(postgres_place: Place) -> AsyncIterator[Database]:
    async with opened(postgres_place.config) as database:
        yield database


def add_event(conn: sa.Connection, number: int) -> None:
    audit.add(conn, an_event("race", number))


def sleep(conn: sa.Connection, delay_s: float) -> None:
    conn.execute(sa.select(sa.func.pg_sleep(delay_s)))


def disconnect_others(conn: sa.Connection) -> int:
    """End every other connection to this database, as a restart of the server does."""
    ended = conn.execute(
        sa.text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    return int(ended.scalar_one())


async def test_runs_a_transaction_again_after_a_deadlock(server: Database) -> None:
    await server.write(add_two_rows)
    runs: list[str] = []
    both_hold_a_row = asyncio.Barrier(2)

    def lock(conn: sa.Connection, order: str) -> None:
        runs.append(order)
        for row in order:
            conn.execute(
                sa.update(schema.projects)
                .where(schema.projects.c.id == row)
                .values(created_at_ms=schema.projects.c.created_at_ms + 1)
            )
            if runs.count(order) == 1 and row == order[0]:
                await_only(both_hold_a_row.wait())

    await asyncio.gather(server.write(lock, "ab"), server.write(lock, "ba"))

    assert len(runs) > 2  # the second run of one may meet the other again
    assert await server.read(times) == [2, 2]


def add_two_rows(conn: sa.Connection) -> None:
    conn.execute(
        sa.insert(schema.projects), [{"id": n, "name": n, "created_at_ms": 0} for n in "ab"]
    )


def times(conn: sa.Connection) -> list[int]:
    return list(conn.scalars(sa.select(schema.projects.c.created_at_ms)))


async def test_gives_up_a_transaction_that_keeps_failing(server: Database) -> None:
    runs = []

    def fail(conn: sa.Connection) -> None:
        runs.append(1)
        add_event(conn, len(runs))
        conn.exec_driver_sql(
            "DO $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = 'serialization_failure'; END $$"
        )

    with pytest.raises(StorageUnavailable):
        await server.write(fail)

    assert len(runs) == 1 + RERUNS_MAX
    assert await server.read(count_events) == 0


async def test_survives_a_restart_of_the_server_between_calls(server: Database) -> None:
    await asyncio.gather(*(server.write(add_event, number) for number in range(20)))
    assert await server.write(disconnect_others) >= 2

    await asyncio.gather(*(server.write(add_event, number) for number in range(20, 40)))

    assert await server.read(count_events) == 40


async def test_survives_a_restart_of_the_server_within_a_snapshot(server: Database) -> None:
    await server.write(add_event, 1)
    seen: list[int] = []

    def count_cut_off_once(conn: sa.Connection) -> int:
        with snapshot(conn):
            seen.append(count_events(conn))
            if len(seen) == 1:
                conn.execute(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())))
            return count_events(conn)

    assert await server.read(count_cut_off_once) == 1
    assert seen == [1, 1]


async def test_a_slow_statement_is_stopped(postgres_place: Place) -> None:
    config = postgres_place.config.model_copy(update={"statement_timeout_s": 0.2})
    async with opened(config) as database:
        with pytest.raises(StorageUnavailable):
            await database.write(sleep, 30)
        with pytest.raises(StorageUnavailable):
            await database.read(sleep, 30)
        await database.write(add_event, 1)


async def test_a_lock_is_not_waited_for_without_end(postgres_place: Place) -> None:
    config = postgres_place.config.model_copy(update={"lock_timeout_s": 0.2})
    async with opened(config) as database:
        await database.write(add_two_rows)

        is_held, is_over = asyncio.Event(), asyncio.Event()

        def hold(conn: sa.Connection) -> None:
            conn.execute(sa.select(schema.projects).with_for_update())
            is_held.set()
            await_only(is_over.wait())

        holding = asyncio.ensure_future(database.write(hold))
        await is_held.wait()
        with pytest.raises(StorageUnavailable):
            await database.write(hold)
        is_over.set()
        await holding


async def test_answers_that_it_is_too_busy_when_too_many_wait(postgres_place: Place) -> None:
    config = postgres_place.config.model_copy(update={"queue_count_max": 3})
    async with opened(config) as database:
        outcomes = await asyncio.gather(
            *(database.write(add_event, number) for number in range(8)), return_exceptions=True
        )

        refused = [outcome for outcome in outcomes if isinstance(outcome, StorageUnavailable)]
        assert len(refused) == 5
        assert await database.read(count_events) == 3


async def test_refuses_a_server_that_is_not_there() -> None:
    config = StorageConfig(url=SecretStr("postgresql://user:hunter2@127.0.0.1:1/name"))

    with pytest.raises(StorageUnavailable, match="can't be opened") as caught:
        await open_postgres(config)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2/part@host/name",
        "postgresql://user:hun#ter2@host:5432/name",
        "postgresql://user:hunter2@host:hunter2/name",
        "postgresql://user:hunter2@[host/name",
    ],
)
async def test_refuses_a_malformed_url_without_showing_it(url: str) -> None:
    with pytest.raises((ConfigurationError, StorageUnavailable)) as caught:
        await open_postgres(StorageConfig(url=SecretStr(url)))

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "ter2" not in str(caught.value)


async def test_asks_to_migrate_a_database_without_schema(postgres_place: Place) -> None:
    with pytest.raises(ConfigurationError, match="run `seedance-gateway migrate`"):
        await open_postgres(postgres_place.config)

    assert await postgres.current_revision(postgres_place.config) is None


async def test_refuses_a_newer_schema_in_clear_words(postgres_place: Place) -> None:
    async with opened(postgres_place.config) as database:
        await database.write(set_revision, "9999")

    for attempt in (open_postgres, postgres.upgrade, postgres.current_revision):
        with pytest.raises(ConfigurationError, match="'9999', newer than any"):
            await attempt(postgres_place.config)


def set_revision(conn: sa.Connection, revision: str) -> None:
    conn.execute(sa.update(schema.alembic_version).values(version_num=revision))


async def test_does_not_migrate_over_foreign_tables(postgres_place: Place) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    assert postgres_place.config.url is not None
    connection = await asyncpg.connect(postgres_place.config.url.get_secret_value())
    await connection.execute("CREATE TABLE tasks (chore text)")
    await connection.close()

    with pytest.raises(ConfigurationError, match="already exists"):
        await postgres.upgrade(postgres_place.config)

    assert await postgres.current_revision(postgres_place.config) is None


async def test_only_one_process_migrates_at_a_time(postgres_place: Place) -> None:
    await asyncio.gather(*(postgres.upgrade(postgres_place.config) for _ in range(6)))

    assert await postgres.current_revision(postgres_place.config) == schema.REVISIONS[-1]


def test_a_missing_driver_names_the_extra() -> None:
    program = (
        "import asyncio, sys\n"
        "sys.modules['asyncpg'] = None\n"
        "from pydantic import SecretStr\n"
        "from gateway.config import StorageConfig\n"
        "from gateway.storage.postgres import open_postgres\n"
        "asyncio.run(open_postgres(StorageConfig(url=SecretStr('postgresql://u@h/d'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )

    assert "ConfigurationError: PostgreSQL needs the extra `postgres`" in done.stderr


async def test_watch_tells_each_committed_change(server: Database) -> None:
    await server.write(add_project_and_key)
    task = a_task()
    await server.write(tasks.admit, task, "{}", None)

    async with watched(server) as seen:
        await server.write(keys.revoke, "Key000000000", 1, an_event("key", 1))
        assert await asyncio.wait_for(seen.get(), 5) == Change(ChangeKind.KEYS)
        await server.write(move_to_rejected, task.id)
        assert await asyncio.wait_for(seen.get(), 5) == Change(ChangeKind.TASK, task.id, 2)


async def test_watch_does_not_tell_what_was_rolled_back(server: Database) -> None:
    await server.write(add_project_and_key)

    def revoke_and_raise(conn: sa.Connection) -> None:
        keys.revoke(conn, "Key000000000", 1, an_event("key", 1))
        raise ValueError

    async with watched(server) as seen:
        with pytest.raises(ValueError):
            await server.write(revoke_and_raise)
        await server.write(keys.revoke, "Key000000000", 2, an_event("key", 2))
        assert await asyncio.wait_for(seen.get(), 5) == Change(ChangeKind.KEYS)
        assert seen.empty()


async def test_watch_listens_again_after_its_connection_is_lost(server: Database) -> None:
    await server.write(add_project_and_key)

    async with watched(server) as seen:
        await server.write(disconnect_others)
        assert await asyncio.wait_for(seen.get(), 10) == Change(ChangeKind.ALL)
        await server.write(keys.revoke, "Key000000000", 1, an_event("key", 1))
        assert await asyncio.wait_for(seen.get(), 5) == Change(ChangeKind.KEYS)


async def test_watch_takes_an_unknown_message_for_any_change(server: Database) -> None:
    async with watched(server) as seen:
        await server.write(notify, "from another release: {}")
        assert await asyncio.wait_for(seen.get(), 5) == Change(ChangeKind.ALL)


def notify(conn: sa.Connection, payload: str) -> None:
    conn.execute(sa.select(sa.func.pg_notify(CHANNEL, payload)))


@pytest.mark.parametrize(
    "payload", ["", "task", "task a", "task a b", "task a -1", "new a 1", "task a 1 2", "keys  ²"]
)
def test_reads_a_malformed_change_as_any(payload: str) -> None:
    assert parse(payload) == Change(ChangeKind.ALL)


async def test_the_servers_detail_is_not_in_the_traceback(server: Database) -> None:
    await server.write(add_project_and_key)
    with pytest.raises(sa.exc.IntegrityError) as caught:
        await server.write(tasks.admit, a_task(version=0, fields=MARKED), "{}", None)

    assert MARKED["prompt"] not in "".join(traceback.format_exception(caught.value))


def add_project_and_key(conn: sa.Connection) -> None:
    projects.insert(conn, a_project(), an_event("project"))
    keys.insert(conn, a_key(), an_event("key"))


def move_to_rejected(conn: sa.Connection, task_id: str) -> None:
    stored = tasks.find(conn, task_id)
    assert stored is not None
    after = moved(stored.task, Event.REFUSED)
    assert tasks.apply_transition(conn, stored.task, after, Event.REFUSED)
