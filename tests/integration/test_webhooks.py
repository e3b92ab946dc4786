"""What other servers are told: by the real store, over real sockets, to a receiver that answers."""

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from gateway.cli.main import main
from gateway.clock import SystemClock
from gateway.config import Config
from gateway.config_money import WebhooksConfig
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task, TaskError
from gateway.domain.webhooks import (
    ATTEMPTS_MAX,
    DeliveryError,
    Notification,
    NotificationKind,
    NotificationState,
    generate_secret,
)
from gateway.errors import (
    ConfigurationError,
    NotFound,
    StorageUnavailable,
    UpstreamRejected,
)
from gateway.observability.logging import open_logger
from gateway.ports import Change, Database, P, Query, Runtime, T
from gateway.runtime import open_runtime, webhook_secrets
from gateway.services import admin, notifying
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import notifications, tasks
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import run_loops
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.raw_upstream import RawConnection, RawRequest, RawUpstream
from tests.support.receiver import Receiver, answer, verify
from tests.support.stored import a_task
from tests.support.waiting import eventually

CALLBACK, USAGE = NotificationKind.CALLBACK, NotificationKind.USAGE
MODEL = "doubao-seedance-1-0-pro-250528"
USED = {"completion_tokens": 49_005, "total_tokens": 49_005}
SUCCEEDED = Observation(
    "succeeded", {"content": {"video_url": "https://videos.example/1.mp4"}, "usage": USED}
)
RUNNING = Observation("running", {})
LEASE_S = 40.0

OpenRuntime = Callable[..., AbstractAsyncContextManager[Runtime]]


@pytest.fixture
def clock() -> FakeClock:
    """The time that it really is, since receivers want signatures to be fresh."""
    return FakeClock(SystemClock().now_ms())


@pytest.fixture
def open_again(
    config: Config, clock: FakeClock, upstream: FakeUpstream, log_stream: io.StringIO
) -> OpenRuntime:
    """Open what is in the data folder, as a start of the program does."""

    @asynccontextmanager
    async def open_again(**webhooks: Any) -> AsyncIterator[Runtime]:
        settings = {"allow_private": ("127.0.0.0/8",), "timeout_s": 5.0, **webhooks}
        async with open_runtime(
            config.model_copy(update={"webhooks": WebhooksConfig(**settings)}),
            environ={"FAKE_CREDENTIAL": "upstream-canary-credential"},
            clock=clock,
            log=open_logger("debug", "json", log_stream),
        ) as opened:
            ready = replace(opened, upstreams={"fake": upstream})
            await admin.ensure_default_project(ready)
            yield ready

    return open_again


@pytest.fixture
async def runtime(open_again: OpenRuntime) -> AsyncIterator[Runtime]:
    async with open_again() as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


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


@pytest.fixture
async def client(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> Client:
    return await connect(runtime, upstream, clock)


async def deliver(runtime: Runtime, *kinds: NotificationKind) -> int:
    return sum([await notifying.deliver_due(runtime, kind) for kind in kinds or (CALLBACK, USAGE)])


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


async def test_each_status_change_is_told_signed_with_the_task_as_it_was_then(
    client: Client, receiver: Receiver, runtime: Runtime
) -> None:
    task_id = await client.submit(receiver.url)
    await deliver(runtime)
    await client.show(task_id, RUNNING)
    await deliver(runtime)
    ended = await client.show(task_id, SUCCEEDED)
    await deliver(runtime)

    assert statuses(receiver) == ["queued", "running", "succeeded"]
    message_ids = [delivery.header("webhook-id") for delivery in receiver.deliveries]
    assert len(set(message_ids)) == 3
    for delivery in receiver.deliveries:
        assert delivery.header("content-type") == "application/json"
        assert_signed(delivery, secret_of(runtime))
    assert json.loads(receiver.deliveries[-1].body) == {
        "id": task_id,
        "model": MODEL,
        "status": "succeeded",
        "content": {"video_url": "https://videos.example/1.mp4"},
        "usage": USED,
        "created_at": ended.created_at_ms // 1000,
        "updated_at": ended.updated_at_ms // 1000,
        "gateway": {
            "cost_micros": ended.bill.cost_micros if ended.bill else None,
            "currency": "CNY",
            "price_version": ended.bill.price_version if ended.bill else None,
        },
    }
    assert await deliver(runtime) == 0, "each is told once"


async def test_the_reference_library_verifies_what_is_fresh(
    client: Client, receiver: Receiver, runtime: Runtime
) -> None:
    task_id = await client.submit(receiver.url)
    await deliver(runtime)

    (message,) = receiver.messages(secret_of(runtime))

    assert isinstance(message, dict)
    assert message["id"] == task_id


async def test_an_upstreams_own_id_and_half_a_character_reach_nobody(
    client: Client, receiver: Receiver, runtime: Runtime
) -> None:
    task_id = await client.submit(receiver.url)
    await client.show(task_id, replace(SUCCEEDED, fields={"note": "half \ud83d", "usage": USED}))
    await deliver(runtime)

    last = receiver.deliveries[-1].body.decode()
    assert json.loads(last)["note"] == "half ?"
    assert "up-1" not in last


async def test_a_failure_and_a_late_refusal_are_told_with_the_reason(
    client: Client, receiver: Receiver, runtime: Runtime
) -> None:
    task_id = await client.submit(receiver.url)
    error = TaskError("OutputVideoSensitiveContentDetected", "no")
    await client.show(task_id, Observation("failed", {}, error))
    await deliver(runtime)

    assert statuses(receiver) == ["queued", "failed"]
    assert json.loads(receiver.deliveries[-1].body)["error"] == {
        "code": "OutputVideoSensitiveContentDetected",
        "message": "no",
    }


async def test_a_refused_submit_and_one_without_an_address_tell_nobody(
    client: Client, upstream: FakeUpstream, receiver: Receiver, runtime: Runtime
) -> None:
    upstream.submit_errors.append(UpstreamRejected("no", status=400, code="InvalidParameter"))
    with pytest.raises(UpstreamRejected):
        await client.submit(receiver.url)
    await client.finish()

    assert await outbox(runtime) == []


async def test_the_id_is_the_same_in_every_attempt_and_the_waits_grow(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    receiver.answers = [answer(500)]
    await client.submit(receiver.url)
    times_ms = [clock.now_ms()]
    while True:
        await deliver(runtime)
        (waiting,) = await outbox(runtime)
        if waiting.next_attempt_at_ms is None:
            break
        clock.now = waiting.next_attempt_at_ms - 1
        assert await deliver(runtime) == 0
        clock.now += 1
        times_ms.append(clock.now)

    assert len(receiver.deliveries) == len(times_ms) == ATTEMPTS_MAX
    assert {each.header("webhook-id") for each in receiver.deliveries} == {waiting.id}
    waits_s = [(after - before) / 1000 for before, after in pairwise(times_ms)]
    assert waits_s == sorted(waits_s)
    assert waits_s[0] < 10
    assert waits_s[-1] > 20 * 3600
    stamps = [int(each.header("webhook-timestamp") or 0) for each in receiver.deliveries]
    assert stamps == [at_ms // 1000 for at_ms in times_ms], "every attempt is signed afresh"
    for delivery in receiver.deliveries:
        assert_signed(delivery, secret_of(runtime))


async def test_after_the_last_attempt_it_is_dead_and_can_be_delivered_again(
    client: Client,
    receiver: Receiver,
    runtime: Runtime,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    receiver.answers = [answer(500)]
    await client.submit(receiver.url)
    for _ in range(ATTEMPTS_MAX):
        await deliver(runtime)
        clock.advance(30 * 3600)
    (dead,) = await outbox(runtime, state=NotificationState.DEAD)
    assert (dead.attempt_count, dead.last_status) == (ATTEMPTS_MAX, 500)
    assert "webhook.given_up" in log_stream.getvalue()
    assert "canary-query" not in log_stream.getvalue()
    assert await deliver(runtime) == 0

    receiver.answers = [answer(204)]
    await notifying.redeliver_one(runtime, "operator", dead.id)
    assert await deliver(runtime) == 1

    (delivered,) = await outbox(runtime)
    assert delivered.state is NotificationState.DELIVERED
    assert receiver.deliveries[-1].header("webhook-id") == dead.id
    assert receiver.deliveries[-1].body == receiver.deliveries[0].body
    with pytest.raises(NotFound):
        await notifying.redeliver_one(runtime, "operator", "msg_unknown")


async def test_all_that_are_dead_can_be_delivered_again(
    client: Client, receiver: Receiver, runtime: Runtime
) -> None:
    receiver.answers = [answer(410)]
    for _ in range(3):
        await client.submit(receiver.url)
    await deliver(runtime)
    receiver.answers = [answer(204)]

    assert await notifying.redeliver_dead(runtime, "operator", USAGE) == 0
    assert await notifying.redeliver_dead(runtime, "operator", None) == 3
    assert await deliver(runtime) == 3

    assert await outbox(runtime, state=NotificationState.DEAD) == []


async def test_a_receiver_that_is_gone_is_not_asked_again(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    receiver.answers = [answer(410)]
    task_id = await client.submit(receiver.url)
    await deliver(runtime)
    clock.advance(3600)
    assert await deliver(runtime) == 0

    (dead,) = await outbox(runtime)
    assert (dead.state, dead.last_error) == (NotificationState.DEAD, DeliveryError.GONE)
    await client.show(task_id, SUCCEEDED)
    assert await deliver(runtime) == 1, "another message is another question"


async def test_a_receiver_is_left_alone_as_long_as_it_asks_to_be(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    receiver.answers = [answer(503, "Retry-After: 120"), answer(204)]
    await client.submit(receiver.url)
    await deliver(runtime)

    clock.advance(119)
    assert await deliver(runtime) == 0
    clock.advance(1)
    assert await deliver(runtime) == 1


async def test_steps_are_told_in_order_though_the_receiver_fails_at_first(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    receiver.answers = [answer(500), answer(204)]
    task_id = await client.submit(receiver.url)
    await client.show(task_id, RUNNING)
    await client.show(task_id, SUCCEEDED)

    assert await deliver(runtime) == 1, "those after it wait"
    assert await deliver(runtime) == 0
    clock.advance(10)
    assert await deliver(runtime) == 3

    assert statuses(receiver) == ["queued", "queued", "running", "succeeded"]


async def test_a_message_that_a_receiver_can_not_take_does_not_hide_the_end_for_long(
    client: Client, runtime: Runtime, clock: FakeClock
) -> None:
    async def choosy(connection: RawConnection) -> None:
        request = await connection.read_request()
        is_end = json.loads(request.body)["status"] == "succeeded"
        await connection.send(answer(204 if is_end else 500))

    async with RawUpstream(choosy) as receiver:
        task_id = await client.submit(f"http://127.0.0.1:{receiver.port}/hook")
        await deliver(runtime)
        await client.show(task_id, SUCCEEDED)
        began_ms = clock.now_ms()
        while (await outbox(runtime))[-1].state is not NotificationState.DELIVERED:
            clock.advance(1)
            await deliver(runtime)

    assert clock.now_ms() - began_ms < 60_000
    assert (await outbox(runtime))[0].state is NotificationState.PENDING


async def test_an_address_inside_is_refused_and_never_connected_to(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    async with open_again(allow_private=()) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.submit(receiver.url)
        await deliver(runtime)

        (waiting,) = await outbox(runtime)

    assert waiting.last_error is DeliveryError.ADDRESS_REFUSED
    assert receiver.connection_count == 0


async def test_a_stop_between_the_move_and_its_delivery_loses_nothing(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    async with open_again() as runtime:
        client = await connect(runtime, upstream, clock)
        task_id = await client.finish(receiver.url)

    async with open_again() as runtime:
        await deliver(runtime)

    assert statuses(receiver) == ["queued", "succeeded"]
    assert json.loads(receiver.deliveries[-1].body)["id"] == task_id


class DyingDatabase:
    """A database that takes no record of an attempt: as if the process died before it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name, self.read, self.close = database.name, database.read, database.close
        self.asked = asyncio.Event()

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if fn.__name__ == "record":
            self.asked.set()
            await asyncio.Event().wait()
        return await self._database.write(fn, *args, **kwargs)

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        await self._database.watch(on_change)


async def test_a_kill_after_the_post_delivers_once_more_under_the_same_id(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    async with open_again() as runtime:
        client = await connect(runtime, upstream, clock)
        await client.submit(receiver.url)
        dying = DyingDatabase(runtime.db)
        delivery = asyncio.ensure_future(
            notifying.deliver_due(replace(runtime, db=dying), CALLBACK)
        )
        await dying.asked.wait()
        delivery.cancel()
        await asyncio.wait([delivery])

    async with open_again() as runtime:
        assert await deliver(runtime) == 0, "the lease of the dead process still holds"
        clock.advance(LEASE_S)
        assert await deliver(runtime) == 1
        clock.advance(LEASE_S)
        assert await deliver(runtime) == 0

    first, second = receiver.deliveries
    assert first.header("webhook-id") == second.header("webhook-id")
    assert first.body == second.body


class BusyDatabase:
    """A database that refuses the first records of attempts."""

    def __init__(self, database: Database, refusals: int) -> None:
        self._database = database
        self.name, self.read, self.close = database.name, database.read, database.close
        self.watch = database.watch
        self.refusals = refusals

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if fn.__name__ == "record" and self.refusals:
            self.refusals -= 1
            raise StorageUnavailable("The store can't answer now.")
        return await self._database.write(fn, *args, **kwargs)


async def test_a_store_that_is_busy_for_a_moment_causes_no_second_delivery(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    await client.submit(receiver.url)
    busy = BusyDatabase(runtime.db, refusals=3)

    await notifying.deliver_due(replace(runtime, db=busy), CALLBACK)
    clock.advance(LEASE_S)

    assert await deliver(runtime) == 0
    assert len(receiver.deliveries) == 1


async def test_each_settled_task_is_told_to_the_sink_once_as_a_cloud_event(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, sink: Receiver
) -> None:
    # The sink is the operator's own: it may be inside, which callbacks may not.
    async with open_again(usage_url=sink.url, allow_private=(), allow_http=False) as runtime:
        client = await connect(runtime, upstream, clock)
        done = [await client.finish() for _ in range(3)]
        failed = await client.submit()
        await client.show(failed, Observation("failed", {}, TaskError("X", "no")))
        await client.submit()
        await deliver(runtime)
        assert await deliver(runtime) == 0
        ended = [await client.task(task_id) for task_id in done]
        secret = secret_of(runtime)

    events = [json.loads(each.body) for each in sink.deliveries]
    assert sorted(event["subject"] for event in events) == sorted(done)
    assert len({(event["source"], event["id"]) for event in events}) == 3
    for delivery in sink.deliveries:
        assert delivery.header("content-type") == "application/cloudevents+json; charset=utf-8"
        assert_signed(delivery, secret)
    event = next(event for event in events if event["subject"] == done[0])
    assert (event["specversion"], event["type"]) == ("1.0", "seedance.task.settled")
    assert (event["data"]["tokens"], event["data"]["videos"]) == (49_005, 1)
    bill = ended[0].bill
    assert bill is not None
    assert (event["data"]["cost_micros"], event["data"]["cost_currency"]) == (
        bill.cost_micros,
        bill.currency,
    )
    assert event["data"]["key"] == client.principal.key_id


async def test_the_sink_may_move_while_events_wait_for_it(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, sink: Receiver
) -> None:
    async with Receiver([answer(500)]) as old, open_again(usage_url=old.url) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.finish()
        await deliver(runtime)
    clock.advance(3600)

    async with open_again(usage_url=sink.url) as runtime:
        assert await deliver(runtime) == 1

    assert len(sink.deliveries) == 1


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


async def fill_outbox(runtime: Runtime, urls: Sequence[str], count: int) -> None:
    """Write `count` callbacks for each address, of tasks that are made for it."""
    project = await admin.get_project(runtime, "default")

    def fill(conn: Any) -> None:
        for number, url in enumerate(url for url in urls for _ in range(count)):
            task = a_task(number, project_id=project.id)
            tasks.admit(conn, task, "{}", None)
            notification = Notification(
                id=f"msg_{task.id}_1",
                task_id=task.id,
                kind=CALLBACK,
                url=url,
                body=b'{"status":"queued"}',
                created_at_ms=task.created_at_ms,
                next_attempt_at_ms=0,
            )
            notifications.add(conn, notification)

    await runtime.db.write(fill)


async def test_a_receiver_that_is_dead_starves_neither_the_sink_nor_others(
    open_again: OpenRuntime,
    upstream: FakeUpstream,
    clock: FakeClock,
    receiver: Receiver,
    sink: Receiver,
) -> None:
    settings = {"usage_url": sink.url, "timeout_s": 30.0, "concurrency_max": 4}
    async with silent_receivers(1) as (dead,), open_again(**settings) as runtime:
        await fill_outbox(runtime, [f"http://127.0.0.1:{dead.port}/"], 3000)
        client = await connect(runtime, upstream, clock)
        loops = [
            asyncio.ensure_future(notifying.deliver_due(runtime, kind))
            for kind in (CALLBACK, USAGE)
        ]
        await dead.wait_for_requests(1)

        for _ in range(20):
            await client.finish(receiver.url)
        await notifying.deliver_due(runtime, USAGE)
        await eventually(lambda: len(receiver.deliveries) == 40)

        assert len(sink.deliveries) == 20
        assert dead.connection_count == 1, "one place, as long as it has not answered"
        assert not loops[0].done()
        for each in loops:
            each.cancel()
        await asyncio.wait(loops)


async def test_however_many_receivers_are_dead_one_that_answers_is_served(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    settings = {"timeout_s": 30.0, "concurrency_max": 6}
    async with silent_receivers(12) as dead, open_again(**settings) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.submit(receiver.url)
        await deliver(runtime)
        await fill_outbox(runtime, [f"http://127.0.0.1:{each.port}/" for each in dead], 1)
        loop = asyncio.ensure_future(notifying.deliver_due(runtime, CALLBACK))
        await eventually(lambda: sum(each.connection_count for each in dead) == 3)

        for _ in range(20):
            await client.finish(receiver.url)
        await eventually(lambda: len(receiver.deliveries) == 41)

        assert sum(each.connection_count for each in dead) == 3, "half of the places"
        loop.cancel()
        await asyncio.wait([loop])


async def test_the_loops_of_a_server_deliver_by_themselves(
    open_again: OpenRuntime, upstream: FakeUpstream, receiver: Receiver, sink: Receiver
) -> None:
    clock = SystemClock()
    async with open_again(usage_url=sink.url) as opened:
        runtime = replace(opened, clock=clock)
        created = await admin.create_key(runtime, "test", "default")
        client = Client(
            runtime, upstream, FakeClock(), Principal(created.project.id, created.record.id)
        )
        wanted = [notifying.loop_name(kind) for kind in NotificationKind]
        loops = [loop for loop in build_loops(runtime) if loop.name in wanted]
        assert [loop.name for loop in loops] == wanted
        running = asyncio.ensure_future(run_loops(runtime, loops))
        task_id = await client.submit(receiver.url)
        await eventually(lambda: receiver.deliveries)
        verify(receiver.deliveries[0], secret_of(runtime))
        running.cancel()
        await asyncio.wait([running])

    assert json.loads(receiver.deliveries[0].body)["id"] == task_id
    seen = runtime.metrics.loop_last_success.values
    assert {(name,) for name in wanted} <= seen.keys()


async def test_old_ends_are_forgotten_and_what_waits_is_kept_and_counted(
    client: Client, receiver: Receiver, runtime: Runtime, clock: FakeClock
) -> None:
    receiver.answers = [answer(204), answer(410), answer(500)]
    for _ in range(3):
        await client.submit(receiver.url)
    await deliver(runtime)
    await notifying.measure_notifications(runtime)
    assert runtime.metrics.notifications.values == {("pending",): 1, ("dead",): 1}

    clock.advance(8 * 86_400)
    assert await notifying.sweep_notifications(runtime) == 2

    (left,) = await outbox(runtime)
    assert left.state is NotificationState.PENDING


async def run_cli(
    config: Config, capsys: pytest.CaptureFixture[str], line: str
) -> tuple[int, str, str]:
    """Run a command, which has an event loop of its own, beside this one."""
    capsys.readouterr()
    arguments = [*line.split(), "--data-dir", str(config.data_dir)]
    exit_code = await asyncio.to_thread(main, arguments)
    captured = capsys.readouterr()
    return exit_code, captured.out, captured.err


async def test_an_operator_lists_and_redelivers_beside_a_running_server(
    client: Client,
    receiver: Receiver,
    runtime: Runtime,
    config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    receiver.answers = [answer(410), answer(204)]
    task_id = await client.submit(receiver.url)
    await client.show(task_id, SUCCEEDED)
    await deliver(runtime)
    await client.submit()

    exit_code, out, _ = await run_cli(config, capsys, "webhooks list --format json")
    newest, oldest = json.loads(out)
    assert exit_code == 0
    assert (newest["state"], newest["last_status"], newest["attempts"]) == ("delivered", 204, 1)
    assert (oldest["state"], oldest["last_error"]) == ("dead", "gone")
    assert oldest["task_id"] == task_id
    assert oldest["url"] == f"http://127.0.0.1:{receiver.port}/hooks"
    assert "canary-query" not in out

    _, out, _ = await run_cli(config, capsys, "webhooks list --state dead --format json")
    assert [row["id"] for row in json.loads(out)] == [oldest["id"]]
    _, out, _ = await run_cli(config, capsys, "webhooks list --task cgt-none --format json")
    assert json.loads(out) == []
    _, out, _ = await run_cli(config, capsys, f"webhooks list --task {task_id} --limit 1")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", newest["id"]]

    _, out, _ = await run_cli(config, capsys, f"webhooks redeliver {oldest['id']} --format json")
    assert json.loads(out)["state"] == "pending"
    assert await deliver(runtime) == 1
    assert receiver.deliveries[-1].header("webhook-id") == oldest["id"]
    exit_code, out, err = await run_cli(config, capsys, "webhooks redeliver msg_none")
    assert (exit_code, out) == (1, "")
    assert "no such notification" in err
    _, out, _ = await run_cli(config, capsys, "webhooks redeliver --all-dead --format json")
    assert json.loads(out) == {"redelivered": 0}


async def test_the_secret_is_shown_to_who_asks_for_it_alone(
    runtime: Runtime, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = secret_of(runtime)

    _, told, _ = await run_cli(config, capsys, "webhooks secret")
    _, shown, _ = await run_cli(config, capsys, "webhooks secret --show")

    assert "pepper" in told
    assert secret not in told
    assert shown == f"{secret}\n"


async def test_there_is_no_secret_before_the_first_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Config(data_dir=tmp_path / "nowhere")

    exit_code, out, err = await run_cli(nowhere, capsys, "webhooks secret --show")

    assert (exit_code, out) == (1, "")
    assert "first start" in err


async def test_configured_secrets_sign_the_newest_first(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    old, new = (generate_secret(random.Random(seed).randbytes) for seed in (1, 2))
    async with open_again(secrets=(new, old)) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.submit(receiver.url)
        await deliver(runtime)

    assert receiver.messages(old) == receiver.messages(new) != []


async def test_every_start_signs_alike(open_again: OpenRuntime) -> None:
    async with open_again() as runtime:
        first = secret_of(runtime)
    async with open_again() as runtime:
        assert secret_of(runtime) == first


@pytest.mark.parametrize("url", ["http://user:pass@sink.example/", "https://", "http://a:b/"])
async def test_a_sink_that_nothing_can_be_delivered_to_is_told_at_the_start(
    open_again: OpenRuntime, url: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"webhooks\.usage_url"):
        async with open_again(usage_url=url):
            pass
