"""The observer: the only one who asks upstreams about tasks that exist.

Due tasks of one credential are claimed for a lease, looked at one by one or, when many are due, by
list calls, and either moved or scheduled for another look. Two observers of one task are harmless:
a move is a compare-and-set.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.config import UpstreamConfig
from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.quotes import settles
from gateway.domain.schedule import Fallback, Pace, next_fallback_s, next_look_s
from gateway.domain.tasks import (
    TERMINAL,
    Event,
    Observation,
    Task,
    TaskError,
    advance,
    event_of,
    observe,
)
from gateway.errors import UpstreamAccount, UpstreamFault, UpstreamRejected
from gateway.ports import Runtime, Upstream
from gateway.services.moves import record_move
from gateway.storage import tasks
from gateway.storage.tasks import Reschedule

_TYPICAL_RUN_S: Final = 120.0
_VANISHED: Final = TaskError(
    "NotFound.UpstreamTask", "The upstream accepted this task and no longer knows it."
)


async def observe_due(runtime: Runtime, upstream: Upstream, credential: str) -> int:
    """Look at the due tasks of one credential; return how many were due.

    A look that fails leaves its task to the next one: no clock of ours fails a task.
    """
    settings = runtime.config.observer
    now_ms = runtime.clock.now_ms()
    # No look is planned so far ahead, but by a clock that was wrong.
    interval_s_max = max(settings.interval_s_max, settings.callback_interval_s_max)
    far_ms = now_ms + int((settings.lease_s + 2 * interval_s_max) * 1000)
    due_at_ms = await runtime.db.read(tasks.next_due_at, upstream.name, credential)
    if due_at_ms is None or now_ms < due_at_ms <= far_ms:
        return 0
    runtime.metrics.poll_lag.observe(max(0, now_ms - due_at_ms) / 1000)
    due = await runtime.db.write(
        tasks.claim_due,
        upstream.name,
        credential,
        now_ms=now_ms,
        far_ms=far_ms,
        lease_until_ms=now_ms + int(settings.lease_s * 1000),
        limit=settings.claim_count_max,
    )
    if upstream.supports_list and len(due) >= settings.batch_from:
        for start in range(0, len(due), settings.batch_size_max):
            await _look_by_list(runtime, upstream, due[start : start + settings.batch_size_max])
    else:
        await _look_one_by_one(runtime, upstream, due)
    return len(due)


@dataclass(frozen=True, slots=True)
class Look:
    """The task as a look leaves it, and whether the upstream showed it in a state that we know."""

    task: Task
    is_confirmed: bool


async def look_at(runtime: Runtime, task: Task) -> Look:
    """Ask the upstream about one task now. Raises: UpstreamFault if there is no answer."""
    assert task.upstream_task_id is not None  # noqa: S101 - only an accepted task is looked at
    observation = await upstream_of(runtime, task).observe(
        task.route.credential, task.upstream_task_id
    )
    event = event_of(observation.status) if observation is not None else None
    if observation is None or event is None:
        return Look(task, is_confirmed=False)
    moved = _moved_by(runtime, task, observation)
    if moved is None:
        return Look(task, is_confirmed=True)
    evidence = evidence_of(task, observation)
    written = await record_move(runtime, task, moved, event, evidence)
    if written is not None:
        return Look(written, is_confirmed=True)
    stored = await runtime.db.read(tasks.find, task.id)
    return Look(stored.task if stored is not None else task, is_confirmed=True)


def upstream_of(runtime: Runtime, task: Task) -> Upstream:
    """Return the upstream that has the task. Raises UpstreamAccount if it is configured no more."""
    upstream = runtime.upstreams.get(task.route.upstream)
    if upstream is None:
        raise UpstreamAccount("The upstream of this task is no longer configured.")
    return upstream


def evidence_of(task: Task, observation: Observation) -> Evidence:
    """Return what a look proves, should the task have ended by it."""
    at = f"{task.route.upstream}: {task.upstream_task_id} is {observation.status[:32]}"
    return Evidence(EvidenceKind.ENDED, at)


async def find_orphans(
    runtime: Runtime, upstreams: Sequence[UpstreamConfig]
) -> Mapping[tuple[str, str], int]:
    """Return how many tasks nobody follows, by the upstream and credential they were sent to.

    `upstreams` has not both, by these names at least: such tasks stay as they are.
    """
    followed = await runtime.db.read(tasks.count_followed)
    configured = {
        (upstream.name, credential.name)
        for upstream in upstreams
        for credential in upstream.credentials
    }
    return {route: count for route, count in followed.items() if route not in configured}


def schedule_look(runtime: Runtime, task: Task) -> Task:
    """Return the task with the time of the next look at it; none if it is terminal."""
    if task.state in TERMINAL:
        return replace(task, next_poll_at_ms=None)
    now_ms = runtime.clock.now_ms()
    return replace(task, next_poll_at_ms=now_ms + int(_next_look_s(runtime, task, now_ms) * 1000))


def _next_look_s(runtime: Runtime, task: Task, now_ms: int) -> float:
    settings = runtime.config.observer
    pace = Pace(
        settings.interval_s_min, settings.interval_s_max, settings.jitter, settings.time_scale
    )
    family = runtime.catalog.find(task.model)
    typical_run_s = family.typical_run_s if family is not None else _TYPICAL_RUN_S
    age_s = max(0, now_ms - task.created_at_ms) / 1000
    spread = runtime.random.uniform(-1, 1)
    if not task.is_called_back or task.is_news_due:
        return next_look_s(pace, typical_run_s, age_s, spread)
    fallback = Fallback(
        settings.callback_runs, settings.callback_interval_s_min, settings.callback_interval_s_max
    )
    return next_fallback_s(pace, fallback, typical_run_s, age_s, spread)


def _moved_by(runtime: Runtime, task: Task, observation: Observation) -> Task | None:
    if event_of(observation.status) is None:
        runtime.log.warning(
            "observer.status_unknown",
            task_id=task.id,
            upstream=task.route.upstream,
            status=observation.status[:64],
        )
    moved = observe(task, observation, runtime.clock.now_ms())
    return None if moved is None else schedule_look(runtime, moved)


async def _look_by_list(runtime: Runtime, upstream: Upstream, due: Sequence[Task]) -> None:
    """Look at many tasks by one call; those that it does not show are looked at singly.

    So are those that it shows to have succeeded, but not what they made or used.
    """
    by_id = {task.upstream_task_id: task for task in due if task.upstream_task_id is not None}
    try:
        seen = await upstream.observe_many(due[0].route.credential, list(by_id))
    except UpstreamFault as error:
        # A list that fails says nothing about single reads: they go on alone.
        _log_failure(runtime, upstream, error)
        seen = {}
    seen = {key: observation for key, observation in seen.items() if settles(observation)}
    await _apply(runtime, [(by_id[key], seen[key]) for key in by_id if key in seen])
    await _look_one_by_one(runtime, upstream, [by_id[key] for key in by_id if key not in seen])


async def _look_one_by_one(runtime: Runtime, upstream: Upstream, due: Sequence[Task]) -> None:
    """Look at tasks singly, a few at once, until the upstream proves to be away."""
    failures: list[UpstreamFault] = []
    gate = asyncio.Semaphore(runtime.config.observer.looks_concurrency_max)
    async with asyncio.TaskGroup() as group:
        for task in due:
            group.create_task(_look_singly(runtime, upstream, task, gate, failures))


async def _look_singly(
    runtime: Runtime,
    upstream: Upstream,
    task: Task,
    gate: asyncio.Semaphore,
    failures: list[UpstreamFault],
) -> None:
    assert task.upstream_task_id is not None  # noqa: S101 - only accepted tasks are due
    async with gate:
        if failures:
            await _reschedule(runtime, [task], failures[0].retry_after_s)
            return
        try:
            observation = await upstream.observe(task.route.credential, task.upstream_task_id)
        except UpstreamFault as error:
            _log_failure(runtime, upstream, error)
            if not isinstance(error, UpstreamRejected):  # which concerns this task alone
                failures.append(error)
            await _reschedule(runtime, [task], error.retry_after_s)
            return
    if observation is None:
        await _record_missing(runtime, task)
    else:
        await _apply(runtime, [(task, observation)])


async def _apply(runtime: Runtime, looks: Sequence[tuple[Task, Observation]]) -> None:
    """Move what moved, all in one batch of the store, and schedule the rest."""
    idle = []
    async with asyncio.TaskGroup() as group:
        for task, observation in looks:
            moved = _moved_by(runtime, task, observation)
            event = event_of(observation.status)
            if moved is None or event is None:
                idle.append(replace(task, missing_count=0, missing_since_ms=None))
            else:
                evidence = evidence_of(task, observation)
                group.create_task(record_move(runtime, task, moved, event, evidence))
    if idle:
        await _reschedule(runtime, idle)


async def _record_missing(runtime: Runtime, task: Task) -> None:
    """Count a 404 for a task that the upstream accepted; fail the task when it stays away.

    It takes `missing_count_min` reads over `missing_s_min`: an upstream that loses sight of a task
    for a moment must not cost the client a video.
    """
    settings = runtime.config.observer
    now_ms = runtime.clock.now_ms()
    since_ms = task.missing_since_ms if task.missing_since_ms is not None else now_ms
    missing = replace(task, missing_count=task.missing_count + 1, missing_since_ms=since_ms)
    # A time that is over by a date alone may be one that somebody has set the clock past.
    steady_s = runtime.steadiness.steady_s()
    missing_s = min((now_ms - since_ms) / 1000, steady_s) * settings.time_scale
    if missing.missing_count < settings.missing_count_min or missing_s < settings.missing_s_min:
        await _reschedule(runtime, [missing])
        return
    runtime.log.error("task.vanished", task_id=task.id, upstream=task.route.upstream)
    # Nothing proves that it was not billed: the hold waits for evidence, or for an operator.
    moved = replace(advance(missing, Event.VANISHED, now_ms), error=_VANISHED)
    await record_move(runtime, task, moved, Event.VANISHED)


async def _reschedule(
    runtime: Runtime, looked_at: Sequence[Task], retry_after_s: int | None = None
) -> None:
    """Plan the next look at each task, as late at least as an upstream asks, within reason."""
    settings = runtime.config.observer
    asked_s = min(retry_after_s or 0, settings.interval_s_max)
    earliest_ms = runtime.clock.now_ms() + int(asked_s * 1000)
    rows = []
    for task in looked_at:
        next_at_ms = schedule_look(runtime, task).next_poll_at_ms
        assert next_at_ms is not None  # noqa: S101 - only unfinished tasks are looked at
        next_at_ms = max(next_at_ms, earliest_ms)
        rows.append(
            Reschedule(
                task_id=task.id,
                version=task.version,
                next_poll_at_ms=next_at_ms,
                poll_count=task.poll_count + 1,
                missing_count=task.missing_count,
                missing_since_ms=task.missing_since_ms,
                known_poll_at_ms=task.next_poll_at_ms,
            )
        )
    await runtime.db.write(tasks.reschedule, rows)


def _log_failure(runtime: Runtime, upstream: Upstream, error: UpstreamFault) -> None:
    runtime.log.warning(
        "upstream.call_failed", upstream=upstream.name, code=error.public_code, reason=error.message
    )
