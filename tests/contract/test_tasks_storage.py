"""Tasks in the store: the compare-and-set, the leases, and what each project may see."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.domain.tasks import Event, Task, TaskError, TaskState
from gateway.ports import Database
from gateway.storage import schema, tasks
from gateway.storage.tasks import Reschedule, StoredTask, TaskFilter
from tests.support.stored import NOW_MS, a_task, moved

EVERYTHING = TaskFilter(since_ms=0)


def read_history(conn: sa.Connection, task_id: str) -> list[tuple[Any, ...]]:
    rows = conn.execute(
        sa.select(schema.task_transitions)
        .where(schema.task_transitions.c.task_id == task_id)
        .order_by(schema.task_transitions.c.version)
    )
    return [tuple(row)[1:] for row in rows]


async def admit(database: Database, *admitted: Task) -> None:
    await asyncio.gather(
        *(database.write(tasks.admit, task, f'{{"of":"{task.id}"}}', None) for task in admitted)
    )


async def move(database: Database, task: Task, *events: Event, **changes: Any) -> Task:
    """Move the task by each event; `changes` go with the last one."""
    for event in events[:-1]:
        task = await move(database, task, event)
    after = moved(task, events[-1], **changes)
    assert await database.write(tasks.apply_transition, task, after, events[-1])
    return after


async def get(database: Database, task_id: str) -> Task:
    stored = await database.read(tasks.find, task_id)
    assert stored is not None
    return stored.task


def looks(*found: Task) -> list[str]:
    return sorted(task.id for task in found)


async def test_keeps_every_field_of_a_task(database: Database) -> None:
    task = a_task(service_tier="flex")
    after = moved(
        task,
        Event.ACCEPTED,
        expires_at_ms=NOW_MS + 5,
        upstream_request_id="req-1",
        fields={"content": {"video_url": "https://example.com/v?sig=ü"}, "seed": 7, "usage": None},
        error=TaskError("Code", "A message."),
        next_poll_at_ms=NOW_MS + 1,
        poll_count=2,
        missing_count=3,
        missing_since_ms=NOW_MS + 4,
        deleted_at_ms=None,
    )
    await admit(database, task)
    assert await database.read(tasks.find, task.id) == StoredTask(task, f'{{"of":"{task.id}"}}')

    assert await database.write(tasks.apply_transition, task, after, Event.ACCEPTED)

    assert await get(database, task.id) == after


async def test_keeps_whatever_an_upstream_says(database: Database) -> None:
    hostile = "NUL \x00, lone surrogate \ud800, \U0010ffff, 'quote'"
    fields = {hostile: hostile, "huge": 10**40, "deep": [[[[{}]]]], "not a number": 1e308}
    task = a_task()
    await admit(database, task)

    after = await move(
        database, task, Event.ACCEPTED, Event.FAILED, fields=fields, error=TaskError("X", hostile)
    )

    assert await get(database, task.id) == after


async def test_one_of_sixteen_movers_wins(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    rivals = [moved(task, Event.ACCEPTED, upstream_task_id=f"up-{n}") for n in range(16)]

    won = await asyncio.gather(
        *(database.write(tasks.apply_transition, task, after, Event.ACCEPTED) for after in rivals)
    )

    assert sum(won) == 1
    assert await get(database, task.id) == rivals[won.index(True)]
    assert len(await database.read(read_history, task.id)) == 2


async def test_a_late_writer_does_not_overwrite_a_newer_state(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    queued = await move(database, task, Event.ACCEPTED)
    ended = await move(database, queued, Event.SUCCEEDED)

    late = moved(queued, Event.STARTED)

    assert not await database.write(tasks.apply_transition, queued, late, Event.STARTED)
    assert await get(database, task.id) == ended


async def test_writes_one_row_of_history_for_each_move(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    after = await move(database, task, Event.LOST, Event.STARTED, Event.EXPIRED)

    first_ms = task.created_at_ms
    assert await database.read(read_history, task.id) == [
        (1, None, "reserved", None, first_ms),
        (2, "reserved", "unknown", "lost", first_ms + 1000),
        (3, "unknown", "running", "started", first_ms + 2000),
        (4, "running", "expired", "expired", first_ms + 3000),
    ]
    assert after.version == 4


async def test_refuses_to_run_without_the_upstreams_id(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    nameless = replace(moved(task, Event.ACCEPTED), upstream_task_id=None)

    with pytest.raises(sa.exc.IntegrityError, match="tasks_observed_check"):
        await database.write(tasks.apply_transition, task, nameless, Event.ACCEPTED)

    assert await get(database, task.id) == task


async def test_two_tasks_never_have_the_same_upstream_task(database: Database) -> None:
    first, second = a_task(1), a_task(2)
    await admit(database, first, second)
    await move(database, first, Event.ACCEPTED, upstream_task_id="up-same")

    with pytest.raises(sa.exc.IntegrityError):
        await move(database, second, Event.ACCEPTED, upstream_task_id="up-same")

    assert await get(database, second.id) == second


OWNED: list[Callable[[Database, str, str], Any]] = [
    lambda database, project, task: database.read(tasks.find_owned, project, task),
    lambda database, project, task: database.read(
        tasks.page_owned, project, replace(EVERYTHING, task_ids=(task,)), 0, 10
    ),
    lambda database, project, task: database.write(tasks.hide, project, task, NOW_MS),
]


@pytest.mark.parametrize("ask", OWNED, ids=["find_owned", "page_owned", "hide"])
async def test_tells_a_foreign_task_and_an_unknown_one_alike(
    database: Database, ask: Callable[[Database, str, str], Any]
) -> None:
    task = a_task()
    await admit(database, task)
    ended = await move(database, task, Event.ACCEPTED, Event.SUCCEEDED)

    foreign = await ask(database, "proj_other", task.id)
    unknown = await ask(database, "proj_default", a_task(9).id)
    own = await ask(database, "proj_default", task.id)

    assert foreign == unknown
    assert own != foreign
    assert (await get(database, task.id)).state is ended.state


async def test_does_not_show_a_rejected_task_to_its_client(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    await move(database, task, Event.REFUSED)

    assert await database.read(tasks.find_owned, "proj_default", task.id) is None
    page = await database.read(tasks.page_owned, "proj_default", EVERYTHING, 0, 10)
    assert page.total == 0
    assert not await database.write(tasks.hide, "proj_default", task.id, NOW_MS)
    assert (await get(database, task.id)).state is TaskState.REJECTED


async def test_hides_an_ended_task_once(database: Database) -> None:
    task = a_task()
    await admit(database, task)
    ended = await move(database, task, Event.ACCEPTED, Event.SUCCEEDED)

    hidden = await asyncio.gather(
        *(database.write(tasks.hide, "proj_default", task.id, NOW_MS + n) for n in range(8))
    )

    assert sum(hidden) == 1
    assert await database.read(tasks.find_owned, "proj_default", task.id) is None
    kept = await get(database, task.id)
    assert kept == replace(ended, deleted_at_ms=kept.deleted_at_ms, version=ended.version + 1)


@pytest.mark.parametrize(
    "events", [(), (Event.LOST,), (Event.ACCEPTED,), (Event.LOST, Event.STARTED)]
)
async def test_does_not_hide_an_unfinished_task(
    database: Database, events: tuple[Event, ...]
) -> None:
    task = a_task()
    await admit(database, task)
    if events:
        await move(database, task, *events)

    assert not await database.write(tasks.hide, "proj_default", task.id, NOW_MS)
    assert await database.read(tasks.find_owned, "proj_default", task.id) is not None


async def test_lists_the_newest_first_page_by_page(database: Database) -> None:
    # Pairs of the same millisecond: the order must be total, or pages would overlap.
    made = [a_task(number, created_at_ms=NOW_MS + number // 2) for number in range(25)]
    await admit(database, *made, a_task(99, project_id="proj_other"))

    pages = [
        await database.read(tasks.page_owned, "proj_default", EVERYTHING, offset, 10)
        for offset in (0, 10, 20, 30)
    ]

    assert [page.total for page in pages] == [25] * 4
    listed = [stored for page in pages for stored in page.items]
    assert [stored.task for stored in listed] == made[::-1]
    assert listed[0].request_body == f'{{"of":"{made[-1].id}"}}'


async def test_filters_a_list(database: Database) -> None:
    reserved, unknown, queued, running, failed = (a_task(number) for number in range(5))
    flex = a_task(5, model="other-model", service_tier="flex")
    await admit(database, reserved, unknown, queued, running, failed, flex)
    await move(database, unknown, Event.LOST)
    await move(database, queued, Event.ACCEPTED)
    await move(database, running, Event.ACCEPTED, Event.STARTED)
    await move(database, failed, Event.ACCEPTED, Event.FAILED)

    async def ids(**asked: Any) -> list[int]:
        chosen = replace(EVERYTHING, **asked)
        page = await database.read(tasks.page_owned, "proj_default", chosen, 0, 10)
        assert page.total == len(page.items)
        return sorted(int(stored.task.id[-20:]) for stored in page.items)

    assert await ids() == [0, 1, 2, 3, 4, 5]
    assert await ids(statuses=("queued",)) == [0, 1, 2, 5]
    assert await ids(statuses=("running", "failed")) == [3, 4]
    assert await ids(statuses=("expired",)) == []
    assert await ids(statuses=("rejected", "reserved", "no' such -- word")) == []
    assert await ids(task_ids=(queued.id, flex.id, "cgt-none")) == [2, 5]
    assert await ids(model="other-model") == [5]
    assert await ids(model="other%") == []
    assert await ids(service_tier="flex") == [5]
    assert await ids(service_tier="default", statuses=("running",)) == [3]
    assert await ids(since_ms=NOW_MS + 4) == [4, 5]


async def test_filters_by_five_hundred_ids(database: Database) -> None:
    await admit(database, a_task(3))
    wanted = tuple(a_task(number).id for number in range(500))

    page = await database.read(
        tasks.page_owned, "proj_default", replace(EVERYTHING, task_ids=wanted), 0, 500
    )

    assert page.total == 1


def claim(database: Database, now_ms: int, limit: int, credential: str = "main") -> Any:
    return database.write(
        tasks.claim_due,
        "ark",
        credential,
        now_ms=now_ms,
        far_ms=now_ms + 600_000,
        lease_until_ms=now_ms + 60_000,
        limit=limit,
    )


async def due_tasks(database: Database, numbers: range, **changes: Any) -> list[Task]:
    made = [a_task(number, **changes) for number in numbers]
    await admit(database, *made)
    return await asyncio.gather(
        *(move(database, task, Event.ACCEPTED, next_poll_at_ms=task.created_at_ms) for task in made)
    )


async def test_sixteen_claimers_get_each_due_task_once(database: Database) -> None:
    due = await due_tasks(database, range(200))
    claimed: list[Task] = []

    async def claim_all() -> None:
        while found := await claim(database, NOW_MS + 1000, 7):
            claimed.extend(found)
            assert len(found) <= 7

    await asyncio.gather(*(claim_all() for _ in range(16)))

    assert looks(*claimed) == looks(*due)
    assert {task.next_poll_at_ms for task in claimed} == {NOW_MS + 61_000}


async def test_claims_again_what_a_dead_claimer_left(database: Database) -> None:
    (task,) = await due_tasks(database, range(1))
    assert looks(*await claim(database, NOW_MS, 10)) == [task.id]
    assert await claim(database, NOW_MS + 59_999, 10) == []

    assert looks(*await claim(database, NOW_MS + 60_000, 10)) == [task.id]


async def test_claims_the_longest_due_first(database: Database) -> None:
    due = await due_tasks(database, range(10))

    assert looks(*await claim(database, NOW_MS + 8, 3)) == looks(*due[:3])
    assert looks(*await claim(database, NOW_MS + 8, 100)) == looks(*due[3:9])


async def test_claims_only_what_the_upstream_runs_for_this_credential(database: Database) -> None:
    (running,) = await due_tasks(database, range(1))
    running = await move(database, running, Event.STARTED)
    reserved, lost, ended = a_task(1), a_task(2), a_task(3)
    await admit(database, reserved, lost, ended)
    await move(database, lost, Event.LOST, next_poll_at_ms=NOW_MS)
    await move(database, ended, Event.ACCEPTED, Event.FAILED, next_poll_at_ms=NOW_MS)
    other_route = replace(running.route, credential="second")
    (other,) = await due_tasks(database, range(4, 5), route=other_route)

    assert looks(*await claim(database, NOW_MS + 10, 10)) == [running.id]
    assert looks(*await claim(database, NOW_MS + 10, 10, "second")) == [other.id]


async def test_tells_when_the_next_look_is_due(database: Database) -> None:
    assert await database.read(tasks.next_due_at, "ark", "main") is None
    await due_tasks(database, range(5, 8))

    assert await database.read(tasks.next_due_at, "ark", "main") == NOW_MS + 5
    assert await database.read(tasks.next_due_at, "ark", "second") is None
    await claim(database, NOW_MS + 6, 10)
    assert await database.read(tasks.next_due_at, "ark", "main") == NOW_MS + 7


async def test_reschedules_what_has_not_moved_on(database: Database) -> None:
    still, moving = await due_tasks(database, range(2))
    running = await move(database, moving, Event.STARTED)

    await database.write(
        tasks.reschedule,
        [
            Reschedule(task.id, task.version, NOW_MS + 99, 4, 2, NOW_MS + 1)
            for task in (moving, still)
        ],
    )
    await database.write(tasks.reschedule, [])

    assert await get(database, moving.id) == running
    assert await get(database, still.id) == replace(
        still,
        next_poll_at_ms=NOW_MS + 99,
        poll_count=4,
        missing_count=2,
        missing_since_ms=NOW_MS + 1,
    )


async def test_finds_submissions_past_their_deadline(database: Database) -> None:
    lost = [a_task(number, submit_deadline_at_ms=NOW_MS + number) for number in range(4)]
    await admit(database, *lost)
    await move(database, lost[1], Event.ACCEPTED)

    found = await database.read(tasks.find_lost, NOW_MS + 2, 10)
    assert list(found) == [lost[0], lost[2]]
    assert list(await database.read(tasks.find_lost, NOW_MS + 2, 1)) == [lost[0]]


async def test_counts_unfinished_tasks_by_state(database: Database) -> None:
    made = [a_task(number) for number in range(6)]
    await admit(database, *made)
    await move(database, made[0], Event.LOST)
    await move(database, made[1], Event.ACCEPTED)
    await move(database, made[2], Event.ACCEPTED)
    await move(database, made[3], Event.ACCEPTED, Event.SUCCEEDED)

    assert await database.read(tasks.count_unfinished) == {
        TaskState.RESERVED: 2,
        TaskState.UNKNOWN: 1,
        TaskState.QUEUED: 2,
        TaskState.RUNNING: 0,
    }


async def test_lists_everything_for_operators(database: Database) -> None:
    own, foreign, rejected = a_task(1), a_task(2, project_id="proj_other"), a_task(3)
    await admit(database, own, foreign, rejected)
    refused = await move(database, rejected, Event.REFUSED)

    assert list(await database.read(tasks.list_all, 10)) == [refused, foreign, own]
    assert list(await database.read(tasks.list_all, 1)) == [refused]
    assert list(await database.read(tasks.list_all, 10, project_id="proj_other")) == [foreign]
    assert list(await database.read(tasks.list_all, 10, state=TaskState.REJECTED)) == [refused]
    assert list(await database.read(tasks.list_all, 10, since_ms=NOW_MS + 2)) == [refused, foreign]
