"""The outbox on both stores: whose turn it is, in which order, and that nothing is left behind."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from gateway.domain.webhooks import (
    ATTEMPTS_MAX,
    HOLDING_ATTEMPTS,
    DeliveryError,
    DeliveryResult,
    Notification,
    NotificationKind,
    NotificationState,
    apply_result,
    redeliver,
)
from gateway.ports import Database
from gateway.storage import notifications, requests, tasks
from gateway.storage.requests import StoredRequest
from tests.contract.conftest import Place
from tests.support.stored import NOW_MS, a_task

CALLBACK, USAGE = NotificationKind.CALLBACK, NotificationKind.USAGE
LEASE_MS = 35_000
DAY_MS = 86_400_000
DOWN = DeliveryResult(503, DeliveryError.REFUSED)
DELIVERED = DeliveryResult(204)


@pytest.fixture
async def store(database: Database) -> Database:
    """A store with the tasks 0 to 9."""
    for number in range(10):
        await database.write(tasks.admit, a_task(number), "{}", NOW_MS + 7 * DAY_MS)
    return database


def a_callback(task: int, version: int = 3, host: str = "a.example") -> Notification:
    return Notification(
        id=f"msg_{a_task(task).id}_{version}",
        task_id=a_task(task).id,
        kind=CALLBACK,
        url=f"https://{host}/hook?token=canary",
        body=b'{"status":"queued"}',
        created_at_ms=NOW_MS,
        next_attempt_at_ms=0,
    )


def a_usage_event(task: int) -> Notification:
    return replace(
        a_callback(task),
        id=f"use_{a_task(task).id}",
        kind=USAGE,
        url="http://sink.internal/usage",
    )


async def add(store: Database, *added: Notification) -> None:
    for notification in added:
        await store.write(notifications.add, notification)


async def claim(
    store: Database,
    counts: Mapping[str, int],
    now_ms: int = NOW_MS,
    kind: NotificationKind = CALLBACK,
) -> list[Notification]:
    return list(await store.write(notifications.claim_due, kind, counts, now_ms, now_ms + LEASE_MS))


async def tell(
    store: Database, notification: Notification, result: DeliveryResult, now_ms: int = NOW_MS
) -> bool:
    tried = apply_result(notification, result, now_ms, 0)
    return await store.write(notifications.record, notification, tried, now_ms)


async def find(store: Database, notification_id: str) -> Notification:
    found = await store.read(notifications.find, notification_id)
    assert found is not None
    return found


async def waiting(
    store: Database, now_ms: int = NOW_MS, after: str = "", limit: int = 100
) -> Sequence[str]:
    return await store.read(notifications.find_waiting, CALLBACK, now_ms, after, limit)


def ids(found: Sequence[Notification]) -> list[str]:
    return [each.id for each in found]


async def test_what_was_written_is_found_as_it_was(store: Database) -> None:
    written = a_callback(1)
    await add(store, written, replace(written, body=b"another"))

    assert await store.read(notifications.find, written.id) == written
    assert await store.read(notifications.find, "msg_none") is None


async def test_receivers_come_in_turn_each_once_however_much_waits_for_them(
    store: Database,
) -> None:
    await add(store, *(a_callback(n, host=f"{'abc'[n % 3]}.example") for n in range(9)))
    await add(store, a_usage_event(9))
    later = replace(a_callback(9, host="later.example"), next_attempt_at_ms=NOW_MS + 1)
    await add(store, later)

    a, b, c = ("a.example", "b.example", "c.example")
    assert await waiting(store) == [a, b, c]
    assert await waiting(store, after=a) == [b, c, a]
    assert await waiting(store, after="b.zzz") == [c, a, b]
    assert await waiting(store, after=b, limit=2) == [c, a]
    assert await waiting(store, limit=2) == [a, b]
    assert await waiting(store, NOW_MS + 1, after=c) == ["later.example", a, b, c]
    assert await store.read(notifications.find_waiting, USAGE, NOW_MS, "", 9) == ["sink"]


async def test_a_claim_takes_so_many_of_each_the_longest_due_first(store: Database) -> None:
    await add(store, *(a_callback(n, host="a.example") for n in range(5)))
    await add(store, *(a_callback(n, host="b.example") for n in range(5, 8)))
    retried = replace(a_callback(8, host="b.example"), next_attempt_at_ms=NOW_MS - 5)
    await add(store, retried, a_usage_event(9))

    claimed = await claim(store, {"b.example": 9, "a.example": 2})

    assert ids(claimed) == ids(
        [*(a_callback(n) for n in (0, 1)), *(a_callback(n) for n in (5, 6, 7)), retried]
    )


async def test_what_is_claimed_is_nobody_elses_before_the_lease_ends(store: Database) -> None:
    await add(store, a_callback(1))

    assert len(await claim(store, {"a.example": 5})) == 1
    assert await claim(store, {"a.example": 5}, NOW_MS + LEASE_MS - 1) == []
    (again,) = await claim(store, {"a.example": 5}, NOW_MS + LEASE_MS)
    assert (again.id, again.attempt_count) == (a_callback(1).id, 0)


async def test_two_processes_never_claim_the_same(place: Place, store: Database) -> None:
    await add(store, *(a_callback(n) for n in range(10)))
    await add(store, *(a_callback(n, 4) for n in range(10)))
    other = await place.open()
    try:
        rounds = await asyncio.gather(*(claim(one, {"a.example": 3}) for one in (store, other) * 8))
    finally:
        await other.close()

    claimed = [each.id for found in rounds for each in found]
    assert sorted(claimed) == ids([a_callback(n) for n in range(10)])


async def test_callbacks_of_a_task_are_attempted_one_after_the_other(store: Database) -> None:
    queued, running, ended = (a_callback(1, version) for version in (3, 4, 5))
    await add(store, queued, running, ended)

    (first,) = await claim(store, {"a.example": 9})
    assert first.id == queued.id
    assert await claim(store, {"a.example": 9}) == []
    await tell(store, first, DELIVERED)
    (second,) = await claim(store, {"a.example": 9})
    assert second.id == running.id
    await tell(store, second, DELIVERED)
    (third,) = await claim(store, {"a.example": 9})
    assert third.id == ended.id


async def test_tasks_do_not_wait_for_each_other(store: Database) -> None:
    await add(store, a_callback(1, 3), a_callback(1, 4), a_callback(2, 3), a_callback(2, 4))

    claimed = await claim(store, {"a.example": 9})

    assert ids(claimed) == ids([a_callback(1, 3), a_callback(2, 3)])


async def test_a_later_callback_that_is_due_first_brings_the_earlier_one(store: Database) -> None:
    retried = replace(a_callback(1, 3), attempt_count=1, next_attempt_at_ms=NOW_MS - 1)
    await add(store, retried, a_callback(1, 4))

    claimed = await claim(store, {"a.example": 1})

    assert ids(claimed) == [retried.id]


async def test_a_failed_callback_holds_back_the_next_one_for_some_attempts_only(
    store: Database,
) -> None:
    await add(store, a_callback(1, 3), a_callback(1, 4))
    now_ms = NOW_MS
    for _ in range(HOLDING_ATTEMPTS):
        (first,) = await claim(store, {"a.example": 9}, now_ms)
        assert first.id == a_callback(1, 3).id
        assert await tell(store, first, DOWN, now_ms)
        failed = await store.read(notifications.find, first.id)
        assert failed is not None
        assert failed.next_attempt_at_ms is not None
        if failed.attempt_count < HOLDING_ATTEMPTS:
            assert await claim(store, {"a.example": 9}, failed.next_attempt_at_ms - 1) == []
            now_ms = failed.next_attempt_at_ms

    (passed,) = await claim(store, {"a.example": 9}, now_ms)
    assert passed.id == a_callback(1, 4).id


async def test_a_callback_that_is_dead_at_once_lets_the_next_one_pass(store: Database) -> None:
    await add(store, a_callback(1, 3), a_callback(1, 4))
    (first,) = await claim(store, {"a.example": 9})

    await tell(store, first, DeliveryResult(410, DeliveryError.GONE))

    (passed,) = await claim(store, {"a.example": 9})
    assert passed.id == a_callback(1, 4).id


async def test_a_callback_whose_deliverer_died_is_due_again_and_before_the_next(
    store: Database,
) -> None:
    await add(store, a_callback(1, 3), a_callback(1, 4))
    await claim(store, {"a.example": 9})
    await claim(store, {"a.example": 9})

    (again,) = await claim(store, {"a.example": 9}, NOW_MS + LEASE_MS)

    assert again.id == a_callback(1, 3).id


async def test_usage_events_wait_for_nothing(store: Database) -> None:
    await add(store, a_callback(1, 3), a_usage_event(1), a_usage_event(2))
    await claim(store, {"a.example": 9})

    claimed = await claim(store, {"sink": 9}, kind=USAGE)

    assert ids(claimed) == ids([a_usage_event(1), a_usage_event(2)])


async def test_an_attempt_that_outlived_its_lease_tells_nothing_any_more(store: Database) -> None:
    await add(store, a_callback(1))
    (slow,) = await claim(store, {"a.example": 1})
    (quick,) = await claim(store, {"a.example": 1}, NOW_MS + LEASE_MS)
    assert await tell(store, quick, DELIVERED, NOW_MS + LEASE_MS + 1)

    assert not await tell(store, slow, DOWN, NOW_MS + LEASE_MS + 2)

    stored = await store.read(notifications.find, slow.id)
    assert stored is not None
    assert (stored.state, stored.attempt_count) == (NotificationState.DELIVERED, 1)


async def test_many_callbacks_that_wait_do_not_hide_those_behind_them(store: Database) -> None:
    versions = (4, 5, 6, 7, 8, 9)
    await add(store, *(a_callback(1, version) for version in (3, *versions)), a_callback(2))
    (first,) = await claim(store, {"a.example": 1})
    assert first.id == a_callback(1).id

    (behind,) = await claim(store, {"a.example": 1})

    assert behind.id == a_callback(2).id


async def test_what_has_ended_is_kept_for_a_time_after_its_end(store: Database) -> None:
    end_ms = NOW_MS + 1_000_000
    await add(store, a_callback(1), a_callback(2), a_callback(3))
    done, dead, _ = await claim(store, {"a.example": 3})
    await tell(store, done, DELIVERED, end_ms)
    await tell(store, dead, DeliveryResult(410, DeliveryError.GONE), end_ms + 1)

    assert await store.write(notifications.purge, end_ms, 9) == 0
    assert await store.write(notifications.purge, end_ms + 1, 9) == 1
    assert await store.read(notifications.find, done.id) is None
    assert await store.write(notifications.purge, end_ms + 2, 9) == 1
    assert await store.write(notifications.purge, end_ms * 2, 9) == 0, "what is pending stays"


async def test_what_a_wrong_clock_planned_is_due(store: Database) -> None:
    a_year_ms = 365 * 86_400_000
    await add(store, replace(a_callback(1), next_attempt_at_ms=NOW_MS + a_year_ms), a_callback(2))

    assert await store.write(notifications.rescue, NOW_MS, NOW_MS + 1000) == 1

    assert len(await claim(store, {"a.example": 9})) == 2


async def test_an_ended_callback_is_erased_with_its_request_whichever_comes_first(
    store: Database,
) -> None:
    before, after, usage, other = a_callback(1), a_callback(2), a_usage_event(1), a_callback(3)
    await add(store, before, after, usage, other)
    for notification in (before, usage, other):
        await tell(store, notification, DELIVERED)
    hashed = [StoredRequest(a_task(number).id, "{}", None) for number in (1, 2)]

    await store.write(requests.replace_bodies, hashed)
    await store.write(notifications.erase, [request.task_id for request in hashed])

    assert (await find(store, before.id)).is_erased
    assert (await find(store, after.id)).url == after.url  # it is yet to be delivered
    await tell(store, after, DELIVERED)
    erased = await find(store, after.id)
    assert (erased.url, erased.body, erased.state) == ("", b"", NotificationState.DELIVERED)
    assert (await find(store, other.id)).body == other.body
    assert (await find(store, usage.id)).body == usage.body


async def test_an_erased_callback_is_not_renewed(store: Database) -> None:
    dead = a_callback(1)
    await add(store, dead)
    await tell(store, dead, DeliveryResult(410, DeliveryError.GONE))
    await store.write(notifications.erase, [dead.task_id])

    assert not await store.read(notifications.list_dead, None, "", 10)
    await store.write(notifications.renew, redeliver(dead, NOW_MS))
    assert (await find(store, dead.id)).state is NotificationState.DEAD


async def test_the_dead_are_listed_and_can_be_renewed(store: Database) -> None:
    await add(store, a_callback(1), a_callback(2), a_usage_event(3))
    for notification in await claim(store, {"a.example": 9}):
        await tell(store, notification, DeliveryResult(410, DeliveryError.GONE))
    for _ in range(ATTEMPTS_MAX):  # the sink is asked again, whatever it says
        event = await find(store, a_usage_event(3).id)
        await tell(store, event, DeliveryResult(410, DeliveryError.GONE))

    dead = await store.read(notifications.list_dead, None, "", 9)
    usage = await store.read(notifications.list_dead, USAGE, "", 9)
    behind = await store.read(notifications.list_dead, None, dead[0].id, 1)
    assert (len(dead), ids(usage), ids(behind)) == (3, [a_usage_event(3).id], [dead[1].id])
    assert (await store.read(notifications.count_by_state))[NotificationState.DEAD] == 3

    await store.write(notifications.renew, redeliver(dead[0], NOW_MS + 1))

    (renewed,) = await claim(store, {"a.example": 9}, NOW_MS + 1)
    assert (renewed.id, renewed.attempt_count, renewed.ended_at_ms) == (dead[0].id, 0, None)
