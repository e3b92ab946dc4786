"""The observer and the status cache, on a real store, with an upstream that obeys the test."""

import asyncio
from dataclasses import replace

import pytest

from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task, TaskState
from gateway.errors import TaskNotFound, UpstreamRejected, UpstreamTimeout
from gateway.ports import Runtime
from gateway.services.cancelling import cancel_task
from gateway.services.observing import find_orphans, observe_due
from gateway.services.status import TaskQuery, get_task, list_tasks, wait_for_change
from gateway.services.submission import submit_task
from gateway.storage import tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gated_database import GatedDatabase
from tests.support.lost import lose

BODY = {
    "model": "doubao-seedance-1-0-pro-250528",
    "content": [
        {"type": "text", "text": "a fox"},
        {"type": "image_url", "image_url": {"url": "https://img.example/fox.png?sig=secret"}},
    ],
}
DONE = Observation(
    "succeeded",
    {"content": {"video_url": "https://v.example/x.mp4?s=1"}, "usage": {"completion_tokens": 9}},
)


async def submit(runtime: Runtime, principal: Principal) -> Task:
    return (await submit_task(runtime, principal, BODY, "req")).task


async def stored(runtime: Runtime, task: Task) -> Task:
    found = await runtime.db.read(tasks.find, task.id)
    assert found is not None
    return found.task


async def look(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock, after_s: float) -> int:
    clock.advance(after_s)
    return await observe_due(runtime, upstream, "default")


async def test_a_task_is_followed_to_its_end_and_left_alone_then(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = Observation("running", {})
    await look(runtime, upstream, clock, 60)
    running = await get_task(runtime, principal, task.id)
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 60)
    done = await get_task(runtime, principal, task.id)

    assert await look(runtime, upstream, clock, 86_400) == 0
    assert running.task.state is TaskState.RUNNING
    assert done.task.state is TaskState.SUCCEEDED
    assert done.task.fields == DONE.fields
    assert len(upstream.gets) == 2


async def test_nothing_is_asked_before_it_is_due(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await submit(runtime, principal)

    assert await look(runtime, upstream, clock, 1) == 0
    assert not upstream.gets


async def test_status_reads_never_ask_the_upstream(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = await submit(runtime, principal)
    for _ in range(100):
        await get_task(runtime, principal, task.id)
    await list_tasks(runtime, principal, TaskQuery())

    assert not upstream.gets
    assert not upstream.lists


async def test_many_due_tasks_are_looked_at_by_one_list_call(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    made = [await submit(runtime, principal) for _ in range(30)]
    for number in range(1, 31):
        upstream.shown[f"up-{number}"] = Observation("running", {})
    upstream.hidden_from_list = {"up-3"}

    await look(runtime, upstream, clock, 90)

    assert len(upstream.lists) == 1
    assert upstream.gets == ["up-3"]
    assert {(await stored(runtime, task)).state for task in made} == {TaskState.RUNNING}


@pytest.mark.parametrize(
    "left_out", ["content", "usage"], ids=["without the video", "without usage"]
)
async def test_a_success_that_a_list_shows_in_part_ends_by_a_single_read(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock, left_out: str
) -> None:
    made = [await submit(runtime, principal) for _ in range(25)]
    part = {name: value for name, value in DONE.fields.items() if name != left_out}
    upstream.shown |= {f"up-{number}": DONE for number in range(1, 26)}
    upstream.shown_in_list = dict.fromkeys(upstream.shown, Observation("succeeded", part))

    await look(runtime, upstream, clock, 90)

    assert len(upstream.lists) == 1
    assert len(upstream.gets) == 25
    for task in made:
        ended = await stored(runtime, task)
        assert (ended.state, ended.fields) == (TaskState.SUCCEEDED, DONE.fields)
    assert not runtime.metrics.estimated_settlements.values


async def test_a_success_without_usage_in_a_single_read_is_settled_as_it_was_held(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    made = [await submit(runtime, principal) for _ in range(25)]
    bare = Observation("succeeded", {})
    upstream.shown |= {f"up-{number}": bare for number in range(1, 26)}

    await look(runtime, upstream, clock, 90)

    assert {(await stored(runtime, task)).state for task in made} == {TaskState.SUCCEEDED}
    assert sum(runtime.metrics.estimated_settlements.values.values()) == 25


async def test_a_list_that_fails_does_not_keep_tasks_from_single_reads(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    made = [await submit(runtime, principal) for _ in range(30)]
    for number in range(1, 31):
        upstream.shown[f"up-{number}"] = Observation("running", {})
    upstream.list_error = UpstreamRejected("No such path.", code="NotFound", status=404)

    await look(runtime, upstream, clock, 90)

    assert {(await stored(runtime, task)).state for task in made} == {TaskState.RUNNING}


async def test_an_upstream_that_is_away_is_not_asked_for_each_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    for _ in range(30):
        await submit(runtime, principal)
    upstream.read_error = UpstreamTimeout("no answer")

    await look(runtime, upstream, clock, 90)

    assert len(upstream.gets) <= runtime.config.observer.looks_concurrency_max


async def test_an_upstream_without_list_is_asked_one_by_one(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.supports_list = False
    for _ in range(25):
        await submit(runtime, principal)

    await look(runtime, upstream, clock, 90)

    assert not upstream.lists
    assert len(upstream.gets) == 25


async def test_an_unknown_status_is_no_news(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = Observation("hibernating", {})

    await look(runtime, upstream, clock, 60)

    after = await stored(runtime, task)
    assert (after.state, after.version) == (TaskState.QUEUED, 2)
    assert after.next_poll_at_ms is not None
    assert after.next_poll_at_ms > clock.now_ms()


async def test_an_upstream_that_does_not_answer_fails_no_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.read_error = UpstreamTimeout("no answer")
    for _ in range(50):
        await look(runtime, upstream, clock, 3600)

    assert (await stored(runtime, task)).state is TaskState.QUEUED
    upstream.read_error = None
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 3600)
    assert (await stored(runtime, task)).state is TaskState.SUCCEEDED


async def test_a_task_that_the_upstream_forgot_fails_after_three_reads_over_ten_minutes(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    del upstream.shown["up-1"]
    for _ in range(5):
        await look(runtime, upstream, clock, 100)
    assert (await stored(runtime, task)).state is TaskState.QUEUED

    await look(runtime, upstream, clock, 300)

    failed = await stored(runtime, task)
    assert failed.state is TaskState.FAILED
    assert failed.error is not None
    assert failed.error.code == "NotFound.UpstreamTask"


async def test_a_date_that_is_set_ahead_makes_no_task_vanish(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    del upstream.shown["up-1"]
    for _ in range(3):
        await look(runtime, upstream, clock, 100)
    clock.set_date(86_400)
    await look(runtime, upstream, clock, 1)
    assert (await stored(runtime, task)).missing_count == 4
    await look(runtime, upstream, clock, 590)
    assert (await stored(runtime, task)).state is TaskState.QUEUED

    await look(runtime, upstream, clock, 100)

    assert (await stored(runtime, task)).state is TaskState.FAILED


async def test_a_task_that_comes_back_is_not_counted_as_missing(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    seen = upstream.shown.pop("up-1")
    await look(runtime, upstream, clock, 100)
    assert (await stored(runtime, task)).missing_count == 1
    upstream.shown["up-1"] = seen

    await look(runtime, upstream, clock, 100)

    after = await stored(runtime, task)
    assert (after.missing_count, after.missing_since_ms) == (0, None)


async def test_eight_observers_move_a_task_once(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = DONE
    clock.advance(60)

    looked = await asyncio.gather(*(observe_due(runtime, upstream, "default") for _ in range(8)))

    assert sum(looked) == 1
    assert (await stored(runtime, task)).version == 3


async def test_a_stranger_is_told_the_same_as_about_an_unknown_task(
    runtime: Runtime, principal: Principal, stranger: Principal
) -> None:
    task = await submit(runtime, principal)

    with pytest.raises(TaskNotFound) as foreign:
        await get_task(runtime, stranger, task.id)
    with pytest.raises(TaskNotFound) as unknown:
        await get_task(runtime, stranger, "cgt-20261122150102-zzzzzzzzzzzzzzzzzzzz")

    assert foreign.value.message.replace(task.id, "") == unknown.value.message.replace(
        "cgt-20261122150102-zzzzzzzzzzzzzzzzzzzz", ""
    )
    assert (await list_tasks(runtime, stranger, TaskQuery())).total == 0


async def test_a_waiting_read_is_answered_at_the_next_change(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    entry = await get_task(runtime, principal, task.id)
    upstream.shown["up-1"] = Observation("running", {})
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait_for_change(runtime, principal, task.id, entry, 60))
        await asyncio.sleep(0)
        await look(runtime, upstream, clock, 30)

    assert waiting.result().task.state is TaskState.RUNNING


async def test_a_read_of_an_ended_task_does_not_wait(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 60)
    entry = await get_task(runtime, principal, task.id)

    assert await wait_for_change(runtime, principal, task.id, entry, 60) is entry


async def test_a_restart_shows_the_same_and_goes_on(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    runtime.status_cache.clear()

    entry = await get_task(runtime, principal, task.id)

    assert entry.task.state is TaskState.QUEUED
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 60)
    assert (await get_task(runtime, principal, task.id)).task.state is TaskState.SUCCEEDED


async def test_queries_of_media_urls_are_kept_until_the_task_has_ended(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    before = await runtime.db.read(tasks.find, task.id)
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 60)
    after = await runtime.db.read(tasks.find, task.id)
    shown = await get_task(runtime, principal, task.id)

    assert before is not None
    assert "sig=secret" in (before.request_body or "")
    assert after is not None
    assert "sig=secret" not in (after.request_body or "")
    assert "sig=secret" not in str(shown.echo)


async def test_a_list_has_the_projects_tasks_newest_first(
    runtime: Runtime, principal: Principal, clock: FakeClock
) -> None:
    made = []
    for _ in range(3):
        made.append(await submit(runtime, principal))
        clock.advance(1)

    page = await list_tasks(runtime, principal, TaskQuery(page_num=1, page_size=2))

    assert page.total == 3
    assert [entry.task.id for entry in page.entries] == [made[2].id, made[1].id]


async def test_a_deleted_task_is_gone_from_every_view(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = DONE
    await look(runtime, upstream, clock, 60)

    await cancel_task(runtime, principal, task.id)

    assert (await list_tasks(runtime, principal, TaskQuery())).total == 0
    with pytest.raises(TaskNotFound):
        await get_task(runtime, principal, task.id)
    with pytest.raises(TaskNotFound):
        await cancel_task(runtime, principal, task.id)
    assert (await stored(runtime, task)).state is TaskState.SUCCEEDED


async def test_a_task_that_its_upstream_names_as_we_do_is_not_taken_for_an_imported_one(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.takes_our_ids = True
    task = await submit(runtime, principal)
    assert (task.upstream_task_id, task.is_imported) == (task.id, False)

    await cancel_task(runtime, principal, task.id)

    assert upstream.cancels == [task.id]
    assert (await stored(runtime, task)).state is TaskState.CANCELLED


async def test_another_credential_s_tasks_are_left_to_its_own_loop(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await submit(runtime, principal)
    clock.advance(60)

    assert await observe_due(runtime, upstream, "another") == 0
    assert await observe_due(replace(runtime), upstream, "default") == 1


async def test_a_change_during_the_first_read_is_not_slept_through(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    runtime.status_cache.clear()
    database = GatedDatabase(runtime.db)
    slow = replace(runtime, db=database)
    database.gate.clear()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(get_task(slow, principal, task.id))
        await database.was_read.wait()
        upstream.shown["up-1"] = DONE
        await look(runtime, upstream, clock, 30)
        database.gate.set()
    old = reading.result()

    waited = await wait_for_change(runtime, principal, task.id, old, 60)

    assert old.task.state is TaskState.QUEUED
    assert waited.task.state is TaskState.SUCCEEDED


async def test_a_thousand_readers_after_a_change_cost_one_read(
    runtime: Runtime, principal: Principal
) -> None:
    task = await submit(runtime, principal)
    runtime.status_cache.clear()
    database = GatedDatabase(runtime.db)
    crowd = replace(runtime, db=database)

    await asyncio.gather(*(get_task(crowd, principal, task.id) for _ in range(1000)))

    assert database.read_count == 1


async def test_a_task_seen_between_two_absences_is_given_its_ten_minutes_again(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    seen = upstream.shown.pop("up-1")
    await look(runtime, upstream, clock, 100)
    upstream.shown["up-1"] = Observation("running", seen.fields)
    await look(runtime, upstream, clock, 300)
    del upstream.shown["up-1"]
    for _ in range(4):
        await look(runtime, upstream, clock, 100)

    assert (await stored(runtime, task)).state is TaskState.RUNNING


async def test_a_clock_that_was_put_back_does_not_stop_the_looks(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = DONE

    assert await look(runtime, upstream, clock, -7200) == 1
    assert (await stored(runtime, task)).state is TaskState.SUCCEEDED


async def test_the_observer_waits_as_long_as_the_upstream_asks(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.read_error = UpstreamTimeout("slow down", retry_after_s=50)

    await look(runtime, upstream, clock, 30)

    next_at_ms = (await stored(runtime, task)).next_poll_at_ms
    assert next_at_ms is not None
    assert next_at_ms >= clock.now_ms() + 50_000


async def test_tasks_of_an_upstream_that_is_configured_no_more_are_found(
    runtime: Runtime, principal: Principal
) -> None:
    await submit(runtime, principal)

    assert await find_orphans(runtime, runtime.config.upstreams) == {}
    assert await find_orphans(runtime, ()) == {("fake", "default"): 1}


async def test_lost_submissions_of_an_upstream_that_is_configured_no_more_are_found(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    await lose(runtime, principal, upstream)

    assert await find_orphans(runtime, ()) == {("fake", "default"): 1}
