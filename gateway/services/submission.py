"""Submit and cancel: where money is spent and where it can still be saved.

The row of a task is committed as `reserved` before the first byte goes upstream, and its outcome in
a second transaction. The upstream call runs in a task of its own: a client that hangs up changes
nothing. A client that stays gets the upstream's own answer, or after `submit.client_wait_s` its id.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.content import count_chars
from gateway.domain.keys import Principal
from gateway.domain.policy import NormalizePolicy, UnknownFields, Validation
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.stored import hash_texts, stored_form
from gateway.domain.tasks import (
    TERMINAL,
    Event,
    Route,
    Task,
    TaskError,
    TaskId,
    TaskState,
    advance,
)
from gateway.errors import (
    AccessDenied,
    CancellationUnsupported,
    Draining,
    GatewayError,
    InternalError,
    ModelNotFound,
    Overloaded,
    RunningTaskDeletion,
    StorageUnavailable,
    SubmissionUnconfirmed,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamUnavailable,
)
from gateway.ports import Runtime, Submission
from gateway.services.moves import dump_request, record_move
from gateway.services.observing import look_at, schedule_look, upstream_of
from gateway.services.status import get_task, no_such_task
from gateway.status_cache import Entry
from gateway.storage import tasks

_DAY_MS: Final = 86_400_000
_RETRY_DELAY_S: Final = 0.2
_UNCONFIRMED_RETRY_S: Final = 10
_LOST_MARGIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit came to. `upstream_s` is the part of its duration spent upstream."""

    task: Task
    warnings: tuple[str, ...] = ()
    upstream_s: float = 0.0


@dataclass(slots=True)
class _Attempt:
    """One submission in progress, shared by the request that waits and the work that goes on.

    Either the client is given its id before the outcome is known, or it gets the outcome itself.
    Both flags are set without an await in between, so the two can't both happen.
    """

    task: Task
    request: NormalizedRequest
    draft_task_id: str | None
    is_id_given: bool = False
    is_decided: bool = False
    upstream_s: float = 0.0


async def submit_task(
    runtime: Runtime, principal: Principal, body: Mapping[str, object], request_id: str
) -> Submitted:
    """Validate, reserve, send once, and return the task with its id.

    The task is queued, unknown (the answer was lost) or still reserved (the upstream is slow); a
    client sees all three as `queued`.

    Raises: a ClientFault before anything is stored, UpstreamRejected, UpstreamAccount or
    UpstreamUnavailable for a definite no, a GatewayFault if nothing was sent.
    """
    if runtime.lifecycle.is_draining:
        raise Draining("The gateway is stopping; send the request again.", retry_after_s=5)
    if runtime.background.active_count >= runtime.config.submit.in_flight_max:
        raise Overloaded("Too many submissions are in progress; try again.", retry_after_s=1)
    request = await _normalize(runtime, body)
    if not principal.may_use(request.model):
        raise AccessDenied(f"This API key may not use the model {request.model}.", param="model")
    route, draft_task_id = await _choose_route(runtime, principal, request)
    task = _new_task(runtime, principal, request, route)
    await _admit(runtime, task, request)
    attempt = _Attempt(task, request, draft_task_id)
    work = runtime.background.start(_carry_out(runtime, attempt, request_id))
    task = await _wait_for_client(runtime, attempt, work)
    for warning in request.warnings:
        runtime.metrics.validation_warnings.add(warning.rule)
    return Submitted(task, tuple(w.message for w in request.warnings), attempt.upstream_s)


async def cancel_task(runtime: Runtime, principal: Principal, task_id: str) -> None:
    """Cancel a queued task, or take a finished one out of the client's view.

    The upstream's DELETE removes a finished record together with its usage, so a task that we know
    as queued is looked at first, and only one that is still queued is cancelled.

    Raises: TaskNotFound, RunningTaskDeletion, SubmissionUnconfirmed, CancellationUnsupported, or
    the UpstreamFault of a call whose outcome the observer will find out.
    """
    task = (await get_task(runtime, principal, task_id)).task
    if task.state not in TERMINAL and await cancel_unfinished(runtime, task):
        return
    if not await runtime.db.write(
        tasks.hide, principal.project_id, task.id, runtime.clock.now_ms()
    ):
        raise no_such_task(task_id)
    runtime.status_cache.drop(task.id)


async def cancel_unfinished(runtime: Runtime, task: Task) -> bool:
    """Cancel a queued task; False if a look at it shows that it has ended by itself.

    Raises: what `cancel_task` raises.
    """
    if task.state is TaskState.QUEUED:
        task = await look_at(runtime, task)
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
    await _cancel_upstream(runtime, task)
    return True


async def _cancel_upstream(runtime: Runtime, task: Task) -> None:
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
        raise SubmissionUnconfirmed(
            f"The state of task {task.id} is being checked; try again later.",
            param="id",
            retry_after_s=_UNCONFIRMED_RETRY_S,
        ) from error
    moved = advance(task, Event.CANCELLED, runtime.clock.now_ms())
    await record_move(runtime, task, moved, Event.CANCELLED)


def _running(task: Task) -> RunningTaskDeletion:
    return RunningTaskDeletion(
        f"The task {task.id} can't be deleted because it is currently running.", param="id"
    )


async def _normalize(runtime: Runtime, body: Mapping[str, object]) -> NormalizedRequest:
    """Normalize `body`; where it holds much media data, which is hashed, off the event loop."""
    arguments = (body, runtime.catalog, _policy_of(runtime))
    if count_chars(body.get("content")) > runtime.config.server.body_inline_bytes_max:
        return await asyncio.to_thread(normalize, *arguments)
    return normalize(*arguments)


def _policy_of(runtime: Runtime) -> NormalizePolicy:
    settings = runtime.config.validation
    return NormalizePolicy(
        validation=Validation(settings.mode),
        unknown_fields=UnknownFields(settings.unknown_fields),
        unknown_fields_count_max=settings.unknown_fields_count_max,
        unknown_fields_bytes_max=settings.unknown_fields_bytes_max,
        content_items_max=settings.content_items_max,
        text_chars_max=settings.text_chars_max,
        url_chars_max=settings.url_chars_max,
        image_bytes_max=settings.image_bytes_max,
        audio_bytes_max=settings.audio_bytes_max,
    )


async def _choose_route(
    runtime: Runtime, principal: Principal, request: NormalizedRequest
) -> tuple[Route, str | None]:
    """Return where the request goes, and the upstream's id of the draft it builds on, if any."""
    if request.draft_task_id is None:
        route = runtime.routing.choose_route(request.model)
        if route is None:
            raise ModelNotFound(
                f"The model {request.model} is not configured in this gateway: no upstream serves "
                "it. Setting: upstreams.",
                param="model",
            )
        return route, None
    draft = (await get_task(runtime, principal, request.draft_task_id)).task
    if draft.upstream_task_id is None:
        raise no_such_task(request.draft_task_id)
    pinned = runtime.routing.pin_route(request.model, draft.route.upstream, draft.route.credential)
    if pinned is None:
        raise no_such_task(request.draft_task_id)
    return pinned, draft.upstream_task_id


def _new_task(
    runtime: Runtime, principal: Principal, request: NormalizedRequest, route: Route
) -> Task:
    now_ms = runtime.clock.now_ms()
    expiry_s = request.parameters.execution_expires_after
    if expiry_s is None:
        expiry_s = runtime.config.submit.default_expiry_s
    upstream = runtime.config.upstream(route.upstream)
    retries_s = runtime.config.submit.not_sent_retries_max * upstream.connect_timeout_s
    longest_s = upstream.submit_s_max + retries_s + _LOST_MARGIN_S
    return Task(
        id=TaskId(runtime.ids.task_id(now_ms)),
        project_id=principal.project_id,
        key_id=principal.key_id,
        model=request.model,
        family=request.family.name,
        route=route,
        state=TaskState.RESERVED,
        version=1,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        submit_deadline_at_ms=now_ms + int(longest_s * 1000),
        expires_at_ms=now_ms + expiry_s * 1000,
        service_tier=request.parameters.service_tier or "default",
    )


async def _admit(runtime: Runtime, task: Task, request: NormalizedRequest) -> None:
    """Commit the reserved task and its request; after this the task can't be forgotten."""
    days = runtime.config.retention.request_days
    stored = stored_form(request)
    kept = stored if days else hash_texts(stored)
    text = dump_request(kept)
    await runtime.db.write(
        tasks.admit,
        task,
        text,
        task.created_at_ms + days * _DAY_MS if days else None,
    )
    runtime.status_cache.put(Entry(task, text, runtime.clock.monotonic_s()))


async def _wait_for_client(
    runtime: Runtime, attempt: _Attempt, work: "asyncio.Future[Task]"
) -> Task:
    """Return the outcome, or the reserved task once the client has waited long enough."""
    try:
        async with asyncio.timeout(runtime.config.submit.client_wait_s):
            return await asyncio.shield(work)
    except TimeoutError:
        if attempt.is_decided:
            return await asyncio.shield(work)
        attempt.is_id_given = True
        return attempt.task


async def _carry_out(runtime: Runtime, attempt: _Attempt, request_id: str) -> Task:
    """Send the request and record what came of it; raises the definite no, if it is one."""
    try:
        submission = await _send(runtime, attempt)
    except UpstreamAmbiguous as error:
        runtime.log.warning(
            "task.submission_lost",
            task_id=attempt.task.id,
            request_id=request_id,
            upstream=attempt.task.route.upstream,
            reason=error.message,
        )
        return await _record_lost(runtime, attempt.task)
    except GatewayError as error:
        return await _record_refused(runtime, attempt, error)
    except Exception as error:  # a defect of ours, after which bytes may have left
        runtime.log.exception("task.submission_lost", task_id=attempt.task.id, exc_info=error)
        return await _record_lost(runtime, attempt.task)
    try:
        return await _record_accepted(runtime, attempt.task, submission)
    except GatewayError:
        raise
    except Exception as error:  # such as an id that the upstream gave to another task, too
        runtime.log.exception("task.submission_lost", task_id=attempt.task.id, exc_info=error)
        return await _record_lost(runtime, attempt.task)


async def _send(runtime: Runtime, attempt: _Attempt) -> Submission:
    """Send the paid POST, again only where the transport proves that no byte left."""
    task = attempt.task
    upstream = runtime.upstreams[task.route.upstream]
    retries_left = runtime.config.submit.not_sent_retries_max
    delay_s = _RETRY_DELAY_S
    while True:
        started_s = runtime.clock.monotonic_s()
        try:
            return await upstream.submit(
                task.route.credential,
                task.route.deployment,
                attempt.request,
                draft_task_id=attempt.draft_task_id,
                attempt_id=task.id,
            )
        except UpstreamUnavailable:
            if retries_left == 0:
                raise
        finally:
            attempt.upstream_s += runtime.clock.monotonic_s() - started_s
        retries_left -= 1
        await runtime.clock.sleep(delay_s * (1 + runtime.random.random()))
        delay_s *= 2


async def _record_accepted(runtime: Runtime, task: Task, submission: Submission) -> Task:
    now_ms = runtime.clock.now_ms()
    moved = replace(
        advance(task, Event.ACCEPTED, now_ms),
        upstream_task_id=submission.upstream_task_id,
        upstream_request_id=submission.upstream_request_id,
    )
    return await _record(runtime, task, schedule_look(runtime, moved), Event.ACCEPTED)


async def _record_lost(runtime: Runtime, task: Task) -> Task:
    moved = advance(task, Event.LOST, runtime.clock.now_ms())
    return await _record(runtime, task, moved, Event.LOST)


async def _record_refused(runtime: Runtime, attempt: _Attempt, error: GatewayError) -> Task:
    """Record a definite no; raise it to a client that still waits for it."""
    attempt.is_decided = True
    if isinstance(error, UpstreamAccount):
        runtime.log.error(
            "upstream.account_refused",
            upstream=attempt.task.route.upstream,
            credential=attempt.task.route.credential,
            reason="; ".join([error.message, *getattr(error, "__notes__", ())]),
        )
    event = Event.REFUSED_LATE if attempt.is_id_given else Event.REFUSED
    moved = replace(
        advance(attempt.task, event, runtime.clock.now_ms()),
        error=TaskError(error.public_code, error.message),
    )
    task = await _record(runtime, attempt.task, moved, event)
    if attempt.is_id_given:
        return task
    raise error


async def _record(runtime: Runtime, before: Task, after: Task, event: Event) -> Task:
    """Commit the outcome. If the store refuses, the row stays reserved until it is swept."""
    try:
        is_first = await record_move(runtime, before, after, event)
    except StorageUnavailable as error:
        runtime.log.exception("task.submission_lost", task_id=before.id, exc_info=error)
        return before
    if not is_first:
        raise InternalError("The task was moved by another worker.")
    return after
