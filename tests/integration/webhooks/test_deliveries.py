"""What clients and the sink are told: each step, signed, at least once, under one id."""

import io
import json
from dataclasses import replace
from itertools import pairwise

import pytest

from gateway.domain.tasks import Observation, TaskError
from gateway.domain.webhooks import (
    ATTEMPTS_MAX,
    DeliveryError,
    NotificationKind,
    NotificationState,
)
from gateway.errors import (
    InvalidRequest,
    NotFound,
    UpstreamRejected,
)
from gateway.ports import Runtime
from gateway.services import notifying
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.notified import (
    MODEL,
    RUNNING,
    SUCCEEDED,
    USED,
    Client,
    OpenRuntime,
    assert_signed,
    connect,
    deliver,
    outbox,
    secret_of,
    statuses,
)
from tests.support.raw_upstream import RawConnection, RawUpstream
from tests.support.receiver import Receiver, answer

CALLBACK, USAGE = NotificationKind.CALLBACK, NotificationKind.USAGE


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
        await client.submit(f"http://localhost:{receiver.port}/hook")
        await deliver(runtime)

        (waiting,) = await outbox(runtime)

    # The name may lead elsewhere tomorrow.
    assert waiting.state is NotificationState.PENDING
    assert waiting.last_error is DeliveryError.ADDRESS_REFUSED
    assert receiver.connection_count == 0


@pytest.mark.parametrize(
    ("webhooks", "word"),
    [
        ({"allow_private": ()}, DeliveryError.URL_REFUSED),
        ({"allow_http": False}, DeliveryError.SCHEME_REFUSED),
    ],
)
async def test_an_address_that_was_forbidden_meanwhile_is_a_dead_letter_at_once(
    open_again: OpenRuntime,
    upstream: FakeUpstream,
    clock: FakeClock,
    receiver: Receiver,
    webhooks: dict[str, object],
    word: DeliveryError,
) -> None:
    async with open_again() as runtime:
        await (await connect(runtime, upstream, clock)).submit(receiver.url)

    async with open_again(**webhooks) as runtime:
        await deliver(runtime)
        (dead,) = await outbox(runtime)

    assert (dead.state, dead.attempt_count) == (NotificationState.DEAD, 1)
    assert dead.last_error is word
    assert receiver.connection_count == 0


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://example.com:99999/", "a port of 1 to 65535"),
        ("http://0x7f.1/", "an address such as 192.0.2.7"),
        ("http://2130706433/", "an address such as 192.0.2.7"),
        ("http://127.1/", "an address such as 192.0.2.7"),
        ("http://10.1.2.3/", "webhooks.allow_private"),
        ("https://169.254.169.254/latest", "webhooks.allow_private"),
        ("http://[::1]:8080/", "webhooks.allow_private"),
    ],
)
async def test_a_callback_address_that_can_never_be_called_is_refused_at_the_submit(
    client: Client, upstream: FakeUpstream, url: str, allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.submit(url)

    assert refused.value.param == "callback_url"
    assert "parameter callback_url specified in the request is not valid" in refused.value.message
    assert allowed in refused.value.message
    assert not upstream.submits


async def test_a_loopback_address_is_refused_at_the_submit_unless_it_is_allowed(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    async with open_again(allow_private=()) as runtime:
        client = await connect(runtime, upstream, clock)
        with pytest.raises(InvalidRequest, match=r"webhooks\.allow_private"):
            await client.submit("http://127.0.0.1/")
    async with open_again() as runtime:
        await (await connect(runtime, upstream, clock)).submit("http://127.0.0.1/")

    assert len(upstream.submits) == 1


async def test_http_is_refused_at_the_submit_where_only_https_is_called(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    async with open_again(allow_http=False) as runtime:
        client = await connect(runtime, upstream, clock)
        with pytest.raises(InvalidRequest, match="http is given, https is allowed"):
            await client.submit("http://hooks.example/")
        await client.submit("https://hooks.example/")

    assert len(upstream.submits) == 1


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
    assert event["data"]["project"] == client.principal.project_id
    assert event["data"]["project_name"] == "default"


async def test_a_sink_that_says_gone_is_told_again_like_any_that_fails(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, sink: Receiver
) -> None:
    sink.answers = [answer(410), answer(204)]
    async with open_again(usage_url=sink.url) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.finish()
        await deliver(runtime)
        clock.advance(10)
        assert await deliver(runtime) == 1
        (event,) = await outbox(runtime)

    assert (event.state, event.attempt_count) == (NotificationState.DELIVERED, 2)


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
