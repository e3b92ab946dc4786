"""Keys, projects, stored requests and the audit trail."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.ports import Database
from gateway.storage import audit, keys, meta, projects, requests, tasks
from gateway.storage.requests import RequestSelector, StoredRequest
from tests.support.stored import NOW_MS, a_key, a_project, a_task, an_event


async def subjects(database: Database) -> list[str]:
    events = await database.read(audit.list_events, 0, 100)
    return sorted(event.subject for event in events if event.subject not in {"default", "other"})


async def test_adds_a_key_with_its_audit_row(database: Database) -> None:
    key = a_key(1, expires_at_ms=NOW_MS + 5, models=("a", "b"))

    assert await database.write(keys.insert, key, an_event("key"))

    assert await database.read(keys.find, key.id) == key
    assert await subjects(database) == ["key"]


async def test_adds_a_key_once(database: Database) -> None:
    added = await asyncio.gather(
        *(database.write(keys.insert, a_key(1), an_event(f"key {n}")) for n in range(8))
    )

    assert sum(added) == 1
    assert await database.read(keys.count) == 1
    assert len(await subjects(database)) == 1


async def test_adds_neither_key_nor_audit_row_without_the_project(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        await database.write(keys.insert, a_key(project_id="proj_none"), an_event("key"))

    assert await database.read(keys.count) == 0
    assert await subjects(database) == []


async def test_does_not_find_an_unknown_key(database: Database) -> None:
    assert await database.read(keys.find, "nobody") is None


async def test_lists_keys_of_all_projects_or_one(database: Database) -> None:
    made = [a_key(1), a_key(2, project_id="proj_other"), a_key(3)]
    for number, key in enumerate(made):
        await database.write(keys.insert, key, an_event("key", number))

    assert list(await database.read(keys.list_keys)) == made
    assert list(await database.read(keys.list_keys, "proj_default")) == [made[0], made[2]]
    assert list(await database.read(keys.list_keys, "proj_none")) == []


async def test_revokes_a_key_once(database: Database) -> None:
    key = a_key(1)
    await database.write(keys.insert, key, an_event("key"))

    revoked = await asyncio.gather(
        *(database.write(keys.revoke, key.id, NOW_MS + n, an_event("no", n)) for n in range(8))
    )

    assert sum(revoked) == 1
    found = await database.read(keys.find, key.id)
    assert found == replace(key, revoked_at_ms=NOW_MS + revoked.index(True))
    assert await subjects(database) == ["key", "no"]
    assert not await database.write(keys.revoke, "nobody", NOW_MS, an_event("nobody"))


async def test_sets_and_lifts_the_expiry_of_a_live_key(database: Database) -> None:
    key = a_key(1)
    await database.write(keys.insert, key, an_event("key"))

    assert await database.write(keys.set_expiry, key.id, NOW_MS + 9, an_event("key", 1))
    assert await database.read(keys.find, key.id) == replace(key, expires_at_ms=NOW_MS + 9)
    assert await database.write(keys.set_expiry, key.id, None, an_event("key", 2))
    assert await database.read(keys.find, key.id) == key
    await database.write(keys.revoke, key.id, NOW_MS, an_event("key", 3))
    assert not await database.write(keys.set_expiry, key.id, NOW_MS + 9, an_event("key", 4))
    assert len(await subjects(database)) == 4


async def test_adds_a_project_once(database: Database) -> None:
    rivals = [replace(a_project("new"), id=f"proj_{n}") for n in range(8)]
    added = await asyncio.gather(
        *(database.write(projects.insert, each, an_event(each.id)) for each in rivals)
    )

    assert sum(added) == 1
    winner = rivals[added.index(True)]
    assert await database.read(projects.find_by_name, "new") == winner
    assert await database.read(projects.find, winner.id) == winner
    assert await subjects(database) == [winner.id]
    assert await database.read(projects.count) == 3


async def test_lists_projects_by_name(database: Database) -> None:
    await database.write(projects.insert, a_project("another"), an_event("another"))

    found = await database.read(projects.list_projects)

    assert [project.name for project in found] == ["another", "default", "other"]
    assert await database.read(projects.find_by_name, "nobody") is None
    assert await database.read(projects.find, "nobody") is None


async def test_lists_the_newest_audit_events_first(database: Database) -> None:
    made = [replace(an_event("made", number), detail=str(number)) for number in range(5)]
    for event in made:
        await database.write(audit.add, event)

    found = await database.read(audit.list_events, NOW_MS + 1, 3)

    assert list(found) == [made[4], made[3], made[2]]
    assert len(await database.read(audit.list_events, NOW_MS + 4, 3)) == 1


async def store(database: Database, count: int, project_id: str = "proj_default") -> None:
    start = 100 if project_id == "proj_other" else 0
    for number in range(start, start + count):
        task = a_task(number, project_id=project_id)
        await database.write(tasks.admit, task, f'"{number}"', NOW_MS + number)


def bodies(found: Sequence[StoredRequest]) -> list[int]:
    return [int(request.body.strip('"')) for request in found]


async def test_finds_requests_whose_time_is_over(database: Database) -> None:
    await store(database, 5)
    await database.write(tasks.admit, a_task(9), '"9"', None)

    assert bodies(await database.read(requests.find_expired, NOW_MS + 2, 10)) == [0, 1, 2]
    assert bodies(await database.read(requests.find_expired, NOW_MS + 2, 2)) == [0, 1]


async def test_replaces_bodies_and_their_times(database: Database) -> None:
    await store(database, 3)
    expired = await database.read(requests.find_expired, NOW_MS + 1, 10)

    hashed = [replace(request, body='"77"', expires_at_ms=None) for request in expired]
    await database.write(requests.replace_bodies, hashed)
    await database.write(requests.replace_bodies, [])

    assert await database.read(requests.find_expired, NOW_MS + 1, 10) == []
    found = await database.read(requests.page_requests, RequestSelector(), "", 10)
    assert bodies(found) == [77, 77, 2]
    stored = await database.read(tasks.find, a_task(0).id)
    assert stored is not None
    assert stored.request_body == '"77"'


async def test_replaces_one_body(database: Database) -> None:
    await store(database, 2)

    await database.write(requests.replace_body, StoredRequest(a_task(1).id, '"5"', None))

    found = await database.read(requests.page_requests, RequestSelector(), "", 10)
    assert bodies(found) == [0, 5]


async def test_selects_requests_page_by_page(database: Database) -> None:
    await store(database, 5)
    await store(database, 2, "proj_other")

    async def select(selector: RequestSelector, after: str = "", limit: int = 10) -> list[int]:
        return bodies(await database.read(requests.page_requests, selector, after, limit))

    assert await select(RequestSelector(), limit=3) == [0, 1, 2]
    assert await select(RequestSelector(), a_task(2).id) == [3, 4, 100, 101]
    assert await select(RequestSelector(project_id="proj_other")) == [100, 101]
    assert await select(RequestSelector(before_ms=NOW_MS + 2)) == [0, 1]
    assert await select(RequestSelector(task_id=a_task(4).id)) == [4]
    assert await select(RequestSelector(task_id=a_task(4).id, project_id="proj_other")) == []


async def test_another_pepper_is_adopted_only_while_no_key_works(database: Database) -> None:
    assert await database.write(meta.adopt_pepper, "first", NOW_MS)
    assert await database.write(meta.adopt_pepper, "second", NOW_MS)
    expiring = a_key(1, expires_at_ms=NOW_MS + 10)
    for key in (expiring, a_key(2)):
        await database.write(keys.insert, key, an_event(key.id))

    assert await database.write(meta.adopt_pepper, "second", NOW_MS)
    assert not await database.write(meta.adopt_pepper, "third", NOW_MS)
    assert await database.read(meta.is_pepper, "second", NOW_MS)
    assert not await database.read(meta.is_pepper, "third", NOW_MS)

    await database.write(keys.revoke, a_key(2).id, NOW_MS, an_event("revoked"))
    assert await database.read(keys.count_valid, NOW_MS) == 1
    assert not await database.write(meta.adopt_pepper, "third", NOW_MS)
    assert await database.write(meta.adopt_pepper, "third", NOW_MS + 10)
    assert not await database.read(keys.count_valid, NOW_MS + 10)


async def test_of_peppers_adopted_at_once_one_is_kept(database: Database) -> None:
    await asyncio.gather(
        *(database.write(meta.adopt_pepper, f"{number}", NOW_MS) for number in range(8))
    )
    await database.write(keys.insert, a_key(1), an_event("key"))

    fitting = [await database.read(meta.is_pepper, f"{number}", NOW_MS) for number in range(8)]
    assert fitting.count(True) == 1
