import asyncio

from gateway.domain.keys import Principal
from gateway.domain.tasks import Route, Task, TaskId, TaskState
from gateway.key_cache import KeyCache
from gateway.status_cache import Entry, StatusCache

WHO = Principal("proj", "key")


def an_entry(task_id: str = "t", version: int = 1, read_at_s: float = 0.0) -> Entry:
    task = Task(
        id=TaskId(task_id),
        project_id="proj",
        key_id="key",
        model="m",
        family="f",
        route=Route("ark", "default", "m"),
        state=TaskState.QUEUED,
        version=version,
        created_at_ms=0,
        updated_at_ms=0,
        submit_deadline_at_ms=0,
        expires_at_ms=0,
    )
    return Entry(task, None, read_at_s)


def a_cache(
    entries_max: int = 10, waiters_max: int = 10, bytes_max: int = 10**6, share: int = 10
) -> StatusCache:
    return StatusCache(
        entries_max,
        bytes_max=bytes_max,
        age_s_max=60,
        waiters_max=waiters_max,
        waiters_project_max=share,
    )


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = a_cache()
    newer = cache.put(an_entry(version=2))

    assert cache.put(an_entry(version=1)) is newer
    assert cache.find("t", 0) == (newer, "hit")


def test_an_entry_is_stale_after_its_age() -> None:
    cache = a_cache()
    cache.put(an_entry())

    assert cache.find("t", 60)[1] == "hit"
    assert cache.find("t", 60.1) == (None, "stale")
    assert cache.find("other", 0) == (None, "miss")


def test_the_least_recently_used_entry_goes_first() -> None:
    cache = a_cache(entries_max=2)
    cache.put(an_entry("a"))
    cache.put(an_entry("b"))
    cache.find("a", 0)
    cache.put(an_entry("c"))

    assert cache.find("b", 0)[1] == "miss"
    assert cache.find("a", 0)[1] == "hit"
    assert len(cache) == 2


def test_what_was_read_before_a_drop_is_not_kept() -> None:
    cache = a_cache()
    generation = cache.generation
    cache.clear()

    cache.put_if_current(an_entry(), generation)

    assert cache.find("t", 0)[1] == "miss"


def test_a_drop_of_an_older_version_keeps_what_is_newer() -> None:
    cache = a_cache()
    cache.put(an_entry(version=3))

    cache.drop("t", version=3)
    assert cache.find("t", 0)[1] == "hit"

    cache.drop("t", version=4)
    assert cache.find("t", 0)[1] == "miss"


async def test_a_waiter_is_woken_by_a_new_version_only() -> None:
    cache = a_cache()
    cache.put(an_entry(version=1))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cache.wait("t", 30, "proj"))
        await asyncio.sleep(0)
        cache.put(an_entry(version=1))
        await asyncio.sleep(0)
        assert not waiting.done()
        cache.put(an_entry(version=2))

    assert waiting.result() is True


async def test_a_waiter_is_woken_by_a_drop_of_what_is_not_kept() -> None:
    cache = a_cache()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(cache.wait("t", 30, "proj"))
        await asyncio.sleep(0)
        cache.drop("t", version=5)

    assert waiting.result() is True


async def test_waiting_ends_with_its_time_and_leaves_nothing_behind() -> None:
    cache = a_cache()

    assert await cache.wait("t", 0.01, "proj") is False
    assert not cache._waiters


async def test_more_waiters_than_allowed_are_answered_at_once() -> None:
    cache = a_cache(waiters_max=1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(cache.wait("t", 30, "proj"))
        await asyncio.sleep(0)

        assert await cache.wait("t", 30, "proj") is False

        cache.wake_all()

    assert first.result() is True


def test_a_key_is_believed_for_its_age_only() -> None:
    cache = KeyCache(10, 0.9)
    cache.put(b"h", WHO, 0.0, cache.generation)

    assert cache.find(b"h", 0.9) == WHO
    assert cache.find(b"h", 0.91) is None


def test_an_answer_read_before_a_clearing_is_not_kept() -> None:
    cache = KeyCache(10, 0.9)
    generation = cache.generation
    cache.clear()

    cache.put(b"h", WHO, 0.0, generation)

    assert cache.find(b"h", 0.0) is None


def test_a_flood_of_refused_keys_leaves_the_good_ones_alone() -> None:
    cache = KeyCache(2, 0.9)
    cache.put(b"good", WHO, 0.0, cache.generation)
    for number in range(100):
        cache.put(b"%d" % number, None, 0.0, cache.generation)

    assert cache.find(b"good", 0.0) == WHO
    assert cache.is_refused(b"99", 0.0)
    assert not cache.is_refused(b"0", 0.0)


async def test_one_project_has_its_share_of_waits_and_no_more() -> None:
    cache = a_cache(waiters_max=10, share=1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(cache.wait("t", 30, "greedy"))
        await asyncio.sleep(0)
        assert await cache.wait("t", 30, "greedy") is False
        other = group.create_task(cache.wait("t", 30, "other"))
        await asyncio.sleep(0)
        assert not other.done()
        cache.wake_all()

    assert first.result() is other.result() is True


def test_an_evicted_version_is_not_followed_by_an_older_one() -> None:
    cache = a_cache(entries_max=1)
    generation = cache.generation
    cache.put(an_entry("t", version=2))
    cache.put(an_entry("other"))

    cache.put_if_current(an_entry("t", version=1), generation)

    assert cache.find("t", 0) == (None, "miss")


def test_the_cache_is_bounded_in_bytes() -> None:
    cache = a_cache(entries_max=1000, bytes_max=100_000)
    for number in range(100):
        entry = an_entry(str(number))
        entry.echo = "x" * 10_000
        cache.put(entry)

    assert len(cache) == 3
    assert cache.find("99", 0)[1] == "hit"
