"""Every move of a task, from whatever service: one transaction, then cache, metric and log line."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.domain.stored import strip_media_queries
from gateway.domain.tasks import TERMINAL, Event, Task, TaskState
from gateway.ports import Runtime
from gateway.status_cache import Entry
from gateway.storage import requests, tasks

if TYPE_CHECKING:
    from sqlalchemy import Connection


async def record_move(runtime: Runtime, before: Task, after: Task, event: Event) -> bool:
    """Write the move from `before` to `after`; False if another worker moved the task first."""
    is_first = await runtime.db.write(apply_move, before, after, event)
    if not is_first:
        runtime.metrics.lost_races.add(event.value)
        runtime.log.info("task.race_lost", task_id=before.id, event_kind=event.value)
        return False
    show_move(runtime, after)
    runtime.metrics.task_transitions.add(before.state.value, after.state.value)
    if after.state in TERMINAL:
        duration_s = (after.updated_at_ms - after.created_at_ms) / 1000
        runtime.metrics.task_duration.observe(duration_s, after.family)
    runtime.log.info(
        "task.state_changed",
        task_id=after.id,
        project=after.project_id,
        key_id=after.key_id,
        upstream=after.route.upstream,
        family=after.family,
        from_state=before.state.value,
        to_state=after.state.value,
        code=after.error.code if after.error is not None else None,
    )
    return True


def show_move(runtime: Runtime, task: Task) -> None:
    """Let clients see the task as it is now, and wake those who wait for it."""
    now_s = runtime.clock.monotonic_s()
    known, _ = runtime.status_cache.find(task.id, now_s)
    if known is None or task.state is TaskState.REJECTED:
        runtime.status_cache.drop(task.id)
    else:
        echo = known.echo
        if echo is not None and task.state in TERMINAL:
            echo = _strip_request(echo)
        runtime.status_cache.put(Entry(task, echo, now_s))


def apply_move(conn: "Connection", before: Task, after: Task, event: Event) -> bool:
    """One transaction: the compare-and-set, and what a terminal state means for the request.

    A media URL may be signed by its query: once the task has ended nobody needs that any more.
    """
    if not tasks.apply_transition(conn, before, after, event):
        return False
    if after.state in TERMINAL:
        stored = requests.lock(conn, after.id)
        if stored is not None:
            requests.replace_body(conn, replace(stored, body=_strip_request(stored.body)))
    return True


def _strip_request(stored: str) -> str:
    return dump_request(strip_media_queries(json.loads(stored)))


def dump_request(stored: Mapping[str, object]) -> str:
    """Return the JSON text in which a normalized request is stored."""
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
