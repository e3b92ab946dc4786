"""What the store knows of upstream accounts: what is lost, what is known, orphans, facts."""

import asyncio
from dataclasses import replace

import pytest

from gateway.domain.attempts import Attempt, Markers, Shape
from gateway.domain.billing import FREE, Evidence, EvidenceKind, Reservation, Usage, release
from gateway.domain.likeness import Standing
from gateway.domain.reconciling import Control
from gateway.domain.tasks import Event, Route, Task, TaskState
from gateway.ports import Database
from gateway.storage import accounts, attempts, ledger, meta, orphans, tasks
from gateway.storage.meta import AccountFact
from gateway.storage.orphans import StoredOrphan
from tests.contract.conftest import Place
from tests.support.stored import NOW_MS, a_task, moved

HOUR_MS = 3_600_000


async def admit(database: Database, task: Task) -> Task:
    await database.write(tasks.admit, task, "{}", None)
    attempt = Attempt(
        task.id,
        task.project_id,
        task.key_id,
        "same",
        "process",
        "process",
        task.created_at_ms,
        Shape("seedance"),
        Markers(seed=7),
    )
    await database.write(attempts.insert, attempt)
    held = Reservation(
        task.id, task.project_id, task.key_id, Usage(1, 1), FREE, task.created_at_ms, 0, 0
    )
    await database.write(ledger.hold, held)
    return task


async def move(database: Database, task: Task, event: Event, **changes: object) -> Task:
    after = moved(task, event, **changes)
    assert await database.write(tasks.apply_transition, task, after, event)
    return after


async def lose(database: Database, number: int, **changes: object) -> Task:
    task = await admit(database, a_task(number, **changes))
    return await move(database, task, Event.LOST, upstream_task_id=None)


async def give_up(
    database: Database, number: int, kind: EvidenceKind | None, **changes: object
) -> Task:
    task = await lose(database, number, **changes)
    ended = await move(database, task, Event.ABSENT, upstream_task_id=None)
    held = await database.read(ledger.find, task.id)
    if kind is not None:
        assert held is not None
        at_ms = ended.updated_at_ms
        await database.write(ledger.resolve, held, release(Evidence(kind)), at_ms, tasks_count=-1)
    return ended


async def claim(database: Database, now_ms: int = NOW_MS, limit: int = 10) -> set[str]:
    claimed = await database.write(
        attempts.claim_probes,
        "ark",
        "main",
        now_ms=now_ms,
        far_ms=now_ms + 2 * HOUR_MS,
        lease_until_ms=now_ms + 60_000,
        limit=limit,
    )
    return set(claimed)


async def test_the_agenda_tells_what_is_lost_and_when_it_is_looked_for(database: Database) -> None:
    elsewhere = Route("ark", "spare", "ep-1")
    first, second = await lose(database, 1), await lose(database, 2)
    await lose(database, 3, route=elsewhere)
    await admit(database, a_task(4))
    await database.write(attempts.schedule_probe, first.id, 1, 0, NOW_MS + 10)
    await database.write(attempts.schedule_probe, second.id, 1, 0, NOW_MS + 20)

    agenda = await database.read(accounts.find_agenda, "ark", "main")
    nothing = await database.read(accounts.find_agenda, "ark", "nobody")

    assert (agenda.lost_count, agenda.oldest_at_ms) == (2, first.created_at_ms)
    assert (agenda.first_probe_at_ms, agenda.last_probe_at_ms) == (NOW_MS + 10, NOW_MS + 20)
    assert nothing.lost_count == 0


async def test_a_probe_is_claimed_once_and_is_due_again_after_its_lease(database: Database) -> None:
    lost = await lose(database, 1)
    await admit(database, a_task(2))

    assert await claim(database) == {lost.id}
    assert await claim(database) == set()
    assert await claim(database, NOW_MS + 60_000) == {lost.id}


async def test_a_probe_planned_beyond_reason_is_due(database: Database) -> None:
    lost = await lose(database, 1)
    await database.write(attempts.schedule_probe, lost.id, 1, 0, NOW_MS + 30 * HOUR_MS)

    assert await claim(database) == {lost.id}


async def test_no_more_probes_are_claimed_than_asked_for_the_oldest_first(
    database: Database,
) -> None:
    first, second = await lose(database, 1), await lose(database, 2)

    assert await claim(database, limit=1) == {first.id}
    assert await claim(database, limit=1) == {second.id}


async def test_overdue_are_the_unknown_ones_from_before(database: Database) -> None:
    first = await lose(database, 1)
    await lose(database, 500)
    await admit(database, a_task(0))

    found = await database.read(accounts.list_overdue, "ark", "main", NOW_MS + 100)

    assert [task.id for task in found] == [first.id]


async def test_claimants_are_what_may_have_a_task_that_we_dont_know(database: Database) -> None:
    flying, lost = await admit(database, a_task(1)), await lose(database, 2)
    absent = await give_up(database, 3, EvidenceKind.ABSENT)
    held = await give_up(database, 4, None)
    await give_up(database, 5, EvidenceKind.REJECTED)
    await give_up(database, 6, EvidenceKind.ABSENT, submit_deadline_at_ms=NOW_MS - 1)
    accepted = await move(database, await admit(database, a_task(7)), Event.ACCEPTED)
    await move(database, accepted, Event.FAILED)
    await give_up(database, 8, EvidenceKind.ABSENT, route=Route("ark", "spare", "ep-1"))

    found = await database.read(accounts.list_claimants, "ark", "main", NOW_MS)

    assert {each.task.id: each.sent.standing for each in found} == {
        flying.id: Standing.IN_FLIGHT,
        lost.id: Standing.LOST,
        absent.id: Standing.GIVEN_UP,
        held.id: Standing.GIVEN_UP,
    }
    assert all(each.sent.attempt.markers.seed == 7 for each in found)


async def test_an_id_is_known_whichever_credential_submitted_it(database: Database) -> None:
    route = Route("ark", "retired", "ep-1")
    retired = await move(database, await admit(database, a_task(1, route=route)), Event.ACCEPTED)
    other = replace(route, upstream="elsewhere")
    foreign = await move(database, await admit(database, a_task(2, route=other)), Event.ACCEPTED)
    many = [f"id-{number}" for number in range(1200)]

    known = await database.read(
        accounts.find_known, "ark", [*many, str(retired.upstream_task_id), str(foreign.id)]
    )

    assert known == {retired.upstream_task_id}
    assert await database.read(accounts.find_known, "ark", []) == frozenset()
    owners = await database.read(accounts.find_owners, "ark", [str(retired.upstream_task_id)])
    assert owners == {retired.upstream_task_id: retired.project_id}


async def test_the_control_is_the_last_task_that_a_list_has_to_show(database: Database) -> None:
    async def find(tier: str = "default", before_ms: int = NOW_MS + HOUR_MS) -> Control | None:
        return await database.read(
            accounts.find_control,
            "ark",
            "main",
            tier,
            since_ms=NOW_MS,
            accepted_before_ms=before_ms,
        )

    assert await find() is None
    older = await move(database, await admit(database, a_task(1)), Event.ACCEPTED)
    newer = await move(database, await admit(database, a_task(2)), Event.ACCEPTED)
    flex = a_task(3, service_tier="flex")
    await move(database, await admit(database, flex), Event.ACCEPTED)
    cancelled = await move(database, await admit(database, a_task(4)), Event.ACCEPTED)
    await move(database, cancelled, Event.CANCELLED)
    await lose(database, 5)
    missing = await admit(database, a_task(6))
    await move(database, missing, Event.ACCEPTED, missing_count=1)
    await move(database, await admit(database, a_task(-1)), Event.ACCEPTED)

    control = await find()
    assert control is not None
    assert control.upstream_task_id == newer.upstream_task_id
    assert (control.sent_at_ms, control.accepted_at_ms) == (
        newer.created_at_ms,
        newer.updated_at_ms,
    )
    earlier = await find(before_ms=NOW_MS + 1001)
    assert earlier is not None
    assert earlier.upstream_task_id == older.upstream_task_id
    in_flex = await find("flex")
    assert in_flex is not None
    assert in_flex.upstream_task_id == f"up-{flex.id}"


async def test_a_look_up_tells_all_of_it_at_once(database: Database) -> None:
    lost = await lose(database, 1)
    known = await move(database, await admit(database, a_task(2)), Event.ACCEPTED)
    orphan = StoredOrphan("ark", "main", "up-orphan", NOW_MS, "running")
    await database.write(orphans.record, orphan)

    found = await database.read(
        accounts.look_up,
        "ark",
        "main",
        [str(known.upstream_task_id), "up-orphan", "up-new"],
        ["default", "flex"],
        since_ms=NOW_MS,
        accepted_before_ms=NOW_MS + HOUR_MS,
    )

    assert [each.task.id for each in found.claimants] == [lost.id]
    assert found.known_ids == {known.upstream_task_id}
    assert found.orphans == {"up-orphan": orphan}
    assert set(found.controls) == {"default"}


async def test_the_last_admission_before_a_moment_is_found(database: Database) -> None:
    await admit(database, a_task(100))
    await admit(database, a_task(2000))

    assert await database.read(accounts.find_last_admission, NOW_MS + 1000) == NOW_MS + 100
    assert await database.read(accounts.find_last_admission, NOW_MS) == 0


async def test_an_orphan_that_several_find_at_once_is_new_to_one(place: Place) -> None:
    databases = [await place.open() for _ in range(4)]
    orphans_found = [
        StoredOrphan("ark", "main", f"up-{number}", NOW_MS, "running") for number in range(8)
    ]
    for orphan in orphans_found:
        told = await asyncio.gather(*(each.write(orphans.record, orphan) for each in databases * 2))
        assert sorted(told) == [False] * 7 + [True]

    assert await databases[0].read(orphans.count) == (0, 8)
    for each in databases:
        await each.close()


async def test_an_orphan_is_recorded_once_and_brought_up_to_date(database: Database) -> None:
    task = await give_up(database, 1, EvidenceKind.ABSENT)
    late = StoredOrphan(
        "ark", "main", "up-1", NOW_MS, "running", NOW_MS - 5, task.id, is_proved=True
    )
    stranger = StoredOrphan("ark", "main", "up-2", NOW_MS + 1, "queued")

    assert await database.write(orphans.record, late)
    assert await database.write(orphans.record, stranger)
    ended = replace(late, status="succeeded", found_at_ms=NOW_MS + 9, model="m-1", tokens=49_005)
    assert not await database.write(orphans.record, ended)

    now = replace(late, status="succeeded", model="m-1", tokens=49_005)
    found = await database.read(orphans.find, "ark", "main", ["up-1", "up-9"])
    assert found == {"up-1": now}
    assert await database.read(orphans.list_of_task, task.id) == [now]
    assert await database.read(orphans.list_newest, 10) == [stranger, now]
    assert await database.read(orphans.count) == (1, 1)
    await database.write(orphans.forget, "ark", "up-2")
    assert await database.read(orphans.count) == (1, 0)


async def test_an_audit_is_due_an_interval_after_it_is_first_asked_for(database: Database) -> None:
    async def take(now_ms: int, credential: str = "main") -> bool:
        return await database.write(
            meta.take_audit, "ark", credential, now_ms=now_ms, before_ms=now_ms - HOUR_MS
        )

    assert not await take(NOW_MS)
    assert not await take(NOW_MS + HOUR_MS - 1)
    assert await take(NOW_MS + HOUR_MS)
    assert not await take(NOW_MS + HOUR_MS + 1)
    assert not await take(NOW_MS + HOUR_MS, "spare")
    # A clock that was set back does not put it off.
    assert await take(NOW_MS - 10 * HOUR_MS)


async def test_two_processes_dont_get_the_same_audit(place: Place, database: Database) -> None:
    other = await place.open()
    due = {"now_ms": NOW_MS + HOUR_MS, "before_ms": NOW_MS}
    try:
        await database.write(meta.take_audit, "ark", "main", now_ms=NOW_MS, before_ms=0)
        taken = [
            await each.write(meta.take_audit, "ark", "main", **due) for each in (database, other)
        ]
    finally:
        await other.close()

    assert taken == [True, False]


async def test_facts_of_accounts_are_kept_apart(database: Database) -> None:
    for credential, count in (("main", "3"), ("spare", "4")):
        await database.write(
            meta.note_of_account, "ark", credential, AccountFact.FOREIGN_COUNT, count
        )
    await database.write(meta.note_of_account, "ark", "main", AccountFact.PROBE, "{}")
    await database.write(meta.note_of_account, "ark", "main", AccountFact.FOREIGN_COUNT, "5")

    assert await database.read(meta.find_of_account, "ark", "main") == {
        "foreign_count": "5",
        "probe": "{}",
    }
    assert await database.read(meta.count_foreign) == 9
    await database.write(meta.forget_of_account, "ark", "main", AccountFact.PROBE)
    assert await database.read(meta.find_of_account, "ark", "main") == {"foreign_count": "5"}


@pytest.mark.parametrize("state", [TaskState.RESERVED, TaskState.UNKNOWN])
async def test_attempts_of_many_tasks_are_read_together(
    database: Database, state: TaskState
) -> None:
    made = [await admit(database, a_task(1)), await admit(database, a_task(2))]
    if state is TaskState.UNKNOWN:
        made = [await move(database, task, Event.LOST, upstream_task_id=None) for task in made]

    found = await database.read(attempts.find_many, [*(task.id for task in made), "cgt-none"])

    assert set(found) == {task.id for task in made}
