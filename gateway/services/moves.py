"""Every move of a task, from whatever service: one transaction, then cache, metric and log line.

This is also the only place from which a hold is let go: in the transaction of the move that ends
its task, or later for a task that ended without evidence. A test sees to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.domain.attempts import Attempt
from gateway.domain.billing import (
    Evidence,
    Outcome,
    Reservation,
    Resolution,
    release,
    settle,
)
from gateway.domain.quotes import settled_usage
from gateway.domain.stored import strip_media_queries
from gateway.domain.tasks import TERMINAL, Bill, Event, Task, TaskState
from gateway.domain.views import task_object
from gateway.ports import Runtime
from gateway.services import notifying
from gateway.status_cache import Entry
from gateway.storage import attempts, balances, callbacks, idempotency, ledger, requests, tasks

if TYPE_CHECKING:
    from sqlalchemy import Connection

_NOTIFIED: Final = frozenset(
    {
        TaskState.QUEUED,
        TaskState.RUNNING,
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.EXPIRED,
    }
)
"""The states that a client's callback hears of; as with the vendor, `cancelled` is none."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move that is wanted. Without `evidence`, a hold stays even if the task ends by it."""

    before: Task
    after: Task
    event: Event
    evidence: Evidence | None = None
    is_charged: bool = False
    """Whether the hold is charged though the upstream showed no success."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was written."""

    task: Task
    resolution: Resolution | None = None
    reservation: Reservation | None = None


async def record_move(
    runtime: Runtime,
    before: Task,
    after: Task,
    event: Event,
    evidence: Evidence | None = None,
    *,
    is_charged: bool = False,
) -> Task | None:
    """Write the move and return the task as it is then; None if another worker was first."""
    move = Move(before, after, event, evidence, is_charged)
    moved = await runtime.db.write(apply_move, move, notifying.outbox_of(runtime))
    if moved is None:
        runtime.metrics.lost_races.add(event.value)
        runtime.log.info("task.race_lost", task_id=before.id, event_kind=event.value)
        return None
    task = moved.task
    show_move(runtime, task)
    runtime.metrics.task_transitions.add(before.state.value, task.state.value)
    if task.state in TERMINAL:
        duration_s = (task.updated_at_ms - task.created_at_ms) / 1000
        runtime.metrics.task_duration.observe(duration_s, task.family)
    runtime.log.info(
        "task.state_changed",
        task_id=task.id,
        project=task.project_id,
        key_id=task.key_id,
        upstream=task.route.upstream,
        family=task.family,
        from_state=before.state.value,
        to_state=task.state.value,
        code=task.error.code if task.error is not None else None,
    )
    _report_resolution(runtime, moved)
    return task


async def resolve_ended(
    runtime: Runtime,
    task: Task,
    evidence: Evidence,
    *,
    is_charged: bool,
    shown: Task | None = None,
) -> Task | None:
    """Resolve the hold of a task that ended without evidence. None if there is none to resolve.

    `shown` is the task as its upstream shows it, where that tells more: a success is settled on it.
    """
    now_ms = runtime.clock.now_ms()
    moved = await runtime.db.write(
        apply_resolution,
        task,
        evidence,
        now_ms,
        notifying.outbox_of(runtime),
        is_charged=is_charged,
        shown=shown,
    )
    if moved is None:
        return None
    runtime.status_cache.drop(task.id)
    _report_resolution(runtime, moved)
    return moved.task


def show_move(runtime: Runtime, task: Task) -> None:
    """Let clients see the task as it is now, and wake those who wait for it."""
    now_s = runtime.clock.monotonic_s()
    known, _ = runtime.status_cache.find(task.id, now_s)
    if known is None or task.state is TaskState.REJECTED:
        runtime.status_cache.drop(task.id)
    else:
        echo = known.echo
        if echo is not None and task.state in TERMINAL:
            echo = _strip_request(echo)
        runtime.status_cache.put(Entry(task, echo, now_s))


def apply_move(conn: "Connection", move: Move, outbox: notifying.Outbox) -> Moved | None:
    """One transaction: the compare-and-set, the hold's end, and what is told to whom.

    None, and nothing is written, if the task has moved on, or if it would be rejected though a
    client was told its id meanwhile.
    """
    after = move.after
    if move.event is Event.REFUSED:
        tasks.lock(conn, after.id)  # who gives the id to a client locks it, too
    attempt = attempts.find(conn, after.id)
    if move.event is Event.REFUSED and attempt is not None and attempt.is_id_given:
        return None
    reservation = resolution = None
    if after.state in TERMINAL:
        reservation = ledger.find_open(conn, after.id)
        resolution = _resolve(reservation, after, move.evidence, is_charged=move.is_charged)
        after = _with_bill(after, reservation, resolution)
    if not tasks.apply_transition(conn, move.before, after, move.event):
        return None
    _forget_claim(conn, attempt, after)
    body = _end_request(conn, after) if after.state in TERMINAL else None
    if after.state is TaskState.REJECTED:
        idempotency.free(conn, after.id)
    if reservation is not None and resolution is not None:
        _write_resolution(conn, after, reservation, resolution, outbox, tasks_count=-1)
    elif reservation is not None:
        balances.end_task(conn, reservation)
    if attempt is not None and attempt.callback_url is not None and after.state in _NOTIFIED:
        echo = body if after.state in TERMINAL else requests.find_body(conn, after.id)
        shown = dump_request(task_object(after, echo))
        notifying.add_callback(conn, after, attempt.callback_url, shown)
    if attempt is not None and attempt.callback_url is not None and after.state in TERMINAL:
        attempts.forget_callback_url(conn, after.id)  # what is yet to be delivered has it
    return Moved(after, resolution, reservation)


def apply_resolution(
    conn: "Connection",
    task: Task,
    evidence: Evidence,
    now_ms: int,
    outbox: notifying.Outbox,
    *,
    is_charged: bool,
    shown: Task | None = None,
) -> Moved | None:
    """One transaction: resolve the hold that an ended task still has, and show what it cost."""
    reservation = ledger.find_open(conn, task.id)
    resolution = _resolve(reservation, shown or task, evidence, is_charged=is_charged)
    if reservation is None or resolution is None or task.state not in TERMINAL:
        return None
    after = _with_bill(task, reservation, resolution)
    after = replace(after, updated_at_ms=max(now_ms, task.updated_at_ms))
    if not _write_resolution(conn, after, reservation, resolution, outbox):
        return None
    if after.bill is not None:
        tasks.put_bill(conn, after.id, after.bill)
    return Moved(after, resolution, reservation)


def _resolve(
    reservation: Reservation | None, after: Task, evidence: Evidence | None, *, is_charged: bool
) -> Resolution | None:
    """Return how the hold ends: a success is settled on its usage, anything else is released."""
    if reservation is None or evidence is None:
        return None
    if after.state is TaskState.SUCCEEDED:
        reported = settled_usage(after.fields or {}, reservation.held)
        return settle(reservation.price, reservation.held, reported, evidence)
    if is_charged:
        return settle(reservation.price, reservation.held, None, evidence)
    return release(evidence)


def _write_resolution(
    conn: "Connection",
    task: Task,
    reservation: Reservation,
    resolution: Resolution,
    outbox: notifying.Outbox,
    *,
    tasks_count: int = 0,
) -> bool:
    at_ms = task.updated_at_ms
    if not ledger.resolve(conn, reservation, resolution, at_ms, tasks_count=tasks_count):
        return False
    if resolution.outcome is Outcome.SETTLED:
        notifying.add_usage(conn, outbox, task, reservation, resolution)
    return True


def _with_bill(task: Task, reservation: Reservation | None, resolution: Resolution | None) -> Task:
    if reservation is None or resolution is None or resolution.outcome is not Outcome.SETTLED:
        return task
    price = reservation.price
    return replace(task, bill=Bill(resolution.cost_micros, price.cost_currency, price.version))


def _forget_claim(conn: "Connection", attempt: Attempt | None, task: Task) -> None:
    """Forget what a callback claimed, once it is known which upstream task it is."""
    claimed_task_id = attempt.claimed_task_id if attempt is not None else None
    if claimed_task_id is not None and task.upstream_task_id is not None:
        callbacks.drop_claim(conn, task.id, claimed_task_id)


def _end_request(conn: "Connection", task: Task) -> str | None:
    """Cut the queries of the request's media addresses; return the request as it is stored then.

    Such an address may be signed by its query: once the task has ended nobody needs that any more.
    """
    stored = requests.lock(conn, task.id)
    if stored is None:
        return None
    stripped = replace(stored, body=_strip_request(stored.body))
    requests.replace_body(conn, stripped)
    return stripped.body


def _report_resolution(runtime: Runtime, moved: Moved) -> None:
    """Count what was settled, and raise the alarms of estimates and overages."""
    resolution, reservation = moved.resolution, moved.reservation
    if resolution is None or reservation is None:
        return
    runtime.metrics.resolutions.add(resolution.outcome.value, resolution.evidence.kind.value)
    if resolution.outcome is not Outcome.SETTLED:
        return
    family, price = moved.task.family, reservation.price
    runtime.metrics.usage_tokens.add(family, count=resolution.usage.tokens)
    runtime.metrics.usage_seconds.add(family, count=resolution.usage.seconds)
    runtime.metrics.usage_videos.add(family, count=resolution.usage.videos)
    runtime.metrics.cost_micros.add(family, price.cost_currency, count=resolution.cost_micros)
    runtime.metrics.charge_micros.add(family, price.charge_currency, count=resolution.charge_micros)
    if resolution.is_estimated:
        runtime.metrics.estimated_settlements.add(family)
        runtime.log.error(
            "ledger.settlement_estimated",
            task_id=moved.task.id,
            upstream=moved.task.route.upstream,
            upstream_task_id=moved.task.upstream_task_id,
            charge_micros=resolution.charge_micros,
        )
    if resolution.charge_micros > reservation.hold_micros:
        runtime.metrics.overages.add(family)
        runtime.log.warning(
            "ledger.hold_exceeded",
            task_id=moved.task.id,
            hold_micros=reservation.hold_micros,
            charge_micros=resolution.charge_micros,
        )


def _strip_request(stored: str) -> str:
    return dump_request(strip_media_queries(json.loads(stored)))


def dump_request(stored: Mapping[str, object]) -> str:
    """Return the JSON text in which a normalized request is stored."""
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
