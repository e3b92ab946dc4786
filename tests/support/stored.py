"""Things to store, told apart by a number."""

from dataclasses import replace
from typing import Any, Final

from gateway.domain.keys import Key
from gateway.domain.projects import AuditEvent, Project
from gateway.domain.tasks import Event, Route, Task, TaskId, TaskState, advance

NOW_MS: Final = 1_764_000_000_000


def a_project(name: str = "default") -> Project:
    return Project(id=f"proj_{name}", name=name, created_at_ms=NOW_MS)


def an_event(subject: str = "", number: int = 0) -> AuditEvent:
    return AuditEvent(
        id=f"evt_{subject}_{number}",
        at_ms=NOW_MS + number,
        actor="cli",
        action="test.made",
        subject=subject,
    )


def a_key(number: int = 0, **changes: Any) -> Key:
    key = Key(
        id=f"Key{number:09d}",
        project_id="proj_default",
        name=f"key {number}",
        digest=number.to_bytes(32, "big"),
        created_at_ms=NOW_MS + number,
    )
    return replace(key, **changes)


def a_task(number: int = 0, **changes: Any) -> Task:
    """Return a reserved task; a greater number is a newer one."""
    task = Task(
        id=TaskId(f"cgt-20251124160000-{number:020d}"),
        project_id="proj_default",
        key_id="Key000000000",
        model="doubao-seedance-1-0-pro-250528",
        family="seedance-1-0-pro",
        route=Route("ark", "main", "ep-1"),
        state=TaskState.RESERVED,
        version=1,
        created_at_ms=NOW_MS + number,
        updated_at_ms=NOW_MS + number,
        submit_deadline_at_ms=NOW_MS + 600_000,
        expires_at_ms=NOW_MS + 172_800_000,
    )
    return replace(task, **changes)


def moved(task: Task, event: Event, **changes: Any) -> Task:
    """Return the task after `event`, with an upstream's id if it has none."""
    after = advance(task, event, task.updated_at_ms + 1000)
    upstream_task_id = task.upstream_task_id or f"up-{task.id}"
    return replace(after, **{"upstream_task_id": upstream_task_id, **changes})
