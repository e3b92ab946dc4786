"""Attempts on both stores: kept as they were made, and joined by whom the rule lets."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.attempts import Attempt, Markers, Shape
from gateway.domain.tasks import Event, Task, TaskState
from gateway.ports import Database
from gateway.storage import attempts, presence, projects, schema, tasks
from tests.contract.conftest import Place
from tests.support.booked import an_attempt
from tests.support.stored import NOW_MS, a_project, a_task, an_event, moved

KEY: Final = "Key000000000"
AGE_MS: Final = 60_000
"""More than a test takes: PostgreSQL goes by its own clock."""
OWN: Final = "process-b"
"""Whose process asks; `process` is the one whose first requests are stored."""


async def add(database: Database, number: int, **changes: Any) -> Task:
    """Store a task with its attempt; `changes` are the attempt's."""
    task = a_task(number)

    def insert(conn: sa.Connection, attempt: Attempt) -> None:
        tasks.admit(conn, task, "{}", None)
        attempts.insert(conn, attempt)

    await database.write(insert, replace(an_attempt(task), **changes))
    return task


async def join(database: Database, *, is_repeat: bool = False, **changes: Any) -> str | None:
    asked: dict[str, Any] = {
        "key_id": KEY,
        "fingerprint": "0" * 64,
        "since_ms": NOW_MS,
        "owner": OWN,
        "now_ms": NOW_MS,
        "alive_for_ms": AGE_MS,
        **changes,
    }
    return await database.write(attempts.join, is_repeat=is_repeat, **asked)


async def find(database: Database, task: Task) -> Attempt:
    found = await database.read(attempts.find, task.id)
    assert found is not None
    return found


async def see_alive(
    database: Database, process_id: str = "process", forget_after_ms: int | None = AGE_MS
) -> None:
    await database.write(presence.see_process, process_id, NOW_MS, forget_after_ms)


async def test_an_attempt_is_found_as_it_was_made(database: Database) -> None:
    full = Attempt(
        task_id=a_task(1).id,
        project_id="proj_default",
        key_id=KEY,
        fingerprint="f" * 64,
        owner="ü",
        client_owner="ü",
        created_at_ms=NOW_MS,
        shape=Shape("ep-1", "480p", "16:9", 5),
        markers=Markers(2**31 - 1, 172_001, "sgmaaaaaaaaaaaaa", "t" * 64),
        has_client_left=True,
        is_answered=True,
        is_id_given=True,
        callback_url="https://client.example/hook?a=ü",
        probe_count=3,
        pass_count=2,
        next_probe_at_ms=NOW_MS + 5,
    )
    plain = an_attempt(a_task(2))
    await add(database, 1, **{name: getattr(full, name) for name in Attempt.__slots__})
    await add(database, 2)

    assert await database.read(attempts.find, a_task(1).id) == full
    assert await database.read(attempts.find, a_task(2).id) == plain
    assert await database.read(attempts.find, a_task(9).id) is None
    assert await database.read(attempts.find_by_token, "t" * 64) == full
    assert await database.read(attempts.find_by_token, "u" * 64) is None


async def test_a_client_that_left_is_replaced_once(database: Database) -> None:
    await see_alive(database)
    task = await add(database, 1)
    assert await join(database) is None
    await database.write(attempts.note_client_left, task.id)

    joined = await asyncio.gather(*(join(database) for _ in range(8)))

    assert [each for each in joined if each is not None] == [task.id]
    after = await find(database, task)
    assert (after.client_owner, after.has_client_left, after.is_id_given) == (OWN, False, True)
    # Until the new client is gone, too.
    await see_alive(database, OWN)
    await database.write(attempts.note_client_left, task.id)
    assert await join(database) == task.id


async def test_clients_of_a_dead_process_are_gone_and_those_of_a_living_one_are_not(
    database: Database,
) -> None:
    task = await add(database, 1)
    await see_alive(database)
    assert await join(database) is None

    # The one that asks knows best of its own clients, also if nobody saw it alive.
    assert await join(database, owner="process", alive_for_ms=-AGE_MS) is None
    assert await join(database, alive_for_ms=-AGE_MS) == task.id
    assert await join(database, owner="process-c", alive_for_ms=-AGE_MS) == task.id


async def test_processes_that_are_not_seen_for_long_are_forgotten(database: Database) -> None:
    def read(conn: sa.Connection) -> list[str]:
        return sorted(conn.execute(sa.select(schema.processes.c.id)).scalars())

    await see_alive(database, "old")
    await see_alive(database, "new")
    await see_alive(database, "new")
    assert await database.read(read) == ["new", "old"]

    await see_alive(database, "new", forget_after_ms=-AGE_MS)
    assert await database.read(read) == ["new"]
    await see_alive(database, "newest", forget_after_ms=None)
    assert await database.read(read) == ["newest"]


async def test_of_processes_whose_clocks_differ_none_takes_another_for_dead(
    postgres_place: Place,
) -> None:
    database = await postgres_place.open()
    await database.write(projects.insert, a_project("default"), an_event("default"))
    task = await add(database, 1)
    for now_ms in (NOW_MS - 3_600_000, NOW_MS + 3_600_000):
        await database.write(presence.see_process, "process", now_ms, AGE_MS)

        assert await join(database) is None
        found = await database.read(tasks.find_lost, NOW_MS - 1, 10, owner=OWN, alive_for_ms=AGE_MS)
        assert task.submit_deadline_at_ms > NOW_MS - 1
        assert not found
    await database.close()


async def test_who_joins_waits_for_the_answer_and_the_sender_stays_who_it_is(
    database: Database,
) -> None:
    task = await add(database, 1, has_client_left=True)
    await see_alive(database, OWN)
    assert await join(database) == task.id

    after = await find(database, task)
    assert (after.owner, after.client_owner) == ("process", OWN)
    # The sender was never seen: what it sent is lost, though the new client's process lives.
    lost = await database.read(
        tasks.find_lost, NOW_MS - 1, 10, owner="process-c", alive_for_ms=AGE_MS
    )
    assert [each.id for each in lost] == [task.id]
    assert await join(database, owner="process-c") is None


async def test_what_is_not_the_same_request_or_is_over_is_not_joined(database: Database) -> None:
    left: dict[str, Any] = {"has_client_left": True}
    answered = await add(database, 1, **left)
    rejected = await add(database, 2, **left)
    hidden = await add(database, 3, **left)
    await database.write(attempts.note_answered, answered.id)
    for task, event in ((rejected, Event.REFUSED), (hidden, Event.REFUSED_LATE)):
        await database.write(tasks.apply_transition, task, moved(task, event), event)
    assert await database.write(tasks.hide, "proj_default", hidden.id, NOW_MS)
    old = await add(database, 4, **left, created_at_ms=NOW_MS - 1)
    for number, changes in enumerate([{"key_id": "Key000000001"}, {"fingerprint": "1" * 64}], 5):
        await add(database, number, **left, **changes)

    for is_repeat in (False, True):
        assert await join(database, is_repeat=is_repeat) is None
    assert await join(database, since_ms=NOW_MS - 1) == old.id


async def test_a_repeat_that_says_so_takes_the_place_of_whoever_was_not_answered(
    database: Database,
) -> None:
    await see_alive(database)
    task = await add(database, 1)
    assert await join(database) is None

    assert await join(database, is_repeat=True) == task.id
    # Its first request may be this one, so it shares the place if there is no other.
    assert await join(database, is_repeat=True) == task.id
    await database.write(attempts.note_answered, task.id)
    assert await join(database, is_repeat=True) is None


async def test_repeats_at_once_get_a_task_each(place: Place, database: Database) -> None:
    rival = await place.open()
    await see_alive(database)
    made = [(await add(database, number)).id for number in range(6)]

    joined = await asyncio.gather(
        *(join((database, rival)[number % 2], is_repeat=True) for number in range(6))
    )
    await rival.close()

    assert sorted(map(str, joined)) == made


async def test_whose_client_is_known_to_be_gone_comes_first_and_then_the_oldest(
    database: Database,
) -> None:
    await see_alive(database)
    made = [await add(database, number) for number in range(4)]
    for number in (3, 2):
        await database.write(attempts.note_client_left, made[number].id)

    joined = [await join(database, is_repeat=True) for _ in range(4)]

    assert joined == [made[number].id for number in (2, 3, 0, 1)]


async def test_an_id_is_given_of_what_was_not_refused(database: Database) -> None:
    task, refused = await add(database, 1), await add(database, 2)
    after = moved(refused, Event.REFUSED)
    await database.write(tasks.apply_transition, refused, after, Event.REFUSED)

    assert await database.write(attempts.give_id, task.id) is TaskState.RESERVED
    assert await database.write(attempts.give_id, refused.id) is None
    assert await database.write(attempts.give_id, a_task(9).id) is None

    assert (await find(database, task)).is_id_given
    assert not (await find(database, task)).is_answered
    assert not (await find(database, refused)).is_id_given


async def test_the_unknown_are_listed_the_oldest_first_with_what_the_lists_have_shown(
    database: Database,
) -> None:
    made = [await add(database, number, probe_count=number) for number in range(4)]
    for task in made[1:]:
        await database.write(tasks.apply_transition, task, moved(task, Event.LOST), Event.LOST)
    await database.write(attempts.schedule_probe, made[2].id, 7, 2, NOW_MS + 9)

    found = await database.read(attempts.list_unknown, "ark", "main", 10)

    assert [each.task_id for each in found] == [task.id for task in made[1:]]
    assert (found[1].probe_count, found[1].pass_count, found[1].next_probe_at_ms) == (
        7,
        2,
        NOW_MS + 9,
    )
    assert len(await database.read(attempts.list_unknown, "ark", "main", 2)) == 2
    assert not await database.read(attempts.list_unknown, "ark", "second", 10)
