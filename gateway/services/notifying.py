"""Notifications: written to the outbox with the move they tell of, delivered at least once.

What is told is what the task was in that moment, so a receiver that was away learns every step, in
order as far as the attempts succeed, and each under an id of its own.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.domain.billing import Reservation, Resolution
from gateway.domain.projects import AuditEvent
from gateway.domain.tasks import Task
from gateway.domain.webhooks import (
    Notification,
    NotificationKind,
    NotificationState,
    SettledUsage,
    apply_result,
    redeliver,
    usage_event,
)
from gateway.errors import NotFound
from gateway.ports import Runtime
from gateway.storage import audit, notifications

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DAY_MS: Final = 86_400_000
_CLAIM_COUNT_MAX: Final = 100
_LEASE_MARGIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Outbox:
    """What moves need to know to write notifications."""

    usage_url: str | None
    usage_source: str


def outbox_of(runtime: Runtime) -> Outbox:
    settings = runtime.config.webhooks
    return Outbox(settings.usage_url, settings.usage_source)


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
            body=body.encode(),
            created_at_ms=task.updated_at_ms,
            next_attempt_at_ms=task.updated_at_ms,
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
    event = usage_event(
        SettledUsage(
            task_id=task.id,
            project=task.project_id,
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
            body=json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(),
            created_at_ms=task.updated_at_ms,
            next_attempt_at_ms=task.updated_at_ms,
        ),
    )


async def deliver_due(runtime: Runtime) -> int:
    """Attempt every notification that is due; return how many.

    A process that dies in between leaves its lease behind: the attempt is made again, under the
    same id.
    """
    settings = runtime.config.webhooks
    now_ms = runtime.clock.now_ms()
    lease_s = settings.timeout_s * (1 + _CLAIM_COUNT_MAX / settings.concurrency_max)
    due = await runtime.db.write(
        notifications.claim_due,
        now_ms,
        now_ms + int((lease_s + _LEASE_MARGIN_S) * 1000),
        _CLAIM_COUNT_MAX,
    )
    async with asyncio.TaskGroup() as group:
        for notification in due:
            group.create_task(_deliver(runtime, notification))
    return len(due)


async def _deliver(runtime: Runtime, notification: Notification) -> None:
    headers = {
        "content-type": notification.kind.content_type,
        **runtime.signer.headers(notification.id, notification.body, runtime.clock.now_ms()),
    }
    result = await runtime.webhooks.post(notification.url, notification.body, headers)
    tried = apply_result(
        notification, result, runtime.clock.now_ms(), runtime.random.uniform(-1, 1)
    )
    await runtime.db.write(notifications.record, tried)
    outcome = "delivered" if result.error is None else result.error.value
    runtime.metrics.webhook_deliveries.add(notification.kind.value, outcome)
    if tried.state is NotificationState.DEAD:
        runtime.log.error(
            "webhook.given_up",
            notification_id=tried.id,
            task_id=tried.task_id,
            attempt_count=tried.attempt_count,
            reason=outcome,
            status=result.status,
        )


async def sweep_notifications(runtime: Runtime) -> int:
    """Forget notifications that ended longer ago than they are kept; return how many."""
    days = runtime.config.webhooks.retention_days
    before_ms = runtime.clock.now_ms() - days * _DAY_MS
    count = 0
    while purged := await runtime.db.write(notifications.purge, before_ms, _CLAIM_COUNT_MAX):
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
    """Have a notification delivered once more, whatever became of it. Raises NotFound."""
    now_ms = runtime.clock.now_ms()
    event = AuditEvent(
        runtime.ids.new("evt", now_ms), now_ms, actor, "webhook.redelivered", notification_id
    )
    renewed = await runtime.db.write(_redeliver, notification_id, now_ms, event)
    if renewed is None:
        raise NotFound("There is no such notification.", param="id")
    return renewed


def _redeliver(
    conn: "Connection", notification_id: str, now_ms: int, event: AuditEvent
) -> Notification | None:
    found = notifications.find(conn, notification_id)
    if found is None:
        return None
    renewed = redeliver(found, now_ms)
    notifications.record(conn, renewed)
    audit.add(conn, event)
    return renewed
