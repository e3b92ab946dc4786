"""Adoption: a lost submission gets the upstream task that was proved to have come of it."""

from dataclasses import replace

from gateway.domain.tasks import Event, Observation, Task, advance, event_of, observe
from gateway.ports import Runtime
from gateway.services.moves import record_move
from gateway.services.observing import evidence_of, schedule_look
from gateway.storage import tasks


async def adopt(
    runtime: Runtime, task: Task, upstream_task_id: str, observation: Observation, proof: str
) -> Task | None:
    """Move an unknown task to what its upstream task was seen to be, and return it as it is then.

    `proof` is one word for the log: what showed that the two belong together. None, and nothing
    changes, if another worker was first or the upstream task is another task's already.
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
    if moved is None or event is None:  # a word that we do not know: it is there, at any rate
        event, moved = Event.ACCEPTED, advance(found, Event.ACCEPTED, now_ms)
    adopted = await record_move(
        runtime, task, schedule_look(runtime, moved), event, evidence_of(found, observation)
    )
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
