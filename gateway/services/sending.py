"""Sending the paid POST, and recording what came of it.

The upstream call runs in a task of its own: a client that hangs up changes nothing. Its outcome is
the second transaction of a submit; while the store refuses that, the outcome is in the journal.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.attempts import ListedTask, Markers
from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Event, Task, TaskError, TaskState, advance
from gateway.errors import (
    GatewayError,
    StorageUnavailable,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.ports import JournalEntry, Runtime, Submission
from gateway.services.late_orphans import record_late
from gateway.services.moves import record_move
from gateway.services.observing import schedule_look, upstream_of
from gateway.storage import attempts, tasks

RETRY_DELAY_S: Final = 0.2
RETRY_DELAY_S_MAX: Final = 5.0
_WITHDRAWN_S_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What evidence there is of a submission: accepted, lost, or refused for this reason."""

    event: Event
    submission: Submission | None = None
    error: TaskError | None = None
    evidence: Evidence | None = None
    refusal: GatewayError | None = None
    """What a client that still waits is told."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes upstream besides the request."""

    markers: Markers
    callback_url: str | None = None
    draft_task_id: str | None = None


@dataclass(slots=True)
class InFlight:
    """One submission in progress, shared by the request that waits and the work that goes on.

    Either the client is given its id before the outcome is known, or it gets the outcome itself.
    What decides that is set without an await in between, so the two can't both happen.
    """

    principal: Principal
    request_id: str
    answer: "asyncio.Future[Task]"
    """What the client is told: its task, or why there is none."""
    task: Task | None = None
    is_id_given: bool = False
    is_withdrawn: bool = False
    is_refused: bool = False
    has_client_left: bool = False
    is_replayed: bool = False
    joined_task_id: str | None = None
    """The task of the client whose place this one has taken."""
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


async def send(
    runtime: Runtime, flight: InFlight, task: Task, request: NormalizedRequest, parcel: Parcel
) -> Outcome:
    """Send the paid POST and return what came of it."""
    try:
        submission = await _send_until_it_leaves(runtime, flight, task, request, parcel)
    except UpstreamAmbiguous as error:
        _log_lost(runtime, flight, task, "; ".join([error.message, *_notes_of(error)]))
        return Outcome(Event.LOST)
    except GatewayError as error:
        if isinstance(error, UpstreamAccount):
            _log_account(runtime, flight, task, error)
        return refused(error)
    except Exception as error:  # a defect of ours, after which bytes may have left
        runtime.log.exception("task.submission_lost", task_id=task.id, exc_info=error)
        return Outcome(Event.LOST)
    return Outcome(Event.ACCEPTED, submission=submission)


def refused(error: GatewayError) -> Outcome:
    """Return the outcome of a definite no, or of what was never sent."""
    is_answered = isinstance(error, UpstreamRejected | UpstreamAccount)
    kind = EvidenceKind.REJECTED if is_answered else EvidenceKind.NOT_SENT
    return Outcome(
        Event.REFUSED,
        error=TaskError(error.public_code, error.message),
        evidence=Evidence(kind, error.public_code),
        # Its traceback's frames hold the flight, and the flight will hold the refusal: that ring
        # would keep the request in memory until garbage is collected.
        refusal=error.with_traceback(None),
    )


async def _send_until_it_leaves(
    runtime: Runtime, flight: InFlight, task: Task, request: NormalizedRequest, parcel: Parcel
) -> Submission:
    """Send the request, again only where the transport proves that no byte left."""
    upstream = upstream_of(runtime, task)
    retries_left = runtime.config.submit.not_sent_retries_max
    delay_s = RETRY_DELAY_S
    while True:
        flight.call_began_s = runtime.clock.monotonic_s()
        try:
            return await upstream.submit(
                task.route.credential,
                task.route.deployment,
                request,
                draft_task_id=parcel.draft_task_id,
                attempt_id=task.id,
                markers=parcel.markers,
                callback_url=parcel.callback_url,
            )
        except UpstreamUnavailable:
            if retries_left == 0:
                raise
        finally:
            flight.upstream_s += runtime.clock.monotonic_s() - flight.call_began_s
            flight.call_began_s = None
        retries_left -= 1
        await runtime.clock.sleep(delay_s * (1 + runtime.random.random()))
        delay_s *= 2


async def record(runtime: Runtime, flight: InFlight, task: Task, outcome: Outcome) -> None:
    """Commit the outcome and tell the client.

    While the store refuses, the commit is tried again: an id that was paid for is not let go. It is
    in the journal then, too, for the next process. The client does not wait for that: it gets its
    id, or the refusal, which is true all the same.
    """
    limit_s = runtime.config.submit.outcome_s_max
    if flight.is_withdrawn:  # nothing was sent: what is left of it may as well be swept
        limit_s = min(limit_s, _WITHDRAWN_S_MAX)
    deadline_s = runtime.clock.monotonic_s() + limit_s
    delay_s = RETRY_DELAY_S
    journaled: JournalEntry | None = None
    while True:
        try:
            moved = await _record_once(runtime, flight, task, outcome)
        except StorageUnavailable:
            if journaled is None and not flight.is_withdrawn:
                journaled = await _write_journal(runtime, flight, task, outcome)
            flight.tell(outcome.refusal or task)
        except Exception as error:  # such as an id that the upstream gave to another task, too
            runtime.log.exception("task.submission_lost", task_id=task.id, exc_info=error)
            if outcome.event is not Event.ACCEPTED:
                flight.tell(outcome.refusal or task)
                return
            _log_lost(runtime, flight, task, "The outcome can't be stored.", outcome)
            outcome = Outcome(Event.LOST)
        else:
            flight.tell(outcome.refusal or moved)
            if journaled is not None:
                await runtime.journal.forget([journaled])
            return
        if runtime.clock.monotonic_s() >= deadline_s:
            _log_lost(runtime, flight, task, "The store did not take the outcome.", outcome)
            return
        await runtime.clock.sleep(delay_s)
        delay_s = min(delay_s * 2, RETRY_DELAY_S_MAX)


async def _record_once(runtime: Runtime, flight: InFlight, task: Task, outcome: Outcome) -> Task:
    moved, is_known = await apply_outcome(runtime, task, outcome, is_id_given=flight.is_id_given)
    if not is_known and outcome.event is not Event.REFUSED:
        _log_lost(runtime, flight, task, "The task's row is gone.", outcome)
    return moved


async def apply_outcome(
    runtime: Runtime, task: Task, outcome: Outcome, *, is_id_given: bool
) -> tuple[Task, bool]:
    """Move the task by the outcome, also if it was given up as lost meanwhile.

    Return it as it is then, and whether its row is there at all. Raises: StorageUnavailable.
    """
    while (event := _event_in(task.state, outcome, is_id_given=is_id_given)) is not None:
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
        if outcome.error is not None:
            moved = replace(moved, error=outcome.error)
        written = await record_move(runtime, task, moved, event, outcome.evidence)
        if written is not None:
            return written, True
        stored = await runtime.db.read(tasks.find, task.id)
        attempt = await runtime.db.read(attempts.find, task.id)
        if stored is None or attempt is None:  # never admitted, or lost with the store
            return task, False
        task, is_id_given = stored.task, is_id_given or attempt.is_id_given
    if outcome.submission is not None and task.upstream_task_id is None:
        # It was given up before the answer came: nothing reopens it.
        upstream_task_id = outcome.submission.upstream_task_id
        await record_late(runtime, task, ListedTask(upstream_task_id, None, status="queued"))
    return task, True


def _event_in(state: TaskState, outcome: Outcome, *, is_id_given: bool) -> Event | None:
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


async def _write_journal(
    runtime: Runtime, flight: InFlight, task: Task, outcome: Outcome
) -> JournalEntry | None:
    """Keep the outcome outside the store, as well as the disk allows."""
    submission = outcome.submission
    entry = JournalEntry(
        task_id=task.id,
        event=outcome.event,
        at_ms=runtime.clock.now_ms(),
        upstream_task_id=submission.upstream_task_id if submission is not None else None,
        upstream_request_id=submission.upstream_request_id if submission is not None else None,
        error=outcome.error,
    )
    try:
        await runtime.journal.append(entry)
    except StorageUnavailable as unavailable:
        _log_lost(runtime, flight, task, unavailable.message, outcome)
        return None
    return entry


def _notes_of(error: Exception) -> Sequence[str]:
    """Return what the adapter noted for operators, beside the words for clients."""
    return getattr(error, "__notes__", ())


def _log_account(runtime: Runtime, flight: InFlight, task: Task, error: UpstreamAccount) -> None:
    runtime.log.error(
        "upstream.account_refused",
        task_id=task.id,
        request_id=flight.request_id,
        upstream=task.route.upstream,
        credential=task.route.credential,
        reason="; ".join([error.message, *_notes_of(error)]),
    )


def _log_lost(
    runtime: Runtime, flight: InFlight, task: Task, reason: str, outcome: Outcome | None = None
) -> None:
    submission = outcome.submission if outcome is not None else None
    runtime.log.error(
        "task.submission_lost",
        task_id=task.id,
        request_id=flight.request_id,
        upstream=task.route.upstream,
        upstream_task_id=submission.upstream_task_id if submission is not None else None,
        reason=reason,
    )
