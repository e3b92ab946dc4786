"""Submit: where money is spent.

The row of a task is committed as `reserved`, with its hold, before the first byte goes upstream,
and its outcome in a second transaction. A client that stays gets the upstream's own answer, or
after `submit.client_wait_s` its id.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.background import see_exception
from gateway.domain.content import count_chars
from gateway.domain.keys import Principal
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.tasks import Task, TaskState
from gateway.errors import (
    AccessDenied,
    Draining,
    Overloaded,
    Reconciling,
    StorageUnavailable,
)
from gateway.ports import P, Query, Runtime
from gateway.services import admitting
from gateway.services.auditing import refuse_if_doubtful
from gateway.services.notifying import check_callback_url
from gateway.services.sending import RETRY_DELAY_S, InFlight, record, refused, send
from gateway.status_cache import Entry
from gateway.storage import attempts, tasks
from gateway.storage.admission import Admission, Repeated

_NOTE_S_MAX: Final = 5.0
_NOT_SENT: Final = "The store did not answer in time; nothing was sent."

Warn = Callable[[Sequence[str]], None]
"""Takes the rules that a body breaks and that are only warned of, in a sentence each."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """What the client says of its request being the same one again."""

    idempotency_key: str | None = None
    is_retry: bool = False
    """Whether its SDK counts it as a retry."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit came to. `upstream_s` is the part of its duration spent upstream."""

    task: Task
    upstream_s: float = 0.0
    is_replayed: bool = False
    """Whether the task is that of an earlier request."""


def warn_nobody(messages: Sequence[str]) -> None:
    """Let warnings be: they are counted all the same."""


def refuse_if_closed(runtime: Runtime) -> None:
    """Raise if the process takes no submit now: also before a body is read for it.

    Raises: Draining, or Reconciling after a restore; LedgerDifference.
    """
    if runtime.lifecycle.is_draining:
        raise Draining("The gateway is stopping; send the request again.", retry_after_s=5)
    if runtime.lifecycle.is_reconciling:
        raise Reconciling(
            "The gateway compares its restored data with the upstream; try again later.",
            retry_after_s=30,
        )
    refuse_if_doubtful(runtime)


async def submit_task(
    runtime: Runtime,
    principal: Principal,
    body: Mapping[str, object],
    request_id: str,
    repeat: Repeat = Repeat(),
    *,
    warn: Warn = warn_nobody,
) -> Submitted:
    """Validate, reserve, send once, and return the task with its id.

    The task is queued, unknown (the answer was lost) or still reserved (the upstream is slow); a
    client sees all three as `queued`. What is warned of is told to `warn` before anything else is
    done, so that the client has it however the submit ends.

    Raises: a ClientFault before anything is stored, UpstreamRejected, UpstreamAccount or
    UpstreamUnavailable for a definite no, a GatewayFault if nothing was sent.
    """
    refuse_if_closed(runtime)
    request = await normalize_request(runtime, principal, body, warn)
    for warning in request.warnings:
        runtime.metrics.validation_warnings.add(warning.rule)
    # From the check to the start nothing is awaited: a burst can't pass the limit together.
    if runtime.background.active_count >= runtime.config.submit.in_flight_max:
        raise Overloaded("Too many submissions are in progress; try again.", retry_after_s=1)
    answer: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
    answer.add_done_callback(see_exception)
    flight = InFlight(principal, request_id, answer)
    runtime.background.start(_carry_out(runtime, flight, request, repeat))
    try:
        task = await _wait_for_client(runtime, flight)
    except asyncio.CancelledError:
        # The client hung up. Whoever repeats the request may have the task that comes of it.
        flight.has_client_left = True
        task_id = flight.task.id if flight.task is not None else flight.joined_task_id
        if task_id is not None:
            runtime.chores.start(note_delivery(runtime, task_id, is_delivered=False))
        raise
    upstream_s = flight.upstream_s
    if flight.call_began_s is not None:
        upstream_s += runtime.clock.monotonic_s() - flight.call_began_s
    return Submitted(task, upstream_s, flight.is_replayed)


async def normalize_request(
    runtime: Runtime, principal: Principal, body: Mapping[str, object], warn: Warn = warn_nobody
) -> NormalizedRequest:
    """Return the one form of `body`; where it holds much media data, made off the event loop.

    What is only warned of is told to `warn`.

    Raises: a ClientFault for what can't be taken, also a callback address that can never be called,
    AccessDenied for a model the key may not use.
    """
    arguments = (body, runtime.catalog, runtime.config.validation.make_policy())
    if count_chars(body.get("content")) > runtime.config.server.body_inline_bytes_max:
        request = await asyncio.to_thread(normalize, *arguments)
    else:
        request = normalize(*arguments)
    if request.callback_url is not None:
        check_callback_url(runtime, request.callback_url)
    if not principal.may_use(request.model):
        raise AccessDenied(f"This API key may not use the model {request.model}.", param="model")
    if request.warnings:
        warn([warning.message for warning in request.warnings])
    return request


async def note_delivery(runtime: Runtime, task_id: str, is_delivered: bool) -> None:  # noqa: FBT001 - it is told so
    """Record whether the client has its id: if so, an identical request is a new wish."""
    note = attempts.note_answered if is_delivered else attempts.note_client_left
    await _note(runtime, task_id, note, task_id)


async def _note(
    runtime: Runtime, task_id: str, note: Query[P, object], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Record where a client is; tried again for a while if the store does not take it.

    Where that is lost, a request of one that left may be made twice, and that of another, which is
    equal to one that was answered, may be taken for the same.
    """
    deadline_s = runtime.clock.monotonic_s() + _NOTE_S_MAX
    while True:
        try:
            await runtime.db.write(note, *args, **kwargs)
        except StorageUnavailable as error:
            if runtime.clock.monotonic_s() >= deadline_s:
                runtime.log.warning("task.note_lost", task_id=task_id, exc_info=error)
                return
        else:
            return
        await runtime.clock.sleep(RETRY_DELAY_S)


async def _wait_for_client(runtime: Runtime, flight: InFlight) -> Task:
    """Return the outcome, or the reserved task once the client has waited long enough."""
    try:
        async with asyncio.timeout(runtime.config.submit.client_wait_s):
            return await asyncio.shield(flight.answer)
    except TimeoutError:
        if flight.answer.done() or flight.is_refused:
            return await asyncio.shield(flight.answer)
        if flight.task is None:
            flight.is_withdrawn = True
            raise StorageUnavailable(_NOT_SENT) from None
        flight.is_id_given = True
        return flight.task


async def _carry_out(
    runtime: Runtime, flight: InFlight, request: NormalizedRequest, repeat: Repeat
) -> None:
    """Reserve, send and record, whoever still waits for it."""
    try:
        admission, parcel = await admitting.prepare(
            runtime,
            flight.principal,
            request,
            idempotency_key=repeat.idempotency_key,
            is_retry=repeat.is_retry,
        )
    except Exception as error:  # noqa: BLE001 - the request tells its client
        flight.tell(error)
        return
    task = admission.task
    try:
        repeated = await _admit(runtime, flight, request, admission)
    except Exception as error:  # noqa: BLE001 - as above; the row may be there all the same
        flight.tell(error)
        if not isinstance(error, StorageUnavailable):
            return
        flight.is_withdrawn = True
        if admission.claim is None:  # it may have taken the place of a client that was gone
            attempt = admission.attempt
            await _note(
                runtime,
                task.id,
                attempts.leave_joined,
                key_id=attempt.key_id,
                fingerprint=attempt.fingerprint,
                owner=attempt.owner,
            )
    else:
        if repeated is not None:
            flight.tell(repeated)
            return
    if flight.is_withdrawn:
        outcome = refused(StorageUnavailable(_NOT_SENT))
    else:
        flight.task = task
        if flight.has_client_left:
            await note_delivery(runtime, task.id, is_delivered=False)
        outcome = await send(runtime, flight, task, request, parcel)
    del request  # it may hold megabytes, and the record may take its time
    flight.is_refused = outcome.refusal is not None and not flight.is_id_given
    await record(runtime, flight, task, outcome)


async def _admit(
    runtime: Runtime, flight: InFlight, request: NormalizedRequest, admission: Admission
) -> Task | None:
    """Commit the reserved task with its hold; or return the task that the request repeats.

    Raises: what `admitting.refuse` says of a refusal, StorageUnavailable.
    """
    while True:
        bounds = admitting.bounds_of(runtime, runtime.clock.now_ms())
        verdict = await runtime.db.write(admitting.admit, admission, runtime.config, bounds)
        if verdict is None:
            now_s = runtime.clock.monotonic_s()
            runtime.status_cache.put(Entry(admission.task, admission.stored_request, now_s))
            return None
        if not isinstance(verdict, Repeated):
            raise admitting.refuse(runtime, verdict, request, admission.reservation)
        flight.is_replayed = True
        if not verdict.is_by_key:
            flight.joined_task_id = verdict.task_id
            if flight.has_client_left:  # the next one may take its place
                await note_delivery(runtime, verdict.task_id, is_delivered=False)
        task = await _await_repeated(runtime, verdict.task_id)
        if task is not None:
            return task
        flight.is_replayed = False  # it was refused, and stored nothing: this one counts
        flight.joined_task_id = None


async def _await_repeated(runtime: Runtime, task_id: str) -> Task | None:
    """Return the earlier request's task, as soon as its outcome is known, or after a short wait.

    None if it was refused meanwhile.
    """
    deadline_s = runtime.clock.monotonic_s() + runtime.config.submit.replay_wait_s
    cache = runtime.status_cache
    while True:
        generation = cache.generation
        stored = await runtime.db.read(tasks.find, task_id)
        if stored is None or stored.task.state is TaskState.REJECTED:
            return None
        now_s = runtime.clock.monotonic_s()
        if stored.task.state is not TaskState.RESERVED or now_s >= deadline_s:
            break
        known, _ = cache.find(task_id, now_s)
        has_moved = known is not None and known.task.version > stored.task.version
        # What changed while it was read woke nobody: it is read again, not waited for. Another
        # process's outcome is seen by the watch, which drops the entry and wakes us.
        is_current = not has_moved and generation == cache.generation
        project_id = stored.task.project_id
        if is_current and not await cache.wait(task_id, deadline_s - now_s, project_id):
            break  # the time is over, or too many wait
    if await runtime.db.write(attempts.give_id, task_id) is None:
        return None
    return stored.task
