"""The sandbox's state: one SQLite file that only this process writes.

Writes wait in a line and are committed together, so an answer that has been given is on disk and
hundreds of creates a second need few syncs. Reads of one task go straight to a second connection.
"""

import asyncio
import fcntl
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from gateway.sandbox.tasks import Spec, Task

Statement = tuple[str, Sequence[object]]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
    ordinal      INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    account      TEXT NOT NULL,
    lane         TEXT NOT NULL,
    endpoint     TEXT NOT NULL,
    model        TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    start_at     INTEGER NOT NULL,
    end_at       INTEGER NOT NULL,
    expire_at    INTEGER NOT NULL,
    outcome      TEXT NOT NULL,
    cancelled_ms INTEGER,
    is_deleted   INTEGER NOT NULL,
    notified     INTEGER NOT NULL,
    is_vanishing INTEGER NOT NULL,
    spec         TEXT NOT NULL,
    echo         TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS tasks_by_account ON tasks (account, ordinal DESC);
CREATE INDEX IF NOT EXISTS tasks_by_end ON tasks (end_at);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""

_TASK_COLUMNS: Final = (
    "ordinal, id, account, lane, endpoint, model, service_tier, created_ms, created_at,"
    " start_at, end_at, expire_at, outcome, cancelled_ms, is_deleted, spec"
)
SELECT_TASKS: Final = f"SELECT {_TASK_COLUMNS} FROM tasks"  # noqa: S608  # a constant

STATUS_SQL: Final = (
    "CASE WHEN cancelled_ms IS NOT NULL THEN 'cancelled' WHEN :at < start_at THEN 'queued'"
    " WHEN :at < end_at THEN 'running' WHEN end_at >= expire_at THEN 'expired' ELSE outcome END"
)
"""The same rule as `Task.status`, for filters."""


class StateInUseError(Exception):
    """Another process runs a sandbox on the same data folder."""


class Store:
    """Tasks and a few named values, durable before a write's awaitable is done."""

    def __init__(self, data_dir: Path) -> None:
        """Open or create `sandbox.db` in `data_dir`.

        Raises:
            StateInUseError: another process has it open.
        """
        data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (data_dir / "sandbox.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._lock.close()
            raise StateInUseError(f"a sandbox is already running on {data_dir}") from exc
        path = data_dir / "sandbox.db"
        self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._writer.execute("PRAGMA journal_mode=WAL")
        self._writer.execute("PRAGMA synchronous=FULL")
        self._writer.executescript(_SCHEMA)
        self._reader = sqlite3.connect(path, isolation_level=None)
        self._reader.execute("PRAGMA query_only=ON")
        self._thread = ThreadPoolExecutor(1, "sandbox-store")
        self._waiting: list[tuple[Sequence[Statement], asyncio.Future[int]]] = []
        self._is_committing = False

    async def close(self) -> None:
        """Commit what waits and close the file."""
        if self._is_committing or self._waiting:
            await self.write()
        self._thread.shutdown()
        self._reader.close()
        self._writer.close()
        self._lock.close()

    def write(self, *statements: Statement) -> "asyncio.Future[int]":
        """Return an awaitable of the last statement's row count, done when all are durable."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((statements, future))
        if not self._is_committing:
            self._commit_waiting()
        return future

    async def query(self, sql: str, params: Mapping[str, object]) -> list[tuple[object, ...]]:
        """Return the rows of a long read, made off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._query, sql, params)

    def find(self, task_id: str) -> Task | None:
        row = self._reader.execute(f"{SELECT_TASKS} WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else read_task(row)

    def find_echo(self, task_id: str) -> str:
        row = self._reader.execute("SELECT echo FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return "" if row is None else str(row[0])

    def load_live(self, at: int) -> list[Task]:
        """Return the tasks that are queued or running at a point of the timeline."""
        rows = self._reader.execute(
            f"{SELECT_TASKS} WHERE end_at > ? AND cancelled_ms IS NULL ORDER BY ordinal", (at,)
        )
        return [read_task(row) for row in rows]

    def load_unnotified(self) -> list[tuple[str, int]]:
        """Return (task id, count of states told) of tasks with callbacks still to send."""
        rows = self._reader.execute(
            "SELECT id, notified FROM tasks WHERE notified BETWEEN 0 AND 2"
            " AND cancelled_ms IS NULL ORDER BY ordinal"
        )
        return [(str(task_id), int(notified)) for task_id, notified in rows]

    def last_ordinal(self) -> int:
        return int(
            self._reader.execute("SELECT coalesce(max(ordinal), 0) FROM tasks").fetchone()[0]
        )

    def load_meta(self, key: str) -> str:
        row = self._reader.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def _query(self, sql: str, params: Mapping[str, object]) -> list[tuple[object, ...]]:
        return self._writer.execute(sql, params).fetchall()

    def _commit_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        self._is_committing = True
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(self._thread, self._commit, [each[0] for each in batch])
        job.add_done_callback(lambda done: self._resolve(batch, done))

    def _commit(self, batch: Sequence[Sequence[Statement]]) -> list[int]:
        counts = []
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            for statements in batch:
                count = 0
                for sql, params in statements:
                    count = self._writer.execute(sql, params).rowcount
                counts.append(count)
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        return counts

    def _resolve(
        self,
        batch: Sequence[tuple[Sequence[Statement], "asyncio.Future[int]"]],
        done: "asyncio.Future[list[int]]",
    ) -> None:
        error = done.exception()
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[index])
        self._is_committing = False
        if self._waiting:
            self._commit_waiting()


def insert_task(task: Task, echo: str) -> Statement:
    """Return the statement that records a new task; `notified` -1 means it has no callbacks."""
    spec = task.spec
    return (
        "INSERT INTO tasks VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            task.ordinal,
            task.id,
            task.account,
            task.lane,
            task.endpoint,
            task.model,
            task.service_tier,
            task.created_ms,
            task.created_at,
            task.start_at,
            task.end_at,
            task.expire_at,
            task.outcome,
            task.cancelled_ms,
            int(task.is_deleted),
            0 if spec.callback_url else -1,
            int(spec.is_vanishing),
            spec.to_json(),
            echo,
        ),
    )


def save_meta(key: str, value: str) -> Statement:
    return ("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def read_task(row: Sequence[object]) -> Task:
    """Return the task of a row of `SELECT_TASKS`."""
    *plain, is_deleted, spec = row
    return Task(*plain, bool(is_deleted), Spec.from_json(str(spec)))  # type: ignore[arg-type, call-arg]  # STRICT columns have these types
