"""A client whose tasks go on as a test says, and what receivers are told of them."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task
from gateway.domain.webhooks import (
    Notification,
    NotificationKind,
)
from gateway.ports import Runtime
from gateway.runtime import webhook_secrets
from gateway.services import admin, notifying
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.raw_upstream import RawConnection, RawRequest, RawUpstream
from tests.support.receiver import Receiver

MODEL = "doubao-seedance-1-0-pro-250528"
USED = {"completion_tokens": 49_005, "total_tokens": 49_005}
SUCCEEDED = Observation(
    "succeeded", {"content": {"video_url": "https://videos.example/1.mp4"}, "usage": USED}
)
RUNNING = Observation("running", {})
LEASE_S = 40.0
"""Longer than any attempt is leased for."""

OpenRuntime = Callable[..., AbstractAsyncContextManager[Runtime]]


@dataclass
class Client:
    """Submits tasks and lets them go on."""

    runtime: Runtime
    upstream: FakeUpstream
    clock: FakeClock
    principal: Principal
    made: list[str] = field(default_factory=list)

    async def submit(self, callback_url: str | None = None) -> str:
        body: dict[str, object] = {
            "model": MODEL,
            "content": [{"type": "text", "text": "a fox --resolution 480p --duration 5"}],
        }
        if callback_url is not None:
            body["callback_url"] = callback_url
        task_id = (await submit_task(self.runtime, self.principal, body, "req")).task.id
        await self.runtime.background.drain()
        self.made.append(task_id)
        return task_id

    async def show(self, task_id: str, observation: Observation) -> Task:
        """Let the upstream show the task like this, and look at it."""
        task = await self.task(task_id)
        assert task.upstream_task_id is not None
        self.upstream.shown[task.upstream_task_id] = observation
        self.clock.advance(60)
        await observe_due(self.runtime, self.upstream, "default")
        return await self.task(task_id)

    async def finish(self, callback_url: str | None = None) -> str:
        task_id = await self.submit(callback_url)
        await self.show(task_id, SUCCEEDED)
        return task_id

    async def task(self, task_id: str) -> Task:
        stored = await self.runtime.db.read(tasks.find, task_id)
        assert stored is not None
        return stored.task


async def connect(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> Client:
    created = await admin.create_key(runtime, "test", "default")
    principal = Principal(created.project.id, created.record.id)
    return Client(runtime, upstream, clock, principal)


async def deliver(runtime: Runtime, *kinds: NotificationKind) -> int:
    return sum([await notifying.deliver_due(runtime, kind) for kind in kinds or NotificationKind])


async def outbox(runtime: Runtime, **chosen: Any) -> list[Notification]:
    """Return all notifications, in the order in which they were written."""
    return list(await notifying.list_notifications(runtime, 10_000, **chosen))[::-1]


def secret_of(runtime: Runtime) -> str:
    (secret,) = webhook_secrets(runtime.config, runtime.pepper)
    return secret.get_secret_value()


def statuses(receiver: Receiver) -> list[object]:
    return [json.loads(delivery.body)["status"] for delivery in receiver.deliveries]


def assert_signed(delivery: RawRequest, secret: str) -> None:
    """The same as the reference library's verification, which only takes what is fresh."""
    message_id, at_s = delivery.header("webhook-id"), delivery.header("webhook-timestamp")
    assert message_id is not None
    assert at_s is not None
    moment = datetime.fromtimestamp(int(at_s), UTC)
    due = Webhook(secret).sign(message_id, moment, delivery.body.decode())
    assert delivery.header("webhook-signature") == due


@asynccontextmanager
async def silent_receivers(count: int) -> AsyncIterator[list[RawUpstream]]:
    """Receivers that take a message and never answer."""

    async def hold(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()

    receivers = [RawUpstream(hold) for _ in range(count)]
    for each in receivers:
        await each.__aenter__()
    try:
        yield receivers
    finally:
        for each in receivers:
            await each.__aexit__(None, None, None)
