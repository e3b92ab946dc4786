"""Reading a whole list: whatever the order of its pages, their size, and what moves meanwhile."""

from dataclasses import replace

import pytest

from gateway.domain.attempts import ListedTask
from gateway.domain.keys import Principal
from gateway.ports import ListedPage, Runtime
from gateway.services.listing_passes import Reading, read_list
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import a_stranger, accept, tuned

MINUTE_MS = 60_000


class Odd(FakeUpstream):
    """An upstream with a way of its own to page."""

    size_max: int = 500
    heeds_page_num: bool = True
    inserts: int = 0
    unreadable_count: int = 0
    tiers: tuple[str | None, ...] = ()

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        self.tiers = (*self.tiers, service_tier)
        for _ in range(self.inserts):
            number = len(self.listed)
            self.listed.insert(0, a_stranger(number, NOW_MS))
        self.pages.append((credential, page_num, page_size))
        start = (page_num - 1) * page_size if self.heeds_page_num else 0
        items = self.listed[start : start + min(page_size, self.size_max)]
        total = len(self.listed) if self.tells_total else None
        return ListedPage(items, total, len(items) + self.unreadable_count)


NOW_MS = 1_795_330_862_000


def an_upstream(count: int = 20, **fields: object) -> Odd:
    """Return an upstream that lists so many tasks of others, one made each minute."""
    upstream = Odd()
    upstream.listed = [a_stranger(number, NOW_MS - number * MINUTE_MS) for number in range(count)]
    for name, value in fields.items():
        setattr(upstream, name, value)
    return upstream


async def read(
    runtime: Runtime,
    upstream: Odd,
    since_minutes: int = 10_000,
    tiers: tuple[str, ...] = ("default",),
) -> Reading:
    runtime = tuned(runtime, reconciler={"page_size": 4, "pages_max": 50})
    return await read_list(runtime, upstream, "default", tiers, NOW_MS - since_minutes * MINUTE_MS)


@pytest.mark.parametrize("tells_total", [True, False])
async def test_a_list_is_read_to_its_end(runtime: Runtime, *, tells_total: bool) -> None:
    reading = await read(runtime, an_upstream(tells_total=tells_total))

    assert len(reading.items) == 20
    assert reading.is_whole


async def test_a_list_is_read_one_page_further_than_is_asked_for(runtime: Runtime) -> None:
    upstream = an_upstream()

    reading = await read(runtime, upstream, since_minutes=6)

    assert [page for _, page, _ in upstream.pages] == [1, 2, 3]
    assert len(reading.items) == 12
    assert reading.is_whole


async def test_a_list_that_begins_with_the_oldest_is_read_to_its_end(runtime: Runtime) -> None:
    upstream = an_upstream()
    upstream.listed.reverse()

    reading = await read(runtime, upstream, since_minutes=6)

    assert len(reading.items) == 20
    assert reading.is_whole


async def test_one_page_alone_says_nothing_of_the_order(runtime: Runtime) -> None:
    upstream = an_upstream()
    upstream.listed = [
        a_stranger(number, NOW_MS - (5 - number // 4) * 3_600_000) for number in range(20)
    ]

    reading = await read(runtime, upstream, since_minutes=90)

    assert len(reading.items) == 20


async def test_tasks_without_a_date_may_be_of_any_age(runtime: Runtime) -> None:
    upstream = an_upstream()
    upstream.listed = [replace(task, created_at_ms=None) for task in upstream.listed]

    reading = await read(runtime, upstream, since_minutes=1)

    assert len(reading.items) == 20


@pytest.mark.parametrize("tells_total", [True, False])
async def test_smaller_pages_than_were_asked_for_are_counted_by_their_own_size(
    runtime: Runtime, *, tells_total: bool
) -> None:
    upstream = an_upstream(size_max=3, tells_total=tells_total)

    reading = await read(runtime, upstream)

    assert len(reading.items) == 20
    assert reading.is_whole
    assert {size for _, _, size in upstream.pages[1:]} == {3}


async def test_tasks_made_meanwhile_hide_none(runtime: Runtime) -> None:
    reading = await read(runtime, an_upstream(inserts=1))

    assert {f"foreign-{number}" for number in range(20)} <= reading.items.keys()
    assert reading.is_whole


@pytest.mark.parametrize("tells_total", [True, False])
async def test_an_upstream_that_shows_the_same_page_again_is_not_read_for_ever(
    runtime: Runtime, *, tells_total: bool
) -> None:
    upstream = an_upstream(heeds_page_num=False, tells_total=tells_total)

    reading = await read(runtime, upstream)

    assert len(upstream.pages) == 2
    assert not reading.is_whole


async def test_a_list_with_entries_that_cant_be_read_is_not_whole(runtime: Runtime) -> None:
    reading = await read(runtime, an_upstream(unreadable_count=1))

    assert not reading.is_whole


async def test_a_list_without_end_is_given_up(runtime: Runtime) -> None:
    upstream = an_upstream(500)

    reading = await read(runtime, upstream)

    assert len(upstream.pages) == 50
    assert not reading.is_whole


async def test_an_empty_list_is_whole(runtime: Runtime) -> None:
    reading = await read(runtime, an_upstream(0))

    assert not reading.items
    assert reading.is_whole


async def test_each_tier_is_asked_for_by_name_but_the_default(runtime: Runtime) -> None:
    upstream = an_upstream(2)

    await read(runtime, upstream, tiers=("flex", "default"))

    assert upstream.tiers == (None, "flex")


async def test_of_tasks_that_are_known_no_more_is_kept_than_id_and_date(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.now_ms = clock.now_ms
    await accept(runtime, principal)
    odd = an_upstream(1)
    odd.listed += [
        ListedTask("up-1", clock.now, observation=a_stranger(9, 0).observation, status="running")
    ]

    reading = await read(runtime, odd)

    assert reading.known_ids == {"up-1"}
    assert reading.items["up-1"].observation.status == ""
    assert reading.items["foreign-0"].observation.status == "succeeded"
