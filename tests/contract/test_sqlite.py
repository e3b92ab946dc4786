"""What only the embedded store has: its batches, its file, and a disk that fills."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.config import StorageConfig
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.observability.logging import find_driver_code
from gateway.ports import Database
from gateway.storage import audit, schema
from gateway.storage.sqlite import current_revision, open_sqlite
from tests.support.stored import an_event


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[Database]:
    database = await open_sqlite(path, StorageConfig(**settings))
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


def add_event(conn: sa.Connection, number: int, size: int = 0) -> int:
    audit.add(conn, an_event("x" * size, number))
    return number


def count_events(conn: sa.Connection) -> int:
    found: int = conn.execute(
        sa.select(sa.func.count()).select_from(schema.audit_events)
    ).scalar_one()
    return found


def run_pragma(conn: sa.Connection, pragma: str) -> object:
    return conn.exec_driver_sql(f"PRAGMA {pragma}").scalar()


@asynccontextmanager
async def writer_held(database: Database) -> AsyncIterator[None]:
    """Keep the writer busy, so that what is written meanwhile waits in the queue."""
    is_held, is_free = threading.Event(), threading.Event()

    def hold(_conn: sa.Connection) -> None:
        is_held.set()
        is_free.wait(30)

    holding = asyncio.ensure_future(database.write(hold))
    await asyncio.to_thread(is_held.wait)
    try:
        yield
    finally:
        is_free.set()
        await holding


async def queue_writes(database: Database, numbers: range) -> Sequence["asyncio.Future[int]"]:
    """Begin to write these numbers; what finds no room is refused at once."""
    queued = [asyncio.ensure_future(database.write(add_event, number)) for number in numbers]
    await asyncio.sleep(0)
    return queued


def trace_into(statements: list[str]) -> Callable[[sa.Connection], None]:
    def start(conn: sa.Connection) -> None:
        driver = conn.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_trace_callback(statements.append)

    return start


async def test_commits_what_waits_together_once(path: Path) -> None:
    statements: list[str] = []
    async with opened(path) as database:
        await database.write(trace_into(statements))
        async with writer_held(database):
            queued = await queue_writes(database, range(50))
        await asyncio.gather(*queued)

    # The one that traces and the one that holds the writer have a transaction each.
    assert statements.count("COMMIT") == 3
    assert statements.count("RELEASE job") == 52
    assert statements.count("BEGIN IMMEDIATE") == 2


async def test_watching_takes_no_lock(path: Path) -> None:
    statements: list[str] = []
    async with opened(path) as database:
        await database.write(trace_into(statements))
        watching = asyncio.ensure_future(database.watch(lambda _change: None))
        await asyncio.wait([watching], timeout=1)
        watching.cancel()

    assert statements.count("PRAGMA data_version") >= 2
    assert "BEGIN IMMEDIATE" not in statements


async def test_a_lone_write_does_not_wait_for_others(path: Path) -> None:
    async with opened(path) as database:
        for number in range(20):
            assert await asyncio.wait_for(database.write(add_event, number), 5) == number


async def test_answers_that_it_is_too_busy_when_the_queue_is_full(path: Path) -> None:
    async with opened(path, queue_count_max=3) as database:
        async with writer_held(database):
            queued = await queue_writes(database, range(8))
            refused = [write for write in queued if write.done()]
            assert len(refused) == 5
        outcomes = await asyncio.gather(*queued, return_exceptions=True)
        assert [isinstance(outcome, StorageUnavailable) for outcome in outcomes] == [
            *[False] * 3,
            *[True] * 5,
        ]
        assert await database.read(count_events) == 3


def causes_of(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return ", because: ".join(texts)


async def test_a_full_disk_fails_writes_and_needs_no_restart(path: Path) -> None:
    async with opened(path) as database:
        await database.write(add_event, 0)
        limit = int(str(await database.write(run_pragma, "page_count"))) + 2
        await database.write(run_pragma, f"max_page_count = {limit}")

        outcomes = await asyncio.gather(
            *(database.write(add_event, 1 + n, 10_000) for n in range(20)), return_exceptions=True
        )
        kept = await database.read(count_events)
        await database.write(run_pragma, "max_page_count = 1000000")
        await database.write(add_event, 99, 10_000)

        full = [error for error in outcomes if isinstance(error, StorageUnavailable)]
        assert full
        assert "database or disk is full" in causes_of(full[0])
        assert find_driver_code(full[0]) == "SQLITE_FULL"
        assert kept == 1 + len(outcomes) - len(full)
        assert await database.read(count_events) == kept + 1


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def write_outcome(database: Database, number: int) -> type[Exception] | None:
    try:
        await database.write(add_event, number, 5000)
    except StorageUnavailable:
        return StorageUnavailable
    return None


async def test_a_really_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(200_000))
        async with opened(folder / "gateway.db") as database:
            outcomes = [await write_outcome(database, number) for number in range(200)]
            written = outcomes.count(None)
            assert 0 < written < 200
            assert outcomes[-1] is StorageUnavailable
            assert await database.read(count_events) == written

            ballast.unlink()
            await database.write(add_event, 9999, 5000)
            assert await database.read(count_events) == written + 1
        async with opened(folder / "gateway.db") as database:
            assert await database.read(run_pragma, "integrity_check") == "ok"
            assert await database.read(count_events) == written + 1


async def test_a_lost_transaction_fails_its_whole_batch_with_the_cause(path: Path) -> None:
    def lose(conn: sa.Connection) -> None:
        conn.exec_driver_sql("ROLLBACK")

    async with opened(path) as database:
        async with writer_held(database):
            queued = await queue_writes(database, range(3))
            losing = asyncio.ensure_future(database.write(lose))
            await asyncio.sleep(0)
            later = await queue_writes(database, range(3, 6))
        outcomes = await asyncio.gather(*queued, losing, *later, return_exceptions=True)

        assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
        assert all(
            "the transaction was lost" in causes_of(outcome)
            for outcome in outcomes
            if isinstance(outcome, StorageUnavailable)
        )
        assert len({id(outcome) for outcome in outcomes}) == 7
        assert await database.read(count_events) == 0
        assert await database.write(add_event, 7) == 7


async def test_answers_when_another_process_does_not_let_go(path: Path) -> None:
    async with opened(path, lock_timeout_s=0.2) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as rival:
            rival.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable):
                await database.write(add_event, 1)
            assert await database.read(count_events) == 0
            rival.execute("ROLLBACK")

        assert await database.write(add_event, 1) == 1


async def test_nobody_else_can_read_the_files(path: Path) -> None:
    async with opened(path) as database:
        await database.write(add_event, 1)
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}

    assert modes == {"gateway.db": 0o600, "gateway.db-wal": 0o600, "gateway.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_every_connection_is_durable_and_checks_references(path: Path) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}
    async with opened(path) as database:
        for pragma, value in expected.items():
            assert await database.write(run_pragma, pragma) == value
            assert await database.read(run_pragma, pragma) == value
        assert await database.read(run_pragma, "query_only") == 1


async def test_folds_the_log_into_the_file_when_it_closes(path: Path) -> None:
    async with opened(path) as database:
        await database.write(add_event, 1)

    assert [entry.name for entry in path.parent.iterdir()] == ["gateway.db"]


@pytest.fixture
def text_file(path: Path) -> Path:
    path.parent.mkdir()
    path.write_text("This is no database, but long enough to be taken for one. " * 20)
    return path


async def test_refuses_a_file_that_is_no_database(text_file: Path) -> None:
    with pytest.raises(StorageUnavailable, match="can't be opened"):
        await open_sqlite(text_file, StorageConfig())


async def test_refuses_a_newer_schema_in_clear_words(path: Path) -> None:
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(ConfigurationError, match="'9999', newer than any"):
        await open_sqlite(path, StorageConfig())
    with pytest.raises(ConfigurationError, match="'9999', newer than any"):
        await current_revision(path, StorageConfig())


async def test_tells_the_revision_without_making_a_file(path: Path) -> None:
    assert await current_revision(path, StorageConfig()) is None
    assert not await asyncio.to_thread(path.exists)

    async with opened(path):
        assert await current_revision(path, StorageConfig()) == schema.REVISIONS[-1]


OPEN_AND_PRINT_MODULES = """
import asyncio, sys
from pathlib import Path
from gateway.config import StorageConfig
from gateway.storage.sqlite import open_sqlite

async def main():
    for _ in range(2):
        await (await open_sqlite(Path(sys.argv[1]), StorageConfig())).close()

asyncio.run(main())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_starts_without_loading_the_migrations(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_PRINT_MODULES, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    loaded = done.stdout.split()
    assert "sqlalchemy" in loaded
    assert not {"alembic", "mako", "asyncpg"} & set(loaded)


def test_processes_that_start_at_once_on_a_fresh_folder_all_get_a_store(path: Path) -> None:
    command = [sys.executable, "-c", OPEN_AND_PRINT_MODULES, str(path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert errors == [""] * 4
