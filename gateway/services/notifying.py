"""Notifications: written to the outbox with the move they tell of, delivered at least once.

What is told is what the task was in that moment, so a receiver that was away learns every step,
each under an id of its own. Callbacks of one task are attempted in order; one that has failed a few
times lets those after it pass.

Callbacks and usage events are two queues, each with places and connections of its own, and in a
queue receivers that don't answer keep nobody waiting, see gateway/places.py.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.domain.billing import Reservation, Resolution
from gateway.domain.projects import AuditEvent
from gateway.domain.refusals import refuse
from gateway.domain.tasks import Task
from gateway.domain.webhooks import (
    AT_ONCE_MS,
    WAIT_MS_MAX,
    DeliveryError,
    Notification,
    NotificationKind,
    NotificationState,
    SettledUsage,
    apply_result,
    redeliver,
    usage_event,
)
from gateway.errors import InvalidRequest, NotFound, StorageUnavailable
from gateway.ports import Runtime
from gateway.storage import audit, notifications, projects

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DAY_MS: Final = 86_400_000
_ROWS_PER_BATCH: Final = 200
_RECEIVERS_MAX: Final = 500
"""Receivers looked at in one pass; the next one goes on behind them."""
_LEASE_MARGIN_S: Final = 20.0
_RECORD_S_MAX: Final = 10.0
_RECORD_AGAIN_S: Final = 0.5
_PASS_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Outbox:
    """What moves need to know to write notifications."""

    usage_url: str | None
    usage_source: str


def outbox_of(runtime: Runtime) -> Outbox:
    settings = runtime.config.webhooks
    return Outbox(settings.usage_url, settings.usage_source)


def check_callback_url(runtime: Runtime, url: str) -> None:
    """Raise InvalidRequest, naming `callback_url`, for one to which nothing can ever be delivered.

    The delivery's own rules say so. Where a name leads is seen when the connection is made.
    """
    match runtime.webhooks[NotificationKind.CALLBACK].find_flaw(url):
        case None:
            return
        case DeliveryError.SCHEME_REFUSED:
            problem = "the scheme http is given, https is allowed"
        case DeliveryError.URL_REFUSED:
            problem = (
                "the URL's address is not public, allowed are host names, public addresses and "
                "the networks of the setting webhooks.allow_private"
            )
        case _:
            problem = (
                "the URL can't be called, allowed are a plain http or https URL, in it a host name "
                "or an address such as 192.0.2.7 or [2001:db8::7], and a port of 1 to 65535"
            )
    raise refuse("callback_url", problem)


def add_callback(conn: "Connection", task: Task, url: str, body: str) -> None:
    """Write what the client's callback address is to be told of the task as it is now."""
    notifications.add(
        conn,
        Notification(
            # A version of a task is told once.
            id=f"msg_{task.id}_{task.version}",
            task_id=task.id,
            kind=NotificationKind.CALLBACK,
            url=url,
            # As a status read does it, should an upstream have sent half a character.
            body=body.encode(errors="replace"),
            created_at_ms=task.updated_at_ms,
            next_attempt_at_ms=AT_ONCE_MS,
        ),
    )


def add_usage(
    conn: "Connection",
    outbox: Outbox,
    task: Task,
    reservation: Reservation,
    resolution: Resolution,
) -> None:
    """Write the usage event of a settlement, if there is a sink."""
    if outbox.usage_url is None:
        return
    price, usage = reservation.price, resolution.usage
    project = projects.find(conn, task.project_id)
    event = usage_event(
        SettledUsage(
            task_id=task.id,
            project=task.project_id,
            project_name=project.name if project is not None else task.project_id,
            key=task.key_id,
            model=task.model,
            family=task.family,
            tokens=usage.tokens,
            seconds=usage.seconds,
            videos=usage.videos,
            cost_micros=resolution.cost_micros,
            cost_currency=price.cost_currency,
            charge_micros=resolution.charge_micros,
            currency=price.charge_currency,
            price_version=price.version,
            is_estimated=resolution.is_estimated,
            submitted_at_ms=reservation.at_ms,
            settled_at_ms=task.updated_at_ms,
        ),
        outbox.usage_source,
    )
    notifications.add(
        conn,
        Notification(
            id=f"use_{task.id}",
            task_id=task.id,
            kind=NotificationKind.USAGE,
            url=outbox.usage_url,
            body=json.dumps(event, separators=(",", ":")).encode(),
            created_at_ms=task.updated_at_ms,
            next_attempt_at_ms=AT_ONCE_MS,
        ),
    )


def loop_name(kind: NotificationKind) -> str:
    """Return what metrics call the loop that delivers this kind."""
    return f"deliver:{kind.value}"


async def deliver_due(runtime: Runtime, kind: NotificationKind) -> int:
    """Attempt what is due and what gets due meanwhile; return how many, once none is in progress.

    A process that dies in between leaves its leases behind: those attempts are made again, under
    the same ids.
    """
    places = runtime.places[kind]
    ended = asyncio.Event()
    count = 0
    async with asyncio.TaskGroup() as group:
        while True:
            ended.clear()
            try:
                begun = await _claim(runtime, kind)
            except StorageUnavailable:
                if not places.taken_count:
                    raise
                begun = ()  # those in progress are not cut short
            for notification in begun:
                places.take(notification.receiver)
                group.create_task(_deliver(runtime, notification, ended))
            count += len(begun)
            if not places.taken_count:
                return count
            runtime.metrics.loop_last_success.set(runtime.clock.now_ms() / 1000, loop_name(kind))
            with suppress(TimeoutError):
                async with asyncio.timeout(_PASS_S):
                    await ended.wait()


async def _claim(runtime: Runtime, kind: NotificationKind) -> Sequence[Notification]:
    """Lease as much of what is due as there are places for."""
    places = runtime.places[kind]
    now_ms = runtime.clock.now_ms()
    waiting = await runtime.db.read(
        notifications.find_waiting, kind, now_ms, places.last_served, _RECEIVERS_MAX
    )
    granted = places.grant(waiting)
    if not granted:
        if len(waiting) == _RECEIVERS_MAX:
            places.last_served = waiting[-1]
        return ()
    places.last_served = list(granted)[-1]
    lease_s = runtime.config.webhooks.timeout_s + _LEASE_MARGIN_S
    return await runtime.db.write(
        notifications.claim_due, kind, granted, now_ms, now_ms + int(lease_s * 1000)
    )


async def _deliver(runtime: Runtime, notification: Notification, ended: asyncio.Event) -> None:
    is_delivered = False
    try:
        is_delivered = await _attempt(runtime, notification)
    finally:
        runtime.places[notification.kind].give_back(
            notification.receiver, is_delivered=is_delivered
        )
        ended.set()


async def _attempt(runtime: Runtime, notification: Notification) -> bool:
    """Post once and record what came of it; return whether it was delivered."""
    headers = {
        "content-type": notification.kind.content_type,
        **runtime.signer.headers(notification.id, notification.body, runtime.clock.now_ms()),
    }
    client = runtime.webhooks[notification.kind]
    result = await client.post(_url_of(runtime, notification), notification.body, headers)
    now_ms = runtime.clock.now_ms()
    tried = apply_result(notification, result, now_ms, runtime.random.uniform(-1, 1))
    outcome = "delivered" if result.error is None else result.error.value
    runtime.metrics.webhook_deliveries.add(notification.kind.value, outcome)
    if not await _record(runtime, notification, tried, now_ms):
        return result.is_delivered
    if tried.state is NotificationState.DEAD:
        runtime.log.error(
            "webhook.given_up",
            notification_id=tried.id,
            task_id=tried.task_id,
            attempt_count=tried.attempt_count,
            reason=outcome,
            status=result.status,
        )
    return result.is_delivered


def _url_of(runtime: Runtime, notification: Notification) -> str:
    """Return where to post: to the sink as it is configured now, should it have moved."""
    if notification.kind is NotificationKind.USAGE:
        return runtime.config.webhooks.usage_url or notification.url
    return notification.url


async def _record(runtime: Runtime, before: Notification, after: Notification, now_ms: int) -> bool:
    """Store an attempt, however often the store has to be asked before the lease ends.

    False if another process told of one meanwhile. Raises: StorageUnavailable.
    """
    deadline_s = runtime.clock.monotonic_s() + _RECORD_S_MAX
    while True:
        try:
            return await runtime.db.write(notifications.record, before, after, now_ms)
        except StorageUnavailable:
            if runtime.clock.monotonic_s() >= deadline_s:
                raise
        await runtime.clock.sleep(_RECORD_AGAIN_S)


async def sweep_notifications(runtime: Runtime) -> int:
    """Forget notifications that ended longer ago than they are kept; return how many."""
    now_ms = runtime.clock.now_ms()
    await runtime.db.write(notifications.rescue, now_ms, now_ms + WAIT_MS_MAX)
    before_ms = now_ms - runtime.config.webhooks.retention_days * _DAY_MS
    count = 0
    while purged := await runtime.db.write(notifications.purge, before_ms, _ROWS_PER_BATCH):
        count += purged
    return count


async def measure_notifications(runtime: Runtime) -> None:
    """Bring the gauge of undelivered notifications up to date."""
    counts = await runtime.db.read(notifications.count_by_state)
    runtime.metrics.notifications.values = {(key.value,): count for key, count in counts.items()}


async def list_notifications(
    runtime: Runtime,
    limit: int,
    *,
    state: NotificationState | None = None,
    task_id: str | None = None,
) -> Sequence[Notification]:
    """Return the newest notifications."""
    return await runtime.db.read(notifications.list_newest, limit, state=state, task_id=task_id)


async def redeliver_one(runtime: Runtime, actor: str, notification_id: str) -> Notification:
    """Have a notification delivered once more, whatever became of it.

    Raises: NotFound, InvalidRequest if it was erased.
    """
    now_ms = runtime.clock.now_ms()
    event = AuditEvent(
        runtime.ids.new("evt", now_ms), now_ms, actor, "webhook.redelivered", notification_id
    )
    renewed = await runtime.db.write(_redeliver, notification_id, now_ms, event)
    if renewed is None:
        raise NotFound("There is no such notification.", param="id")
    if renewed.is_erased:
        raise InvalidRequest("The notification was erased with its task's request.", param="id")
    return renewed


async def redeliver_dead(runtime: Runtime, actor: str, kind: NotificationKind | None) -> int:
    """Have all that were given up delivered once more, or those of one kind; return how many."""
    now_ms = runtime.clock.now_ms()
    subject = "dead" if kind is None else f"dead {kind.value}"
    event = AuditEvent(
        runtime.ids.new("evt", now_ms), now_ms, actor, "webhook.redelivered", subject
    )
    await runtime.db.write(audit.add, event)
    count, after_id = 0, ""
    while dead := await runtime.db.read(notifications.list_dead, kind, after_id, _ROWS_PER_BATCH):
        await runtime.db.write(_renew, [redeliver(each, now_ms) for each in dead])
        count, after_id = count + len(dead), dead[-1].id
    return count


def _redeliver(
    conn: "Connection", notification_id: str, now_ms: int, event: AuditEvent
) -> Notification | None:
    found = notifications.find(conn, notification_id)
    if found is None or found.is_erased:
        return found
    renewed = redeliver(found, now_ms)
    notifications.renew(conn, renewed)
    audit.add(conn, event)
    return renewed


def _renew(conn: "Connection", renewed: Sequence[Notification]) -> None:
    for notification in renewed:
        notifications.renew(conn, notification)
