"""What clients are shown of a task, kept ready in process.

An entry holds a task's snapshot and, per surface, the bytes of its answer; the surface renders them
once a version. Submits and transitions put entries, other processes' commits drop them, age bounds
them. Clients that wait for a change park here, one future each.
"""

import asyncio
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.tasks import Task

_ENTRY_BYTES: Final = 1500
_EVICTED_MAX: Final = 10_000


@dataclass(slots=True)
class Entry:
    """One task as clients see it. `echo` is the stored request's JSON text."""

    task: Task
    echo: str | None
    read_at_s: float
    bodies: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    """Surface name to (answer bytes, ETag)."""


class StatusCache:
    """Task id to Entry, least recently used out first."""

    def __init__(
        self,
        entries_max: int,
        bytes_max: int,
        age_s_max: float,
        waiters_max: int,
        waiters_project_max: int,
    ) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._evicted: OrderedDict[str, int] = OrderedDict()
        self._waiters: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._waiting_by_project: Counter[str] = Counter()
        self._waiting_count = 0
        self._bytes = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._age_s_max = age_s_max
        self._waiters_max = waiters_max
        self._waiters_project_max = waiters_project_max
        self.generation = 0
        """Counts what was dropped: a reader that began before a drop must not put its answer."""

    def find(self, task_id: str, now_s: float) -> tuple[Entry | None, str]:
        """Return the entry if it is young enough, and `hit`, `stale` or `miss`."""
        entry = self._entries.get(task_id)
        if entry is None:
            return None, "miss"
        if now_s - entry.read_at_s > self._age_s_max:
            return None, "stale"
        self._entries.move_to_end(task_id)
        return entry, "hit"

    def put(self, entry: Entry) -> Entry:
        """Keep `entry` unless a newer version is known; return what is kept. Wakes who waits."""
        task_id = entry.task.id
        known = self._entries.get(task_id)
        newest = known.task.version if known is not None else self._evicted.get(task_id, 0)
        if newest > entry.task.version:
            return known if known is not None else entry
        self._remove(task_id)
        self._entries[task_id] = entry
        self._bytes += _size_of(entry)
        while len(self._entries) > self._entries_max or (
            self._bytes > self._bytes_max and len(self._entries) > 1
        ):
            self._evict()
        if newest < entry.task.version:
            self._wake(task_id)
        return entry

    def put_if_current(self, entry: Entry, generation: int) -> Entry:
        """Keep what was read from the store, unless something was dropped since `generation`."""
        return self.put(entry) if generation == self.generation else entry

    def holds(self, entry: Entry) -> bool:
        """Whether `entry` is what is kept: nothing has changed since it was read."""
        return self._entries.get(entry.task.id) is entry

    def drop(self, task_id: str, version: int | None = None) -> None:
        """Forget a task, or only what is older than `version`."""
        known = self._entries.get(task_id)
        if known is None or version is None or known.task.version < version:
            self.generation += 1
            self._remove(task_id)
            self._wake(task_id)

    def clear(self) -> None:
        """Forget everything: another process may have changed anything."""
        self.generation += 1
        self._entries.clear()
        self._evicted.clear()
        self._bytes = 0
        for task_id in list(self._waiters):
            self._wake(task_id)

    async def wait(self, task_id: str, timeout_s: float, project_id: str) -> bool:
        """Wait until `task_id` is put or dropped; False if the time is over or too many wait."""
        waiting = self._waiting_by_project
        if self._waiting_count >= self._waiters_max or (
            waiting[project_id] >= self._waiters_project_max
        ):
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[task_id].add(future)
        waiting[project_id] += 1
        self._waiting_count += 1
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting_count -= 1
            waiting[project_id] -= 1
            if not waiting[project_id]:
                del waiting[project_id]
            self._waiters[task_id].discard(future)
            if not self._waiters[task_id]:
                del self._waiters[task_id]
        return True

    def __len__(self) -> int:
        return len(self._entries)

    def _remove(self, task_id: str) -> None:
        removed = self._entries.pop(task_id, None)
        if removed is not None:
            self._bytes -= _size_of(removed)
        self._evicted.pop(task_id, None)

    def _evict(self) -> None:
        """Let the least recently used go, but keep its version: a slow read may be older."""
        task_id, entry = self._entries.popitem(last=False)
        self._bytes -= _size_of(entry)
        self._evicted[task_id] = entry.task.version
        if len(self._evicted) > _EVICTED_MAX:
            self._evicted.popitem(last=False)

    def _wake(self, task_id: str) -> None:
        for future in self._waiters.get(task_id, ()):
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Let every waiting client answer now, as when draining."""
        for task_id in list(self._waiters):
            self._wake(task_id)


def _size_of(entry: Entry) -> int:
    """Return about how many bytes an entry takes once every surface has rendered it."""
    return _ENTRY_BYTES + 3 * len(entry.echo or "")
