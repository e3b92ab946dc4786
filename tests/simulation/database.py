"""The store of a simulated gateway: a real SQLite database in memory, driven without threads.

Batches are gathered and committed by the very code of `gateway/storage/sqlite.py`; what is
simulated is how long that takes and what a disk may answer. What was committed outlives the process
that wrote it, what was not is gone with it.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import sqlalchemy as sa

from gateway.domain import keys as key_rules
from gateway.ports import Change, ChangeKind, P, Query, T
from gateway.storage import keys, projects, schema
from gateway.storage.sqlite import WATCH_INTERVAL_S, _commit, _Job, _unavailable, _wake
from tests.simulation.loop import Owner, SimulatedLoop
from tests.support.stored import a_key, a_project, an_event


@dataclass(frozen=True, slots=True)
class StoreWeather:
    """How often the store does what, as shares of batches or reads, and how slow it is."""

    busy: float = 0.0
    full: float = 0.0
    answer_lost: float = 0.0
    read_failed: float = 0.0
    outage_s: tuple[float, float] = (0.0, 0.0)
    """From when until when nothing is answered."""
    latency_s_max: float = 0.01


class Foundry:
    """Makes databases for many runs: one engine, whose statements are compiled once."""

    def __init__(self, client_keys: Mapping[str, str], pepper: bytes) -> None:
        """`client_keys` has a key for each project, by its name."""
        self._keys, self._pepper = client_keys, pepper
        self._next: sqlite3.Connection | None = None
        self.engine = sa.create_engine(
            "sqlite+pysqlite://",
            creator=self._take,
            poolclass=sa.pool.NullPool,
            hide_parameters=True,
        )
        self._image = self._make_image()

    def open(self) -> tuple[sqlite3.Connection, sa.Connection]:
        """Return a new database with the newest schema, two projects and a key of each."""
        driver = _new_driver()
        driver.deserialize(self._image)
        return driver, self._connect(driver)

    def _make_image(self) -> bytes:
        driver = _new_driver()
        with self._connect(driver) as conn:
            schema.create(conn)
            for number, (name, key) in enumerate(self._keys.items()):
                projects.insert(conn, a_project(name), an_event(name))
                digest = key_rules.digest(self._pepper, key)
                public_id = key_rules.parse(key) or ""
                record = a_key(id=public_id, project_id=f"proj_{name}", digest=digest)
                keys.insert(conn, record, an_event(public_id, number))
            conn.commit()
            return driver.serialize()

    def _connect(self, driver: sqlite3.Connection) -> sa.Connection:
        driver.execute("PRAGMA recursive_triggers = ON")
        driver.execute("PRAGMA foreign_keys = ON")
        self._next = driver
        return self.engine.connect()

    def _take(self) -> sqlite3.Connection:
        driver, self._next = self._next, None
        assert driver is not None, "one connection for each database"
        return driver


class SimulatedStore:
    """The disk: what outlives a process. One process at a time opens it."""

    def __init__(
        self, loop: SimulatedLoop, foundry: Foundry, weather: StoreWeather, draws: Random
    ) -> None:
        self.loop = loop
        self.weather = weather
        self.draws = draws
        self.driver, self.conn = foundry.open()
        self.on_commit: Callable[[], None] = _ignore
        """Called behind every commit."""
        self.fault_counts: dict[str, int] = {}
        self.commit_count = 0
        self.moved_at_s = 0.0
        """When a task moved last."""
        self._move_count = 0
        self.watchers: dict[Owner, Callable[[Change], None]] = {}

    def open(self, owner: Owner) -> "SimulatedDatabase":
        return SimulatedDatabase(self, owner)

    def close(self) -> None:
        self.conn.close()

    def is_out(self) -> bool:
        """Whether it is the time in which nothing is answered."""
        begin_s, end_s = self.weather.outage_s
        return begin_s <= self.loop.time() < end_s

    def is_struck(self, share: float, fault: str) -> bool:
        """Draw whether something happens that has this share; count it if it does."""
        is_struck = bool(share) and self.draws.random() < share
        if is_struck:
            self.fault_counts[fault] = self.fault_counts.get(fault, 0) + 1
        return is_struck

    def note_commit(self, owner: Owner) -> None:
        """Let the judge look, and other processes know of it a moment later."""
        self.commit_count += 1
        move_count = self.driver.execute("SELECT MAX(rowid) FROM task_transitions").fetchone()[0]
        if move_count != self._move_count:
            self._move_count, self.moved_at_s = move_count, self.loop.time()
        self.on_commit()
        for watcher, on_change in self.watchers.items():
            if watcher is not owner:
                delay_s = self.draws.uniform(0, WATCH_INTERVAL_S)
                self.loop.call_later(delay_s, _tell, watcher, on_change)


class SimulatedDatabase:
    """The Database port of one process. Once that is dead, nothing is run and nothing answered."""

    name = "sqlite"

    def __init__(self, store: SimulatedStore, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._queue: list[_Job[Any]] = []
        self._is_writing = False

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in the next batch: that is done whatever becomes of its caller."""
        job = _Job(lambda conn: fn(conn, *args, **kwargs))
        if not self._owner.is_dead:
            self._queue.append(job)
            self._begin_batch()
        return await _outcome_of(job)

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` where nothing can be written."""
        job = _Job(lambda conn: fn(conn, *args, **kwargs))
        if not self._owner.is_dead:
            self._later(self._read, job)
        return await _outcome_of(job)

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        """Report ALL at the start, and whenever another process has committed."""
        on_change(Change(ChangeKind.ALL))
        self._store.watchers[self._owner] = on_change
        try:
            await self._store.loop.create_future()
        finally:
            del self._store.watchers[self._owner]

    async def close(self) -> None:
        """Nothing is open that would outlive the process."""

    def _begin_batch(self) -> None:
        if self._queue and not self._is_writing:
            self._is_writing = True
            self._later(self._write)

    def _write(self) -> None:
        jobs, self._queue = self._queue, []
        store = self._store
        disk = _Disk(store)
        _commit(store.conn, cast("sqlite3.Connection", disk), jobs)
        if disk.is_committed:
            store.note_commit(self._owner)
        self._is_writing = False
        self._begin_batch()
        self._later(_wake, jobs)

    def _read(self, job: _Job[Any]) -> None:
        store = self._store
        if store.is_out() or store.is_struck(store.weather.read_failed, "store read failed"):
            job.error = _unavailable(sqlite3.OperationalError("simulated"))
        else:
            store.driver.execute("PRAGMA query_only = ON")
            try:
                job.attempt(store.conn)
            finally:
                store.driver.execute("PRAGMA query_only = OFF")
        _wake([job])

    def _later(self, step: Callable[..., None], *args: object) -> None:
        """Do a step of the work after a while, unless the process is dead by then."""
        store = self._store
        delay_s = store.draws.uniform(0, store.weather.latency_s_max)
        store.loop.call_later(delay_s, self._unless_dead, step, *args)

    def _unless_dead(self, step: Callable[..., None], *args: object) -> None:
        if not self._owner.is_dead:
            step(*args)


class _Disk:
    """The driver's connection as the writer sees it, with what a disk may answer."""

    def __init__(self, store: SimulatedStore) -> None:
        self._store = store
        self._driver = store.driver
        self.is_committed = False

    @property
    def in_transaction(self) -> bool:
        return self._driver.in_transaction

    def execute(self, statement: str) -> None:
        store, weather = self._store, self._store.weather
        if statement.startswith("BEGIN") and (
            store.is_out() or store.is_struck(weather.busy, "store busy")
        ):
            raise sqlite3.OperationalError("database is locked")
        if statement == "COMMIT" and store.is_struck(weather.full, "store full"):
            raise sqlite3.OperationalError("database or disk is full")
        self._driver.execute(statement)
        if statement == "COMMIT":
            self.is_committed = True
            if store.is_struck(weather.answer_lost, "store answer lost"):
                raise sqlite3.OperationalError("disk I/O error")


async def _outcome_of(job: _Job[T]) -> T:
    await job.done
    if job.error is not None:
        raise job.error
    return job.value


def _new_driver() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _tell(watcher: Owner, on_change: Callable[[Change], None]) -> None:
    if not watcher.is_dead:
        on_change(Change(ChangeKind.ALL))


def _ignore() -> None:
    pass
