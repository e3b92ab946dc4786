"""Cancel and delete: where money can still be saved."""

from typing import Final

from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import TERMINAL, Event, Task, TaskState, advance
from gateway.errors import (
    CancellationUnsupported,
    ImportedTaskDeletion,
    RunningTaskDeletion,
    SubmissionUnconfirmed,
    TaskNotFound,
)
from gateway.ports import Runtime
from gateway.services.moves import record_move
from gateway.services.observing import look_at, upstream_of
from gateway.services.status import get_task, no_such_task
from gateway.storage import tasks

_UNCONFIRMED_RETRY_S: Final = 10
_CANCEL_REPEATED_S: Final = 60


async def cancel_task(runtime: Runtime, principal: Principal, task_id: str) -> None:
    """Cancel a queued task, or take a finished one out of the client's view.

    The upstream's DELETE removes a finished record together with its usage, so a task that we know
    as queued is looked at first, and only one that is still queued is cancelled. One that has ended
    meanwhile stays in view: its client has not seen its end.

    Raises: TaskNotFound, RunningTaskDeletion, SubmissionUnconfirmed, CancellationUnsupported,
    ImportedTaskDeletion, or the UpstreamFault of a call whose outcome the observer will find out.
    """
    task = (await get_task(runtime, principal, task_id)).task
    if task.is_imported:
        raise _imported(task)
    if task.state not in TERMINAL:
        await cancel_unfinished(runtime, task)
        return
    age_s = (runtime.clock.now_ms() - task.updated_at_ms) / 1000
    if task.state is TaskState.CANCELLED and age_s < _CANCEL_REPEATED_S:
        return  # the same cancel once more: SDKs repeat one whose answer was lost
    if not await runtime.db.write(
        tasks.hide, principal.project_id, task.id, runtime.clock.now_ms()
    ):
        raise no_such_task(task_id)
    runtime.status_cache.drop(task.id)


async def cancel_unfinished(runtime: Runtime, task: Task) -> bool:
    """Cancel a queued task; False if it has ended by itself, as a look shows, or others saw.

    Raises: what `cancel_task` raises.
    """
    if task.is_imported:
        raise _imported(task)
    is_confirmed = True
    if task.state is TaskState.QUEUED:
        look = await look_at(runtime, task)
        task, is_confirmed = look.task, look.is_confirmed
    if not is_confirmed:  # it may have ended in a way that we don't understand
        raise _being_checked(task)
    if task.state in {TaskState.RESERVED, TaskState.UNKNOWN}:
        raise SubmissionUnconfirmed(
            f"The submission of task {task.id} is not confirmed yet; try again later.",
            param="id",
            retry_after_s=_UNCONFIRMED_RETRY_S,
        )
    if task.state is TaskState.RUNNING:
        raise _running(task)
    if task.state in TERMINAL:
        return False
    task = await _cancel_upstream(runtime, task)
    if task.state not in TERMINAL:
        raise _running(task)
    return task.state is TaskState.CANCELLED


async def _cancel_upstream(runtime: Runtime, task: Task) -> Task:
    """Cancel a task that is queued, as far as we know; return it as it is recorded then."""
    upstream = upstream_of(runtime, task)
    if not upstream.supports_cancel:
        raise CancellationUnsupported(
            f"Task {task.id} is queued at an upstream that can't cancel tasks.", param="id"
        )
    assert task.upstream_task_id is not None  # noqa: S101 - the state says so
    try:
        await upstream.cancel(task.route.credential, task.upstream_task_id)
    except RunningTaskDeletion as error:
        raise _running(task) from error
    except TaskNotFound as error:
        raise _being_checked(task) from error
    moved = advance(task, Event.CANCELLED, runtime.clock.now_ms())
    evidence = Evidence(
        EvidenceKind.CANCELLED, f"{task.route.upstream}: {task.upstream_task_id} was cancelled"
    )
    written = await record_move(runtime, task, moved, Event.CANCELLED, evidence)
    if written is not None:
        return written
    stored = await runtime.db.read(tasks.find, task.id)  # somebody else saw another state first
    return stored.task if stored is not None else task


def _imported(task: Task) -> ImportedTaskDeletion:
    return ImportedTaskDeletion(
        f"The task {task.id} was made before this gateway, which only reads it: cancel or delete "
        "it where it was made.",
        param="id",
    )


def _being_checked(task: Task) -> SubmissionUnconfirmed:
    return SubmissionUnconfirmed(
        f"The state of task {task.id} is being checked; try again later.",
        param="id",
        retry_after_s=_UNCONFIRMED_RETRY_S,
    )


def _running(task: Task) -> RunningTaskDeletion:
    return RunningTaskDeletion(
        f"The task {task.id} can't be deleted because it is currently running.", param="id"
    )
