"""The outbox at work: what stops, deaths and dead receivers do to it, and what not."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.domain.keys import Principal
from gateway.domain.webhooks import (
    Notification,
    NotificationKind,
    NotificationState,
)
from gateway.errors import (
    StorageUnavailable,
)
from gateway.ports import Change, Database, P, Query, Runtime, T
from gateway.services import admin, notifying
from gateway.storage import notifications, tasks
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import run_loops
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.notified import (
    LEASE_S,
    Client,
    OpenRuntime,
    connect,
    deliver,
    outbox,
    secret_of,
    silent_receivers,
    statuses,
)
from tests.support.raw_upstream import RawConnection, RawUpstream
from tests.support.receiver import Receiver, answer, verify
from tests.support.stored import a_task
from tests.support.waiting import eventually

CALLBACK, USAGE = NotificationKind.CALLBACK, NotificationKind.USAGE


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


class DeafDatabase:
    """A database that can't be asked what is due, once it was asked that."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name, self.write, self.close = database.name, database.write, database.close
        self.watch = database.watch
        self.asked_count = 0

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.asked_count += fn.__name__ == "find_waiting"
        if self.asked_count > 1:
            raise StorageUnavailable("The store can't answer now.")
        return await self._database.read(fn, *args, **kwargs)


async def test_a_store_that_can_not_be_asked_cuts_no_delivery_short(
    client: Client, runtime: Runtime
) -> None:
    may_answer = asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        await connection.read_request()
        await may_answer.wait()
        await connection.send(answer(204))

    async with RawUpstream(hold) as receiver:
        await client.submit(f"http://127.0.0.1:{receiver.port}/")
        deaf = DeafDatabase(runtime.db)
        delivery = asyncio.ensure_future(notifying.deliver_due(replace(runtime, db=deaf), CALLBACK))
        await eventually(lambda: deaf.asked_count > 2)
        may_answer.set()
        with pytest.raises(ExceptionGroup):
            await delivery

    (told,) = await outbox(runtime)
    assert (told.state, len(receiver.requests)) == (NotificationState.DELIVERED, 1)


def ids(receiver: Receiver) -> set[str | None]:
    """Return what came; the clock jumps so far that leases end, and some may come twice."""
    return {delivery.header("webhook-id") for delivery in receiver.deliveries}


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
        await eventually(lambda: len(ids(receiver)) == 40)

        assert len(ids(sink)) == 20
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
        await eventually(lambda: len(ids(receiver)) == 41)

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
