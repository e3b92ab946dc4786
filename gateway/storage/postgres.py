"""The store for several processes: PostgreSQL through asyncpg.

Each function is one transaction at READ COMMITTED; what must not be lost rests on conditional
updates and unique keys, not on the isolation level. A transaction that the server gives up for a
deadlock, or whose connection dies before COMMIT was sent, is run again, three times at most.

A function once begun runs to its end, whatever happens to its caller.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.config import StorageConfig
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.ports import Change, ChangeKind, Query
from gateway.storage import changes, revisions, schema

P = ParamSpec("P")
T = TypeVar("T")

WRITERS_COUNT: Final = 8
RERUNS_MAX: Final = 3
CONNECT_TIMEOUT_S: Final = 5.0
RECONNECT_S: Final = 1.0
HEARTBEAT_S: Final = 15.0

# How much longer than the server we wait for its own time-out, before we call it dead.
_GRACE_S: Final = 5.0
_MIGRATION_LOCK: Final = 0x5EEDA7CE
_RERUN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# Classes: connection, resources, operator's act, system, configuration, internal error.
_UNAVAILABLE_CLASSES: Final = frozenset({"08", "53", "57", "58", "F0", "XX"})
# A standby that takes no writes, and a lock that was not to be had in time.
_UNAVAILABLE: Final = _RERUN | {"25006", "55P03"}


async def open_postgres(config: StorageConfig) -> "PostgresDatabase":
    """Connect to `config.url`, whose schema must be the newest.

    Raises: ConfigurationError if the URL, the schema or the installation is not right,
    StorageUnavailable if the server can't be reached.
    """
    server = _Server(config)
    found = await server.run_once(revisions.read)
    if found != schema.REVISIONS[-1]:
        raise ConfigurationError(
            f"The database has {found or 'no'} schema, this release needs {schema.REVISIONS[-1]}: "
            "run `seedance-gateway migrate`."
        )
    return PostgresDatabase(server, config)


async def upgrade(config: StorageConfig) -> None:
    """Bring the schema up to date, one process at a time."""
    await _Server(config).run_once(_upgrade)


async def current_revision(config: StorageConfig) -> str | None:
    """Return the revision of the schema; None if there is none."""
    return await _Server(config).run_once(revisions.read)


class PostgresDatabase:
    """The Database port on one server. Made by `open_postgres`."""

    name = "postgresql"

    def __init__(self, server: "_Server", config: StorageConfig) -> None:
        self._server = server
        self._count_max = config.queue_count_max
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        wait_s = config.statement_timeout_s
        self._writes = server.engine(WRITERS_COUNT, wait_s)
        self._reads = server.engine(config.readers_count, wait_s, is_read_only=True)

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` as one durable transaction."""
        return await self._finish(self._writes, lambda conn: fn(conn, *args, **kwargs))

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a read-only connection."""
        return await self._finish(self._reads, lambda conn: fn(conn, *args, **kwargs))

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        """Report ALL at each (re)connection, then what any process commits, this one too."""
        while True:
            with suppress(StorageUnavailable, *self._server.faults):
                await self._listen(on_change)
            await asyncio.sleep(RECONNECT_S)

    async def close(self) -> None:
        """Refuse new work, finish what is begun, disconnect."""
        self._is_closed = True
        if self._running:
            await asyncio.wait(self._running)
        await self._reads.dispose()
        await self._writes.dispose()

    async def _finish(self, engine: AsyncEngine, fn: Callable[[sa.Connection], T]) -> T:
        """Run `fn` to its end in a task of its own, which `close` waits for."""
        if self._is_closed:
            raise StorageUnavailable("The store is closed.")
        if len(self._running) >= self._count_max:
            raise StorageUnavailable("The store has too much to do.", retry_after_s=1)
        task = asyncio.get_running_loop().create_task(self._server.run(engine, fn))
        self._running.add(task)
        task.add_done_callback(self._let_go)
        return await asyncio.shield(task)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        """Forget a task that ended. If nobody waits any more, asyncio would log its error."""
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def _listen(self, on_change: Callable[[Change], None]) -> None:
        """Report changes until the connection is lost."""
        connection = await self._server.connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        try:
            await connection.add_listener(
                changes.CHANNEL,
                lambda _connection, _pid, _channel, payload: on_change(changes.parse(payload)),
            )
            on_change(Change(ChangeKind.ALL))
            while not lost.is_set():
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()


class _Server:
    """Connections to the server, and what its errors mean."""

    def __init__(self, config: StorageConfig) -> None:
        if config.url is None:
            raise ConfigurationError("storage.url is not set.")
        try:
            # The driver comes with an extra, and only this store needs it.
            import asyncpg  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                "PostgreSQL needs the extra `postgres`: pip install 'seedance-gateway[postgres]'."
            ) from error
        self._url = config.url
        self._asyncpg: Any = asyncpg
        self._config = config
        self.faults = (
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        )

    def engine(self, count: int, wait_s: float, *, is_read_only: bool = False) -> AsyncEngine:
        """Return an engine of at most `count` connections; callers wait `wait_s` for one."""
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(self.connect, is_read_only=is_read_only),
            # A read is one statement or a few, and needs no BEGIN around them.
            isolation_level="AUTOCOMMIT" if is_read_only else None,
            pool_size=count,
            max_overflow=0,
            pool_timeout=wait_s,
            hide_parameters=True,
        )

    async def connect(self, *, is_read_only: bool = False, is_patient: bool = False) -> Any:
        """Return a new connection of the driver; a patient one has no time-out of statements."""
        statement_s = 0.0 if is_patient else self._config.statement_timeout_s
        try:
            return await self._asyncpg.connect(
                self._url.get_secret_value(),
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=None if is_patient else statement_s + _GRACE_S,
                server_settings={
                    "application_name": "seedance-gateway",
                    "statement_timeout": str(int(statement_s * 1000)),
                    "lock_timeout": str(int(self._config.lock_timeout_s * 1000)),
                    "default_transaction_isolation": "read committed",
                    "default_transaction_read_only": "on" if is_read_only else "off",
                },
            )
        except ValueError:
            # What the parser complains of may be a piece of the password.
            raise ConfigurationError(
                "storage.url is not a PostgreSQL URL: postgresql://user:password@host/name, with "
                "special characters of the password percent-encoded."
            ) from None
        except self.faults as error:
            raise _unavailable() from error

    async def run_once(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run `fn` as one transaction on a connection of its own, before there is a pool."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(self.connect, is_patient=True),
            poolclass=sa.NullPool,
            hide_parameters=True,
        )
        try:
            return await self.run(engine, fn)
        except StorageUnavailable as error:
            cause = error.__cause__
            words = cause.orig if isinstance(cause, sa.exc.DBAPIError) else cause
            raise StorageUnavailable(f"The database can't be opened: {words}") from error
        except sa.exc.DBAPIError as error:
            raise ConfigurationError(f"The schema can't be read or made: {error.orig}") from error

    async def run(self, engine: AsyncEngine, fn: Callable[[sa.Connection], T]) -> T:
        """Run `fn` as one transaction, again if the server gave it up for another."""
        rerun_count = 0
        while True:
            try:
                return await self._transact(engine, fn)
            except sa.exc.DBAPIError as error:
                may_rerun = error.connection_invalidated or _sqlstate(error) in _RERUN
                if not may_rerun or rerun_count == RERUNS_MAX:
                    if _is_unavailable(error):
                        raise _unavailable() from error
                    _forget_row(error)
                    raise
            except (sa.exc.TimeoutError, *self.faults) as error:
                raise _unavailable() from error
            rerun_count += 1

    async def _transact(self, engine: AsyncEngine, fn: Callable[[sa.Connection], T]) -> T:
        async with engine.connect() as conn:
            value = await conn.run_sync(fn)
            try:
                await conn.commit()
            except sa.exc.DBAPIError as error:
                # It may have taken: to run it again could do it twice.
                raise _unavailable() from error
        return value


def _upgrade(conn: sa.Connection) -> None:
    conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    revisions.bring_up_to_date(conn)


def _is_unavailable(error: sa.exc.DBAPIError) -> bool:
    """Whether the server could not answer; else the function itself is at fault."""
    state = _sqlstate(error)
    return (
        error.connection_invalidated or state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES
    )


def _unavailable() -> StorageUnavailable:
    return StorageUnavailable("The store can't answer now.", retry_after_s=1)


def _sqlstate(error: sa.exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _forget_row(error: sa.exc.DBAPIError) -> None:
    """Drop the server's detail, which may quote a whole row, from what is logged."""
    cause: Any = error.orig.__cause__ if error.orig is not None else None
    if cause is not None:
        cause.detail = None
