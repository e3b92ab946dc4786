"""What clients are told of their tasks. Nothing here asks an upstream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.keys import Principal
from gateway.domain.tasks import TERMINAL
from gateway.errors import TaskNotFound
from gateway.ids import is_upstream_task_id
from gateway.ports import Runtime
from gateway.status_cache import Entry
from gateway.storage import tasks
from gateway.storage.tasks import StoredTask, TaskFilter

LISTED_DAYS: Final = 7
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """What a client asks to be listed; empty filters take everything."""

    page_num: int = 1
    page_size: int = 20
    statuses: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    model: str | None = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page, newest first; `total` counts all pages."""

    total: int
    entries: Sequence[Entry]


async def get_task(runtime: Runtime, principal: Principal, task_id: str) -> Entry:
    """Return a task of the caller's project.

    Raises: TaskNotFound, in the same words for an unknown and for another project's task.
    """
    entry, result = runtime.status_cache.find(task_id, runtime.clock.monotonic_s())
    runtime.metrics.status_cache.add(result)
    if entry is None or entry.task.project_id != principal.project_id:
        # Another project's task costs the same read as an unknown one: time tells nothing either.
        return await _read_task(runtime, principal, task_id)
    return entry


async def wait_for_change(
    runtime: Runtime, principal: Principal, task_id: str, entry: Entry, wait_s: float
) -> Entry:
    """Return the task at its next version after `entry`; at once if none will come.

    Also returns when `wait_s` is over, when too many clients wait, and when the process drains.
    """
    deadline_s = runtime.clock.monotonic_s() + wait_s
    version = entry.task.version
    while entry.task.version == version and entry.task.state not in TERMINAL:
        left_s = deadline_s - runtime.clock.monotonic_s()
        if left_s <= 0 or runtime.lifecycle.is_draining:
            break
        # What is not kept may be old news: a change while it was read woke nobody.
        if runtime.status_cache.holds(entry) and not await runtime.status_cache.wait(
            task_id, left_s, principal.project_id
        ):
            break
        entry = await get_task(runtime, principal, task_id)
    return entry


async def list_tasks(runtime: Runtime, principal: Principal, query: TaskQuery) -> TaskPage:
    """Return a page of the project's tasks of the last seven days, from our store only."""
    since_ms = runtime.clock.now_ms() - LISTED_DAYS * _DAY_MS
    page = await runtime.db.read(
        tasks.page_owned,
        principal.project_id,
        TaskFilter(
            statuses=query.statuses,
            task_ids=query.task_ids,
            model=query.model,
            service_tier=query.service_tier,
            since_ms=since_ms,
        ),
        offset=(query.page_num - 1) * query.page_size,
        limit=query.page_size,
    )
    now_s = runtime.clock.monotonic_s()
    return TaskPage(page.total, [entry_of(stored, now_s) for stored in page.items])


def no_such_task(task_id: str, param: str = "id") -> TaskNotFound:
    """Return the one answer for a task that is unknown, foreign or deleted."""
    shown = task_id if is_upstream_task_id(task_id) else "given"
    return TaskNotFound(f"The specified task {shown} is not found.", param=param)


def entry_of(stored: StoredTask, now_s: float) -> Entry:
    return Entry(stored.task, stored.request_body, now_s)


async def _read_task(runtime: Runtime, principal: Principal, task_id: str) -> Entry:
    if not is_upstream_task_id(task_id):
        raise no_such_task(task_id)
    generation = runtime.status_cache.generation
    owner = principal.project_id
    # Who asks before the next change gets the answer of one and the same read.
    entry = await runtime.reads.share(
        (owner, task_id, generation), lambda: _load_entry(runtime, owner, task_id, generation)
    )
    if entry is None:
        raise no_such_task(task_id)
    return entry


async def _load_entry(
    runtime: Runtime, project_id: str, task_id: str, generation: int
) -> Entry | None:
    now_s = runtime.clock.monotonic_s()
    stored = await runtime.db.read(tasks.find_owned, project_id, task_id)
    if stored is None:
        return None
    return runtime.status_cache.put_if_current(entry_of(stored, now_s), generation)
