"""Adoption: a lost submission gets the upstream task that was proved to have come of it."""

from dataclasses import replace

from gateway.domain.quotes import settles
from gateway.domain.tasks import Event, Observation, Task, advance, event_of, observe
from gateway.ports import Runtime
from gateway.services.moves import record_move
from gateway.services.observing import evidence_of, schedule_look
from gateway.storage import tasks


async def adopt(
    runtime: Runtime,
    task: Task,
    upstream_task_id: str,
    observation: Observation,
    proof: str,
    *,
    is_listed: bool = False,
) -> Task | None:
    """Move an unknown task to what its upstream task was seen to be, and return it as it is then.

    `proof` is one word for the log: what showed that the two belong together. An observation that
    `is_listed`, and does not show all that a success is settled by, ends nothing: the task is to be
    looked at singly, at once. None, and nothing changes, if another worker was first or the
    upstream task is another task's already.
    """
    route = task.route
    owner = await runtime.db.read(
        tasks.find_by_upstream_id, route.upstream, route.credential, upstream_task_id
    )
    if owner is not None and owner.id != task.id:
        return None
    now_ms = runtime.clock.now_ms()
    found = replace(task, upstream_task_id=upstream_task_id)
    event = event_of(observation.status)
    moved = observe(found, observation, now_ms)
    is_bare = is_listed and not settles(observation)
    # A word that we do not know, or too little said: it is there, at any rate.
    if moved is None or event is None or is_bare:
        event, moved = Event.ACCEPTED, advance(found, Event.ACCEPTED, now_ms)
    moved = schedule_look(runtime, moved)
    if is_bare:
        moved = replace(moved, next_poll_at_ms=now_ms)
    adopted = await record_move(runtime, task, moved, event, evidence_of(found, observation))
    if adopted is not None:
        runtime.log.info(
            "task.adopted",
            task_id=task.id,
            project=task.project_id,
            upstream=route.upstream,
            upstream_task_id=upstream_task_id,
            proof=proof,
        )
    return adopted
