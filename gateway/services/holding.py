"""Holds of tasks that ended here without evidence: the upstream may show later what became of them.

Such a task had vanished upstream, or was given up by `submit.unknown_policy: hold`. It stays as it
ended: only its money is decided.
"""

from collections.abc import Collection
from dataclasses import replace

from gateway.domain.tasks import TERMINAL, Event, Observation, Task, TaskState, event_of
from gateway.errors import UpstreamFault
from gateway.ports import Runtime, Upstream
from gateway.services.moves import resolve_ended
from gateway.services.observing import evidence_of
from gateway.storage import accounts, orphans


def has_ended(status: str) -> bool:
    """Whether a status word of the upstream's is that of an end."""
    event = event_of(status)
    return event is not None and event.value in {state.value for state in TERMINAL}


async def resolve_vanished(
    runtime: Runtime, upstream: Upstream, credential: str, ended_ids: Collection[str]
) -> None:
    """Resolve the holds of tasks that had vanished, and are listed as ended."""
    held = await runtime.db.read(accounts.list_held, upstream.name, credential)
    for task in held:
        upstream_task_id = task.upstream_task_id
        if upstream_task_id is not None and upstream_task_id in ended_ids:
            await resolve_held(runtime, upstream, task, upstream_task_id)


async def resolve_held(
    runtime: Runtime, upstream: Upstream, task: Task, upstream_task_id: str
) -> None:
    """Resolve a hold by how its upstream task has ended, read singly: a list may show too little.

    A success is settled on what it used. Anything else releases the hold, unless there is another
    upstream task that came of the same one, and may have succeeded.
    """
    try:
        observation = await upstream.observe(task.route.credential, upstream_task_id)
    except UpstreamFault as error:  # the next list shows it again
        runtime.log.warning(
            "upstream.call_failed",
            upstream=upstream.name,
            code=error.public_code,
            reason=error.message,
        )
        return
    if observation is None or not has_ended(observation.status):
        return
    is_success = event_of(observation.status) is Event.SUCCEEDED
    if not is_success and await _has_rival(runtime, task, upstream_task_id):
        return
    evidence = evidence_of(replace(task, upstream_task_id=upstream_task_id), observation)
    shown = _shown(task, observation) if is_success else None
    await resolve_ended(runtime, task, evidence, is_charged=False, shown=shown)


def _shown(task: Task, observation: Observation) -> Task:
    return replace(task, state=TaskState.SUCCEEDED, fields=observation.fields)


async def _has_rival(runtime: Runtime, task: Task, upstream_task_id: str) -> bool:
    found = await runtime.db.read(orphans.list_of_task, task.id)
    return any(
        each.upstream_task_id != upstream_task_id
        and (not has_ended(each.status) or event_of(each.status) is Event.SUCCEEDED)
        for each in found
    )
