"""What callbacks leave in the store: earlier and later looks, and claims. On both databases."""

from dataclasses import replace

import pytest

from gateway.domain.attempts import Attempt, Markers, Shape
from gateway.domain.tasks import IMPORTED_KEY, Event, Task, TaskState
from gateway.ports import Database
from gateway.storage import attempts, callbacks, tasks
from gateway.storage.tasks import Reschedule
from tests.support.stored import NOW_MS, a_task, moved

LEASE_MS = NOW_MS + 60_000
PLANNED_MS = NOW_MS + 90_000


async def admit(database: Database, task: Task) -> Task:
    await database.write(tasks.admit, task, "{}", None)
    attempt = Attempt(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        fingerprint="same",
        owner="process",
        client_owner="process",
        created_at_ms=task.created_at_ms,
        shape=Shape("seedance"),
        markers=Markers(callback_token=f"hashed-{task.id}"),
    )
    await database.write(attempts.insert, attempt)
    return task


async def follow(database: Database, task: Task, next_poll_at_ms: int = LEASE_MS) -> Task:
    after = moved(task, Event.ACCEPTED, next_poll_at_ms=next_poll_at_ms)
    assert await database.write(tasks.apply_transition, task, after, Event.ACCEPTED)
    return after


async def lose(database: Database, task: Task) -> Task:
    after = moved(task, Event.LOST, upstream_task_id=None)
    assert await database.write(tasks.apply_transition, task, after, Event.LOST)
    return after


async def get(database: Database, task: Task) -> Task:
    stored = await database.read(tasks.find, task.id)
    assert stored is not None
    return stored.task


async def test_an_attempt_is_found_by_the_hash_of_its_token(database: Database) -> None:
    task = await admit(database, a_task())

    called = await database.read(callbacks.find_called, f"hashed-{task.id}")
    assert called is not None
    assert (called.task, called.attempt.task_id) == (task, task.id)
    assert await database.read(callbacks.find_called, "another") is None


async def test_an_earlier_look_outlives_the_result_of_the_one_under_way(
    database: Database,
) -> None:
    looked_at = await follow(database, await admit(database, a_task()))
    await database.write(callbacks.hasten_look, looked_at.id, NOW_MS, NOW_MS)
    plan = Reschedule(looked_at.id, looked_at.version, PLANNED_MS, 1, 0, None, LEASE_MS)
    await database.write(tasks.reschedule, [plan])
    assert (await get(database, looked_at)).next_poll_at_ms == NOW_MS

    after = moved(looked_at, Event.STARTED, next_poll_at_ms=PLANNED_MS)
    assert await database.write(tasks.apply_transition, looked_at, after, Event.STARTED)
    found = await get(database, looked_at)
    assert (found.state, found.next_poll_at_ms) == (TaskState.RUNNING, NOW_MS)
    assert found.called_back_at_ms == NOW_MS


async def test_a_task_that_ends_is_not_looked_at_again_for_a_callback(database: Database) -> None:
    looked_at = await follow(database, await admit(database, a_task()))
    await database.write(callbacks.hasten_look, looked_at.id, NOW_MS, NOW_MS)
    after = moved(looked_at, Event.SUCCEEDED, next_poll_at_ms=None)
    assert await database.write(tasks.apply_transition, looked_at, after, Event.SUCCEEDED)
    await database.write(callbacks.hasten_look, looked_at.id, NOW_MS + 5, NOW_MS)

    assert (await get(database, looked_at)).next_poll_at_ms is None


async def test_a_look_is_never_put_off_by_one_that_is_asked_for(database: Database) -> None:
    task = await follow(database, await admit(database, a_task()), NOW_MS + 10)
    await database.write(callbacks.hasten_look, task.id, NOW_MS, PLANNED_MS)

    assert (await get(database, task)).next_poll_at_ms == NOW_MS + 10


async def test_a_look_is_put_off_once_and_only_from_where_it_was(database: Database) -> None:
    task = await follow(database, await admit(database, a_task()), NOW_MS + 10)
    stale = replace(task, next_poll_at_ms=NOW_MS + 9)
    await database.write(callbacks.put_off_look, stale, NOW_MS, PLANNED_MS)
    assert (await get(database, task)).next_poll_at_ms == NOW_MS + 10

    await database.write(callbacks.put_off_look, task, NOW_MS, PLANNED_MS)
    put_off = await get(database, task)
    assert (put_off.next_poll_at_ms, put_off.called_back_at_ms) == (PLANNED_MS, NOW_MS)
    await database.write(callbacks.put_off_look, put_off, NOW_MS, PLANNED_MS + 1)
    assert (await get(database, task)).next_poll_at_ms == PLANNED_MS


async def test_claims_wait_until_they_are_verified_the_first_one_first(
    database: Database,
) -> None:
    early, lost = await admit(database, a_task(1)), await admit(database, a_task(2))
    await database.write(callbacks.note_call, early.id, NOW_MS, "up-1")
    lost = await lose(database, lost)
    await database.write(callbacks.note_call, lost.id, NOW_MS, "up-2")
    await database.write(callbacks.note_call, lost.id, NOW_MS, "up-3")

    (claim,) = await database.read(callbacks.list_claims, 10)
    assert (claim.task.id, claim.attempt.claimed_task_id) == (lost.id, "up-2")
    await lose(database, early)
    assert len(await database.read(callbacks.list_claims, 10)) == 2
    await database.write(callbacks.drop_claim, lost.id, "another")
    assert len(await database.read(callbacks.list_claims, 10)) == 2
    await database.write(callbacks.drop_claim, lost.id, "up-2")
    (claim,) = await database.read(callbacks.list_claims, 10)
    assert claim.attempt.claimed_task_id == "up-1"
    assert (await get(database, lost)).called_back_at_ms == NOW_MS


@pytest.mark.parametrize("event", [Event.ACCEPTED, Event.REFUSED])
async def test_a_task_whose_outcome_is_known_takes_no_claim(
    database: Database, event: Event
) -> None:
    task = await admit(database, a_task())
    after = moved(task, event)
    assert await database.write(tasks.apply_transition, task, after, event)
    await database.write(callbacks.note_call, task.id, NOW_MS, "up-9")

    attempt = await database.read(attempts.find, task.id)
    assert attempt is not None
    assert attempt.claimed_task_id is None
    assert (await get(database, task)).called_back_at_ms is None


async def test_imported_tasks_are_found_by_id_and_upstream_id(database: Database) -> None:
    task = a_task(3, state=TaskState.QUEUED)
    task = replace(
        task,
        key_id=IMPORTED_KEY,
        upstream_task_id=task.id,
        version=1,
        next_poll_at_ms=NOW_MS,
    )
    await database.write(tasks.admit_imported, task)
    route = task.route

    assert await get(database, task) == task
    assert task.is_imported
    found = await database.read(
        tasks.find_by_upstream_id, route.upstream, route.credential, task.id
    )
    assert found == task
    assert await database.read(tasks.find_ids, [task.id, "nobody"]) == {
        task.id: (route.upstream, task.project_id)
    }
