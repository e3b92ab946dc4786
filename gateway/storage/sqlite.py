"""The embedded store: one SQLite file, one writer thread, a few reader threads.

The writer takes all that waits, opens one transaction, runs each function between SAVEPOINT and
RELEASE, and commits once. While it waits for the disk the next batch gathers, so there is no delay
timer and a lone write commits at once. A function that raises is rolled back to its savepoint and
its neighbours stay; if the transaction itself is lost (disk full, I/O error, another process that
never lets go), the whole batch fails.

The transaction's own statements go to the driver's connection; SQLAlchemy, told of none, believes
itself in autocommit mode. A function must not commit or roll back, nor return an open result.

A write once queued runs to its end, whatever happens to its caller.
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, ParamSpec, TypeVar

import sqlalchemy as sa

from gateway.config import StorageConfig
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.ports import Change, ChangeKind, Query
from gateway.storage import revisions

P = ParamSpec("P")
T = TypeVar("T")

WATCH_INTERVAL_S: Final = 0.25

# What a statement can do wrong by itself; every other code says that the database can't answer.
_OWN_FAULTS: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    }
)


async def open_sqlite(
    path: Path, config: StorageConfig, *, watch_interval_s: float = WATCH_INTERVAL_S
) -> "SqliteDatabase":
    """Open the file, made if it does not exist, and bring its schema up to date.

    Raises: StorageUnavailable if it can't be opened, ConfigurationError if its schema is not ours
    to use, such as a newer one.
    """
    return await asyncio.to_thread(_open, path, config, watch_interval_s)


async def upgrade(path: Path, config: StorageConfig) -> None:
    """Bring the file's schema up to date, as `open_sqlite` does."""
    await asyncio.to_thread(_prepare, path, config)


async def current_revision(path: Path, config: StorageConfig) -> str | None:
    """Return the revision of the file's schema; None if it has none, or there is no file."""
    return await asyncio.to_thread(_read_revision, path, config)


class SqliteDatabase:
    """The Database port on one file. Made by `open_sqlite`."""

    name = "sqlite"

    def __init__(
        self,
        writer: sa.Connection,
        readers: Sequence[sa.Connection],
        queue_count_max: int,
        watch_interval_s: float,
    ) -> None:
        self._watch_interval_s = watch_interval_s
        self._writes = _Queue(queue_count_max)
        self._reads = _Queue(queue_count_max)
        self._writer = threading.Thread(
            target=_write_batches, args=(self._writes, writer), name="sqlite-writer", daemon=True
        )
        self._readers = [
            threading.Thread(
                target=_read_each, args=(self._reads, reader), name="sqlite-reader", daemon=True
            )
            for reader in readers
        ]
        for thread in (self._writer, *self._readers):
            thread.start()

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` as one durable transaction."""
        return await self._writes.ask(_Job(lambda conn: fn(conn, *args, **kwargs)))

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a read-only connection."""
        return await self._reads.ask(_Job(lambda conn: fn(conn, *args, **kwargs)))

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        """Report ALL at the start, and whenever another process has committed."""
        seen: int | None = None
        while True:
            # Asked of the writer's connection, the number moves by the commits of others alone.
            with suppress(StorageUnavailable):
                version = await self._writes.ask(_Job(_data_version, is_transaction=False))
                if version != seen:
                    seen = version
                    on_change(Change(ChangeKind.ALL))
            await asyncio.sleep(self._watch_interval_s)

    async def close(self) -> None:
        """Refuse new work, finish what is queued, close the file."""
        self._reads.close()
        self._writes.close()
        # The writer's connection goes last: it alone may fold the log into the file.
        for thread in (*self._readers, self._writer):
            await asyncio.to_thread(thread.join)


class _Job(Generic[T]):
    """One function to run for one caller, and what came of it."""

    def __init__(self, run: Callable[[sa.Connection], T], *, is_transaction: bool = True) -> None:
        self.run = run
        self.is_transaction = is_transaction
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.error: Exception | None = None
        self.value: T

    def attempt(self, conn: sa.Connection) -> None:
        """Run the function and keep its value or its error."""
        try:
            self.value = self.run(conn)
        except Exception as error:  # noqa: BLE001 - it is raised to the caller
            self.error = _public(error)


class _Queue:
    """A bounded queue between event loops and threads."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._jobs: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    async def ask(self, job: _Job[T]) -> T:
        """Wait for a thread to run the job. Raises StorageUnavailable if there is no room."""
        with self._changed:
            if self._is_closed:
                raise StorageUnavailable("The store is closed.")
            if len(self._jobs) >= self._count_max:
                raise StorageUnavailable("The store has too much to do.", retry_after_s=1)
            self._jobs.append(job)
            self._changed.notify()
        await job.done
        if job.error is not None:
            raise job.error
        return job.value

    def take(self, count_max: int | None = None) -> list[_Job[Any]]:
        """Wait for jobs and take all, or `count_max`; none means closed and empty."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            count = len(self._jobs) if count_max is None else min(count_max, len(self._jobs))
            return [self._jobs.popleft() for _ in range(count)]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def _write_batches(queue: _Queue, conn: sa.Connection) -> None:
    driver = _driver(conn)
    with conn:
        while jobs := queue.take():
            for job in jobs:
                if not job.is_transaction:
                    job.attempt(conn)
            _commit(conn, driver, [job for job in jobs if job.is_transaction])
            _deliver(jobs)


def _read_each(queue: _Queue, conn: sa.Connection) -> None:
    with conn:
        while jobs := queue.take(1):
            jobs[0].attempt(conn)
            _deliver(jobs)


def _commit(conn: sa.Connection, driver: sqlite3.Connection, jobs: Sequence[_Job[Any]]) -> None:
    if not jobs:
        return
    try:
        driver.execute("BEGIN IMMEDIATE")
        for job in jobs:
            driver.execute("SAVEPOINT job")
            job.attempt(conn)
            if not driver.in_transaction:
                raise sqlite3.OperationalError("the transaction was lost") from job.error
            if job.error is not None:
                driver.execute("ROLLBACK TO job")
            driver.execute("RELEASE job")
        driver.execute("COMMIT")
    except sqlite3.Error as error:
        with suppress(sqlite3.Error):
            driver.execute("ROLLBACK")
        for job in jobs:
            job.error = _unavailable(error)


def _deliver(jobs: Sequence[_Job[Any]]) -> None:
    """Wake the callers: one call into each event loop, however many of them wait there."""
    for loop in {job.loop for job in jobs}:
        with suppress(RuntimeError):  # the loop is closed, and its callers are gone
            loop.call_soon_threadsafe(_wake, [job for job in jobs if job.loop is loop])


def _wake(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        if not job.done.done():  # as it is when its caller was cancelled
            job.done.set_result(None)


def _public(error: Exception) -> Exception:
    """Return what the caller gets: StorageUnavailable unless the function itself is at fault."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF not in _OWN_FAULTS:
            return _unavailable(error)
    return error


def _unavailable(cause: Exception) -> StorageUnavailable:
    error = StorageUnavailable("The store can't answer now.", retry_after_s=1)
    error.__cause__ = cause
    return error


def _data_version(conn: sa.Connection) -> int:
    version: int = conn.exec_driver_sql("PRAGMA data_version").scalar_one()
    return version


def _open(path: Path, config: StorageConfig, watch_interval_s: float) -> SqliteDatabase:
    _prepare(path, config)
    engine = _engine(path, config)
    with _opening(path), ExitStack() as opened:
        writer, *readers = [
            opened.enter_context(engine.connect()) for _ in range(1 + config.readers_count)
        ]
        for reader in readers:
            reader.exec_driver_sql("PRAGMA query_only = ON")
        opened.pop_all()
    return SqliteDatabase(writer, readers, config.queue_count_max, watch_interval_s)


def _prepare(path: Path, config: StorageConfig) -> None:
    """Make the file readable to its owner alone, and its schema the newest."""
    with _opening(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
        # A migration copies tables, which foreign keys would see as the loss of every row.
        with _engine(path, config, foreign_keys=False).connect() as conn:
            conn.exec_driver_sql("BEGIN IMMEDIATE")
            revisions.bring_up_to_date(conn)
            if conn.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise ConfigurationError(f"The migration of {path} would break references.")
            conn.commit()


def _read_revision(path: Path, config: StorageConfig) -> str | None:
    if not path.exists():
        return None
    with _opening(path), _engine(path, config).connect() as conn:
        return revisions.read(conn)


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, sa.exc.DBAPIError) as error:
        # The driver's own words: SQLAlchemy adds an address of its documentation.
        words = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise StorageUnavailable(f"The database {path} can't be opened: {words}.") from error


def _engine(path: Path, config: StorageConfig, *, foreign_keys: bool = True) -> sa.Engine:
    return sa.create_engine(
        "sqlite+pysqlite://",
        creator=partial(_connect, path, config.lock_timeout_s, foreign_keys=foreign_keys),
        poolclass=sa.NullPool,
        hide_parameters=True,
    )


def _connect(path: Path, lock_timeout_s: float, *, foreign_keys: bool) -> sqlite3.Connection:
    driver = sqlite3.connect(
        path, timeout=lock_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        if driver.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise sqlite3.OperationalError("the file system has no write-ahead log")
        driver.execute("PRAGMA synchronous = FULL")
        # Else INSERT OR REPLACE would get past the triggers of the append-only tables.
        driver.execute("PRAGMA recursive_triggers = ON")
        driver.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
    except sqlite3.Error:
        driver.close()
        raise
    return driver


def _driver(conn: sa.Connection) -> sqlite3.Connection:
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - for the type checker
    return driver
