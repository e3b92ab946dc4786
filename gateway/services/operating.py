"""What operators do with tasks: look at any of them, cancel one, erase what clients sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import EntryKind
from gateway.domain.projects import AuditEvent, Project
from gateway.domain.tasks import TERMINAL, Task, TaskState
from gateway.errors import InvalidRequest
from gateway.ports import Runtime
from gateway.services import admin
from gateway.services.cancelling import cancel_unfinished
from gateway.services.status import no_such_task
from gateway.services.sweeping import hash_requests
from gateway.storage import audit, ledger, requests, tasks
from gateway.storage.requests import RequestSelector

ROWS_PER_ERASURE_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task as operators see it."""

    task: Task
    project: Project
    request_body: str | None = None
    hold_micros: int | None = None
    """What was held for it, in the currency that it is charged in; None if nothing ever was."""
    cost_micros: int | None = None
    """What the upstream bills for it, in the upstream's currency; None as long as it is held."""


async def list_reports(
    runtime: Runtime,
    limit: int,
    *,
    project_name: str | None = None,
    state: TaskState | None = None,
) -> Sequence[TaskReport]:
    """Return the newest tasks, also those that clients can't see. Raises NotFound (project)."""
    projects = {project.id: project for project in await admin.list_projects(runtime)}
    project_id = None
    if project_name is not None:
        project_id = (await admin.get_project(runtime, project_name)).id
    found = await runtime.db.read(tasks.list_all, limit, project_id=project_id, state=state)
    return [TaskReport(task, projects[task.project_id]) for task in found]


async def get_report(runtime: Runtime, task_id: str) -> TaskReport:
    """Return any task, read from the database. Raises TaskNotFound."""
    stored = await runtime.db.read(tasks.find, task_id)
    if stored is None:
        raise no_such_task(task_id)
    project = await admin.get_project(runtime, stored.task.project_id)
    entries = await runtime.db.read(ledger.list_entries, task_id)
    holds = [entry.held.micros for entry in entries if entry.kind is EntryKind.HOLD]
    costs = [entry.cost_micros for entry in entries if entry.kind is not EntryKind.HOLD]
    return TaskReport(
        stored.task,
        project,
        stored.request_body,
        sum(holds) if holds else None,
        sum(costs) if costs else None,
    )


async def cancel(runtime: Runtime, actor: str, task_id: str) -> TaskReport:
    """Cancel a queued task for its client, and return it as that leaves it.

    Raises: InvalidRequest if it has ended already, or what a client's DELETE raises.
    """
    task = (await get_report(runtime, task_id)).task
    await _record(runtime, actor, "task.cancel_requested", task.id, "")
    if task.state in TERMINAL or not await cancel_unfinished(runtime, task):
        raise InvalidRequest(f"The task {task.id} has ended already.", param="id")
    return await get_report(runtime, task_id)


async def erase_requests(
    runtime: Runtime,
    actor: str,
    *,
    task_id: str | None = None,
    project_name: str | None = None,
    before_ms: int | None = None,
) -> int:
    """Replace stored requests by their hashes, for good; return how many.

    All conditions given must hold; one at least is given. Raises TaskNotFound, NotFound (project).
    """
    if task_id is None and project_name is None and before_ms is None:
        raise InvalidRequest("Say which requests: by task, by project or by age.")
    if task_id is not None:
        await get_report(runtime, task_id)
    project_id = None
    if project_name is not None:
        project_id = (await admin.get_project(runtime, project_name)).id
    selector = RequestSelector(task_id, project_id, before_ms)
    chosen = f"task={task_id} project={project_id} before_ms={before_ms}"
    await _record(runtime, actor, "requests.erase_requested", task_id or project_id or "", chosen)
    count, after_id = 0, ""
    while rows := await runtime.db.read(
        requests.page_requests, selector, after_id, ROWS_PER_ERASURE_MAX
    ):
        texts = [row for row in rows if row.expires_at_ms is not None]  # the others are hashes
        await hash_requests(runtime, texts)
        count, after_id = count + len(texts), rows[-1].task_id
    return count


async def _record(runtime: Runtime, actor: str, action: str, subject: str, detail: str) -> None:
    now_ms = runtime.clock.now_ms()
    event = AuditEvent(runtime.ids.new("evt", now_ms), now_ms, actor, action, subject, detail)
    await runtime.db.write(audit.add, event)
