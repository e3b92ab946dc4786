"""Submit: where money is spent.

The row of a task is committed as `reserved` before the first byte goes upstream, and its outcome in
a second transaction. The upstream call runs in a task of its own: a client that hangs up changes
nothing. A client that stays gets the upstream's own answer, or after `submit.client_wait_s` its id.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.background import see_exception
from gateway.domain.content import count_chars
from gateway.domain.keys import Principal
from gateway.domain.policy import NormalizePolicy, UnknownFields, Validation
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.stored import hash_texts, stored_form
from gateway.domain.tasks import (
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
    Draining,
    GatewayError,
    ModelNotFound,
    Overloaded,
    StorageUnavailable,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamUnavailable,
)
from gateway.ports import Runtime, Submission
from gateway.services.moves import dump_request, record_move
from gateway.services.observing import schedule_look, upstream_of
from gateway.services.status import get_task, no_such_task
from gateway.status_cache import Entry
from gateway.storage import tasks

_DAY_MS: Final = 86_400_000
_RETRY_DELAY_S: Final = 0.2
_RETRY_DELAY_S_MAX: Final = 5.0
_WITHDRAWN_S_MAX: Final = 5.0
_UNCONFIRMED_RETRY_S: Final = 10
_LOST_MARGIN_S: Final = 30.0
_NOT_SENT: Final = "The store did not answer in time; nothing was sent."


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit came to. `upstream_s` is the part of its duration spent upstream."""

    task: Task
    warnings: tuple[str, ...] = ()
    upstream_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What evidence there is of a submission: accepted, lost, or refused for this reason."""

    event: Event
    submission: Submission | None = None
    refusal: GatewayError | None = None


@dataclass(slots=True)
class _Attempt:
    """One submission in progress, shared by the request that waits and the work that goes on.

    Either the client is given its id before the outcome is known, or it gets the outcome itself.
    What decides that is set without an await in between, so the two can't both happen.
    """

    principal: Principal
    request_id: str
    answer: "asyncio.Future[Task]"
    """What the client is told: its task, or why there is none."""
    task: Task | None = None
    draft_task_id: str | None = None
    is_id_given: bool = False
    is_withdrawn: bool = False
    is_refused: bool = False
    upstream_s: float = 0.0
    call_began_s: float | None = None

    def tell(self, answer: Task | Exception) -> None:
        """Let the client know, if nothing was told yet."""
        if self.answer.done():
            return
        if isinstance(answer, GatewayError):
            # Without its frames, which hold the request: the answer is kept for longer.
            self.answer.set_exception(answer.with_traceback(None))
        elif isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


def refuse_if_draining(runtime: Runtime) -> None:
    """Raise Draining if the process takes no submit any more: also before a body is read for it."""
    if runtime.lifecycle.is_draining:
        raise Draining("The gateway is stopping; send the request again.", retry_after_s=5)


async def submit_task(
    runtime: Runtime, principal: Principal, body: Mapping[str, object], request_id: str
) -> Submitted:
    """Validate, reserve, send once, and return the task with its id.

    The task is queued, unknown (the answer was lost) or still reserved (the upstream is slow); a
    client sees all three as `queued`.

    Raises: a ClientFault before anything is stored, UpstreamRejected, UpstreamAccount or
    UpstreamUnavailable for a definite no, a GatewayFault if nothing was sent.
    """
    refuse_if_draining(runtime)
    request = await _normalize(runtime, body)
    if not principal.may_use(request.model):
        raise AccessDenied(f"This API key may not use the model {request.model}.", param="model")
    # From the check to the start nothing is awaited: a burst can't pass the limit together.
    if runtime.background.active_count >= runtime.config.submit.in_flight_max:
        raise Overloaded("Too many submissions are in progress; try again.", retry_after_s=1)
    answer: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
    answer.add_done_callback(see_exception)
    attempt = _Attempt(principal, request_id, answer)
    runtime.background.start(_carry_out(runtime, attempt, request))
    task = await _wait_for_client(runtime, attempt)
    for warning in request.warnings:
        runtime.metrics.validation_warnings.add(warning.rule)
    upstream_s = attempt.upstream_s
    if attempt.call_began_s is not None:
        upstream_s += runtime.clock.monotonic_s() - attempt.call_began_s
    return Submitted(task, tuple(w.message for w in request.warnings), upstream_s)


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
    try:
        draft = (await get_task(runtime, principal, request.draft_task_id)).task
    except TaskNotFound as error:
        raise no_such_task(request.draft_task_id, request.draft_task_param) from error
    route = runtime.routing.pin_route(request.model, draft.route.upstream, draft.route.credential)
    if route is None or draft.upstream_task_id is None:
        raise no_such_task(request.draft_task_id, request.draft_task_param)
    return route, draft.upstream_task_id


def _new_task(
    runtime: Runtime, principal: Principal, request: NormalizedRequest, route: Route
) -> Task:
    now_ms = runtime.clock.now_ms()
    expiry_s = request.parameters.execution_expires_after
    if expiry_s is None:
        expiry_s = runtime.config.submit.default_expiry_s
    upstream = runtime.config.upstream(route.upstream)
    retries_s = runtime.config.submit.not_sent_retries_max * (
        upstream.connect_s_max + _RETRY_DELAY_S_MAX
    )
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


async def _reserve(runtime: Runtime, task: Task, request: NormalizedRequest) -> None:
    """Commit the reserved task and its request; after this the task can't be forgotten."""
    days = runtime.config.retention.request_days
    stored = stored_form(request)
    text = dump_request(stored if days else hash_texts(stored))
    await runtime.db.write(
        tasks.admit, task, text, task.created_at_ms + days * _DAY_MS if days else None
    )
    runtime.status_cache.put(Entry(task, text, runtime.clock.monotonic_s()))


async def _wait_for_client(runtime: Runtime, attempt: _Attempt) -> Task:
    """Return the outcome, or the reserved task once the client has waited long enough."""
    try:
        async with asyncio.timeout(runtime.config.submit.client_wait_s):
            return await asyncio.shield(attempt.answer)
    except TimeoutError:
        if attempt.answer.done() or attempt.is_refused:
            return await asyncio.shield(attempt.answer)
        if attempt.task is None:
            attempt.is_withdrawn = True
            raise StorageUnavailable(_NOT_SENT) from None
        attempt.is_id_given = True
        return attempt.task


async def _carry_out(runtime: Runtime, attempt: _Attempt, request: NormalizedRequest) -> None:
    """Reserve, send and record, whoever still waits for it."""
    try:
        route, attempt.draft_task_id = await _choose_route(runtime, attempt.principal, request)
        task = _new_task(runtime, attempt.principal, request, route)
    except Exception as error:  # noqa: BLE001 - the request tells its client
        attempt.tell(error)
        return
    try:
        await _reserve(runtime, task, request)
    except Exception as error:  # noqa: BLE001 - as above; the row may be there all the same
        attempt.tell(error)
        attempt.is_withdrawn = True
    if attempt.is_withdrawn:
        outcome = _Outcome(Event.REFUSED, refusal=StorageUnavailable(_NOT_SENT))
    else:
        attempt.task = task
        outcome = await _send(runtime, attempt, task, request)
    del request  # it may hold megabytes, and the record may take its time
    attempt.is_refused = outcome.refusal is not None and not attempt.is_id_given
    await _record(runtime, attempt, task, outcome)


async def _send(
    runtime: Runtime, attempt: _Attempt, task: Task, request: NormalizedRequest
) -> _Outcome:
    """Send the paid POST and return what came of it."""
    try:
        submission = await _send_until_it_leaves(runtime, attempt, task, request)
    except UpstreamAmbiguous as error:
        _log_lost(runtime, attempt, task, "; ".join([error.message, *_notes_of(error)]))
        return _Outcome(Event.LOST)
    except GatewayError as error:
        if isinstance(error, UpstreamAccount):
            _log_account(runtime, attempt, task, error)
        # Its traceback's frames hold the attempt, and the attempt will hold the refusal: that ring
        # would keep the request in memory until garbage is collected.
        return _Outcome(Event.REFUSED, refusal=error.with_traceback(None))
    except Exception as error:  # a defect of ours, after which bytes may have left
        runtime.log.exception("task.submission_lost", task_id=task.id, exc_info=error)
        return _Outcome(Event.LOST)
    return _Outcome(Event.ACCEPTED, submission=submission)


async def _send_until_it_leaves(
    runtime: Runtime, attempt: _Attempt, task: Task, request: NormalizedRequest
) -> Submission:
    """Send the request, again only where the transport proves that no byte left."""
    upstream = upstream_of(runtime, task)
    retries_left = runtime.config.submit.not_sent_retries_max
    delay_s = _RETRY_DELAY_S
    while True:
        attempt.call_began_s = runtime.clock.monotonic_s()
        try:
            return await upstream.submit(
                task.route.credential,
                task.route.deployment,
                request,
                draft_task_id=attempt.draft_task_id,
                attempt_id=task.id,
            )
        except UpstreamUnavailable:
            if retries_left == 0:
                raise
        finally:
            attempt.upstream_s += runtime.clock.monotonic_s() - attempt.call_began_s
            attempt.call_began_s = None
        retries_left -= 1
        await runtime.clock.sleep(delay_s * (1 + runtime.random.random()))
        delay_s *= 2


async def _record(runtime: Runtime, attempt: _Attempt, task: Task, outcome: _Outcome) -> None:
    """Commit the outcome and tell the client.

    While the store refuses, the commit is tried again: an id that was paid for is not let go. The
    client does not wait for that: it gets its id, or the refusal, which is true all the same. After
    `submit.outcome_s_max` the row stays reserved until it is swept.
    """
    limit_s = runtime.config.submit.outcome_s_max
    if attempt.is_withdrawn:  # nothing was sent: what is left of it may as well be swept
        limit_s = min(limit_s, _WITHDRAWN_S_MAX)
    deadline_s = runtime.clock.monotonic_s() + limit_s
    delay_s = _RETRY_DELAY_S
    while True:
        try:
            moved = await _apply_outcome(runtime, attempt, task, outcome)
        except StorageUnavailable:
            attempt.tell(outcome.refusal or task)
        except Exception as error:  # such as an id that the upstream gave to another task, too
            runtime.log.exception("task.submission_lost", task_id=task.id, exc_info=error)
            if outcome.event is not Event.ACCEPTED:
                attempt.tell(outcome.refusal or task)
                return
            _log_lost(runtime, attempt, task, "The outcome can't be stored.", outcome)
            outcome = _Outcome(Event.LOST)
        else:
            attempt.tell(outcome.refusal or moved)
            return
        if runtime.clock.monotonic_s() >= deadline_s:
            _log_lost(runtime, attempt, task, "The store did not take the outcome.", outcome)
            return
        await runtime.clock.sleep(delay_s)
        delay_s = min(delay_s * 2, _RETRY_DELAY_S_MAX)


async def _apply_outcome(
    runtime: Runtime, attempt: _Attempt, task: Task, outcome: _Outcome
) -> Task:
    """Move the task by the outcome, also if it was given up as lost meanwhile; return it."""
    while (event := _event_in(task.state, outcome, is_id_given=attempt.is_id_given)) is not None:
        moved = advance(task, event, runtime.clock.now_ms())
        if outcome.submission is not None:
            moved = schedule_look(
                runtime,
                replace(
                    moved,
                    upstream_task_id=outcome.submission.upstream_task_id,
                    upstream_request_id=outcome.submission.upstream_request_id,
                ),
            )
        if outcome.refusal is not None:
            error = TaskError(outcome.refusal.public_code, outcome.refusal.message)
            moved = replace(moved, error=error)
        if await record_move(runtime, task, moved, event):
            return moved
        stored = await runtime.db.read(tasks.find, task.id)
        if stored is None:  # never admitted, or lost with the store
            if outcome.event is not Event.REFUSED:
                _log_lost(runtime, attempt, task, "The task's row is gone.", outcome)
            break
        task = stored.task
    return task


def _event_in(state: TaskState, outcome: _Outcome, *, is_id_given: bool) -> Event | None:
    """Return what `outcome` means in `state`; None if it is no news.

    A task that the sweep gave up is unknown; the answer that comes after all is evidence.
    """
    if state is TaskState.UNKNOWN:
        by_evidence = {Event.ACCEPTED: Event.ACCEPTED, Event.REFUSED: Event.ABSENT}
        return by_evidence.get(outcome.event)
    if state is not TaskState.RESERVED:
        return None
    if outcome.event is Event.REFUSED and is_id_given:
        return Event.REFUSED_LATE
    return outcome.event


def _notes_of(error: Exception) -> Sequence[str]:
    """Return what the adapter noted for operators, beside the words for clients."""
    return getattr(error, "__notes__", ())


def _log_account(runtime: Runtime, attempt: _Attempt, task: Task, error: UpstreamAccount) -> None:
    runtime.log.error(
        "upstream.account_refused",
        task_id=task.id,
        request_id=attempt.request_id,
        upstream=task.route.upstream,
        credential=task.route.credential,
        reason="; ".join([error.message, *_notes_of(error)]),
    )


def _log_lost(
    runtime: Runtime, attempt: _Attempt, task: Task, reason: str, outcome: _Outcome | None = None
) -> None:
    submission = outcome.submission if outcome is not None else None
    runtime.log.error(
        "task.submission_lost",
        task_id=task.id,
        request_id=attempt.request_id,
        upstream=task.route.upstream,
        upstream_task_id=submission.upstream_task_id if submission is not None else None,
        reason=reason,
    )
