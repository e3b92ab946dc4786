"""Admission on both stores: all or nothing, and what each limit counts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa

from gateway.domain.balances import Exceeded, amounts_of
from gateway.domain.billing import Usage
from gateway.domain.limit_defaults import NO_DEFAULTS, DefaultLimit, LimitDefaults, effective_limits
from gateway.domain.limits import (
    BUDGETS,
    Account,
    Limit,
    LimitSetting,
    Metric,
    Window,
    accounts_of,
)
from gateway.domain.tasks import Event, Route
from gateway.ports import Database
from gateway.storage import admission as admissions
from gateway.storage import attempts, balances, idempotency, ledger, limits, schema, tasks
from gateway.storage.admission import Admission, Bounds, KeyReused, Repeated, TooManyUnknown
from gateway.storage.idempotency import Claim, Claimed
from tests.support.booked import a_reservation, an_attempt, end
from tests.support.stored import NOW_MS, a_task, an_event, moved

KEY: Final = "Key000000000"
ORGANIZATION, PROJECT, OWN_KEY = ACCOUNTS = accounts_of("proj_default", KEY)
ASKED: Final = amounts_of(735_075, a_reservation(a_task()).held)
BOUNDS: Final = Bounds(
    unknown_credential_max=5,
    unknown_key_max=2,
    keys_since_ms=NOW_MS - 1000,
    joins_since_ms=NOW_MS - 1000,
    now_ms=NOW_MS,
    alive_for_ms=1000,
)
ADMITTED: Final = None


def an_admission(number: int, *, claim: Claim | None = None, **changes: Any) -> Admission:
    """Return one whose request is like no other's; `changes` are the task's."""
    task = a_task(number, **changes)
    return Admission(
        task=task,
        stored_request='{"model":"m","content":[]}',
        request_expires_at_ms=NOW_MS + 1,
        reservation=a_reservation(task),
        attempt=replace(an_attempt(task), fingerprint=f"{number:064}"),
        claim=claim,
        is_repeat=False,
    )


def a_claim(key: str = "idem-1", fingerprint: str = "f", **changes: Any) -> Claim:
    return replace(Claim("proj_default", "submit", key, fingerprint), **changes)


def chooser(defaults: LimitDefaults) -> admissions.ChooseLimits:
    def choose(accounts: Sequence[Account], stored: Sequence[LimitSetting]) -> Sequence[Limit]:
        return effective_limits(accounts, stored, defaults)

    return choose


async def admit(
    database: Database,
    admission: Admission,
    *,
    bounds: Bounds = BOUNDS,
    defaults: LimitDefaults = NO_DEFAULTS,
) -> object:
    """Admit it, and see that a dry run would have said the same of what speaks against it."""
    choose = chooser(defaults)
    foretold = await database.read(
        admissions.check,
        admission.task,
        admission.reservation,
        choose,
        bounds,
        claim=admission.claim,
    )
    verdict = await database.write(admissions.admit, admission, choose, bounds)
    if not isinstance(verdict, Repeated):
        assert foretold == verdict
    elif verdict.is_by_key:
        assert foretold is None
    return verdict


async def set_limit(
    database: Database,
    account: Account,
    metric: Metric,
    window: Window | None,
    cap: int | None,
) -> None:
    setting = LimitSetting(account, metric, window, cap)
    number = len(await database.read(read_all, schema.audit_events))
    await database.write(limits.put, setting, NOW_MS, an_event("limit", number))


def read_all(conn: sa.Connection, table: sa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in conn.execute(sa.select(table))), key=str)


def read_everything(conn: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables; without those balances that hold nothing."""
    found = {table.name: read_all(conn, table) for table in schema.metadata.tables.values()}
    return found | {"balances": [row for row in found["balances"] if any(row[4:])]}


async def test_an_admission_writes_task_request_attempt_hold_and_claim(database: Database) -> None:
    admission = an_admission(1, claim=a_claim())

    assert await admit(database, admission) is ADMITTED

    task_id = admission.task.id
    stored = await database.read(tasks.find, task_id)
    assert stored is not None
    assert (stored.task, stored.request_body) == (admission.task, '{"model":"m","content":[]}')
    assert await database.read(attempts.find, task_id) == admission.attempt
    assert await database.read(ledger.find_open, task_id) == admission.reservation
    assert await database.read(idempotency.find, a_claim(), 0) == Claimed(task_id, "f")


async def test_a_refusal_leaves_nothing_behind(database: Database) -> None:
    await admit(database, an_admission(0, claim=a_claim()))
    for number in (1, 2):
        task = an_admission(number, key_id="Key000000001").task
        await admit(database, an_admission(number, key_id="Key000000001"))
        await database.write(tasks.apply_transition, task, moved(task, Event.LOST), Event.LOST)
    await set_limit(database, OWN_KEY, Metric.VIDEOS, Window.DAY, 1)
    before = await database.read(read_everything)

    verdicts = [
        await admit(database, an_admission(3)),
        await admit(database, an_admission(4, key_id="Key000000001")),
        await admit(
            database,
            an_admission(5, key_id="Key000000002"),
            bounds=replace(BOUNDS, unknown_credential_max=2),
        ),
        await admit(database, an_admission(6, claim=a_claim(fingerprint="g"))),
        await admit(database, an_admission(7, claim=a_claim())),
    ]

    limit = Limit(OWN_KEY, Metric.VIDEOS, Window.DAY, 1)
    assert verdicts == [
        Exceeded(limit, asked=1, held=1, spent=0),
        TooManyUnknown(is_of_key=True),
        TooManyUnknown(is_of_key=False),
        KeyReused(),
        Repeated(a_task(0).id, is_by_key=True),
    ]
    assert await database.read(read_everything) == before


async def test_every_budget_of_every_scope_has_room_up_to_its_cap_and_lets_more_in_once_lifted(
    database: Database,
) -> None:
    number = 0
    for account in ACCOUNTS:
        for metric in BUDGETS:
            for window in Window:
                used = ASKED.of(metric) * number
                limit = Limit(account, metric, window, used + ASKED.of(metric))
                await set_limit(database, account, metric, window, limit.cap)

                assert await admit(database, an_admission(number)) is ADMITTED
                number += 1
                asked = ASKED.of(metric)
                exceeded = Exceeded(limit, asked, held=used + asked, spent=0)
                assert await admit(database, an_admission(number)) == exceeded

                await set_limit(database, account, metric, window, None)
    assert await admit(database, an_admission(number)) is ADMITTED


async def test_what_was_spent_counts_as_what_is_held(database: Database) -> None:
    first = an_admission(1)
    await admit(database, first)
    await set_limit(database, PROJECT, Metric.TOKENS, Window.MONTH, 100_000)

    await database.write(end, first.task, first.reservation, Usage(60_000, 5))

    exceeded = await admit(database, an_admission(2))
    limit = Limit(PROJECT, Metric.TOKENS, Window.MONTH, 100_000)
    assert exceeded == Exceeded(limit, asked=49_005, held=0, spent=60_000)


async def test_tasks_in_progress_are_counted_in_each_scope_until_they_end(
    database: Database,
) -> None:
    for account in ACCOUNTS:
        await set_limit(database, account, Metric.TASKS, None, 2)
    first = an_admission(1)
    await admit(database, first)
    await admit(database, an_admission(2, key_id="Key000000001"))

    # The key has one, the project and the organization have both.
    refused = await admit(database, an_admission(3))
    assert refused == Exceeded(Limit(ORGANIZATION, Metric.TASKS, None, 2), 1, held=2, spent=0)
    await set_limit(database, ORGANIZATION, Metric.TASKS, None, None)
    refused = await admit(database, an_admission(3))
    assert refused == Exceeded(Limit(PROJECT, Metric.TASKS, None, 2), 1, held=2, spent=0)
    foreign = an_admission(4, project_id="proj_other", key_id="Key000000009")
    assert await admit(database, foreign) is ADMITTED

    def vanish(conn: sa.Connection) -> None:
        queued = moved(first.task, Event.ACCEPTED)
        tasks.apply_transition(conn, first.task, queued, Event.ACCEPTED)
        tasks.apply_transition(conn, queued, moved(queued, Event.VANISHED), Event.VANISHED)
        balances.end_task(conn, first.reservation)

    await database.write(vanish)
    assert await admit(database, an_admission(3)) is ADMITTED


async def test_a_budget_counts_the_tasks_of_its_own_window(database: Database) -> None:
    for window in (Window.DAY, Window.MONTH):
        await set_limit(database, ORGANIZATION, Metric.VIDEOS, window, 1)
    first, same_month, next_month = (an_admission(number) for number in range(3))
    day_ms = first.reservation.day_start_ms
    tomorrow = replace(same_month.reservation, day_start_ms=day_ms + 86_400_000)
    later = replace(tomorrow, month_start_ms=day_ms + 86_400_000, task_id=next_month.task.id)

    assert await admit(database, first) is ADMITTED
    refused = await admit(database, replace(same_month, reservation=tomorrow))
    assert isinstance(refused, Exceeded)
    assert refused.limit.window is Window.MONTH
    assert await admit(database, replace(next_month, reservation=later)) is ADMITTED


async def test_of_several_full_budgets_the_organizations_is_told_first(database: Database) -> None:
    defaults = LimitDefaults(
        organization=(DefaultLimit(Metric.VIDEOS, Window.EVER, 0),),
        project=(DefaultLimit(Metric.SECONDS, Window.DAY, 4),),
        key=(DefaultLimit(Metric.MONEY, Window.MONTH, 1),),
    )
    told = []
    for account, metric, window in (
        (ORGANIZATION, Metric.VIDEOS, Window.EVER),
        (PROJECT, Metric.SECONDS, Window.DAY),
        (OWN_KEY, Metric.MONEY, Window.MONTH),
    ):
        verdict = await admit(database, an_admission(1), defaults=defaults)
        assert isinstance(verdict, Exceeded)
        told.append((verdict.limit.account, verdict.limit.metric))
        await set_limit(database, account, metric, window, None)

    assert told == [
        (ORGANIZATION, Metric.VIDEOS),
        (PROJECT, Metric.SECONDS),
        (OWN_KEY, Metric.MONEY),
    ]
    # What was lifted by command is lifted, also if configuration says it. A rate is none of ours.
    await set_limit(database, ORGANIZATION, Metric.RPM, None, 0)
    assert await admit(database, an_admission(1), defaults=defaults) is ADMITTED


async def test_of_many_at_once_as_many_are_let_in_as_there_is_room_for(database: Database) -> None:
    await set_limit(database, PROJECT, Metric.MONEY, Window.EVER, 5 * ASKED.micros + 1)
    choose = chooser(NO_DEFAULTS)

    verdicts = await asyncio.gather(
        *(
            database.write(admissions.admit, an_admission(number), choose, BOUNDS)
            for number in range(16)
        )
    )

    assert sum(verdict is ADMITTED for verdict in verdicts) == 5
    (balance,) = await database.read(balances.find, [PROJECT], {Window.EVER: 0})
    assert balance.held == ASKED + ASKED + ASKED + ASKED + ASKED
    assert balance.tasks_count == 5


async def test_unknown_submissions_are_counted_by_key_and_by_credential(
    database: Database,
) -> None:
    elsewhere = Route("ark", "second", "ep-1")
    made: list[dict[str, Any]] = [
        {},
        {},
        {"key_id": "Key000000001"},
        {"key_id": "Key000000002", "route": elsewhere},
    ]
    for number, changes in enumerate(made):
        task = an_admission(number, **changes).task
        bounds = replace(BOUNDS, unknown_key_max=9, unknown_credential_max=9)
        await admit(database, an_admission(number, **changes), bounds=bounds)
        await database.write(tasks.apply_transition, task, moved(task, Event.LOST), Event.LOST)

    counts = await database.read(attempts.count_unknown, "ark", "main")
    assert counts == {KEY: 2, "Key000000001": 1}

    def verdict(number: int, credential_max: int = 9, **changes: Any) -> Any:
        bounds = replace(BOUNDS, unknown_credential_max=credential_max)
        return admit(database, an_admission(number, **changes), bounds=bounds)

    assert await verdict(10) == TooManyUnknown(is_of_key=True)
    assert await verdict(11, key_id="Key000000001") is ADMITTED
    assert await verdict(12, 3, key_id="Key000000003") == TooManyUnknown(is_of_key=False)
    assert await verdict(13, 4, key_id="Key000000003") is ADMITTED
    assert await verdict(14, 2, key_id="Key000000002", route=elsewhere) is ADMITTED


async def test_a_key_stands_for_its_request_until_it_is_forgotten(database: Database) -> None:
    first, again = an_admission(1, claim=a_claim()), an_admission(2, claim=a_claim())
    await admit(database, first)
    forgetful = replace(BOUNDS, keys_since_ms=first.task.created_at_ms + 1)

    assert await admit(database, again) == Repeated(first.task.id, is_by_key=True)
    assert await admit(database, an_admission(3, claim=a_claim(fingerprint="g"))) == KeyReused()
    assert await admit(database, again, bounds=forgetful) is ADMITTED
    assert await database.read(idempotency.find, a_claim(), 0) == Claimed(again.task.id, "f")


@pytest.mark.parametrize("refusal", ["exceeded", "unknown"])
async def test_a_key_gives_the_task_that_another_admitted_meanwhile_though_that_fills_the_limit(
    database: Database, refusal: str
) -> None:
    rival, own = an_admission(1, claim=a_claim()), an_admission(2, claim=a_claim())
    bounds = replace(BOUNDS, unknown_key_max=1 if refusal == "unknown" else 9)
    choose = chooser(NO_DEFAULTS)
    await set_limit(database, OWN_KEY, Metric.VIDEOS, Window.DAY, 1)
    done: list[object] = []

    def admit_late(conn: sa.Connection) -> object:
        def before(_conn: object, _cursor: object, sql: str, *_: object) -> None:
            if "count(" in sql and not done:  # the key was looked for, and was free
                done.append(sql)
                done.append(admissions.admit(conn, rival, choose, BOUNDS))
                if refusal == "unknown":
                    lost = moved(rival.task, Event.LOST)
                    tasks.apply_transition(conn, rival.task, lost, Event.LOST)

        sa.event.listen(conn, "before_cursor_execute", before)
        try:
            return admissions.admit(conn, own, choose, bounds)
        finally:
            sa.event.remove(conn, "before_cursor_execute", before)

    verdict = await database.write(admit_late)

    assert done[1:] == [ADMITTED]
    assert verdict == Repeated(rival.task.id, is_by_key=True)


async def test_a_key_is_one_projects_and_one_operations(database: Database) -> None:
    claims = [
        a_claim(),
        a_claim("idem-2"),
        a_claim(route="other"),
        a_claim(project_id="proj_other"),
    ]
    for number, claim in enumerate(claims):
        project = claim.project_id
        assert await admit(database, an_admission(number, claim=claim, project_id=project)) is None

    found = [await database.read(idempotency.find, claim, 0) for claim in claims]
    assert found == [Claimed(a_task(number).id, "f") for number in range(4)]


async def test_keys_are_freed_with_their_task_or_purged_with_their_age(database: Database) -> None:
    for number in range(5):
        await admit(database, an_admission(number, claim=a_claim(f"idem-{number}")))

    async def left() -> list[int]:
        found = [await database.read(idempotency.find, a_claim(f"idem-{n}"), 0) for n in range(5)]
        return [number for number, claimed in enumerate(found) if claimed is not None]

    await database.write(idempotency.free, a_task(4).id)
    assert await left() == [0, 1, 2, 3]
    assert await admit(database, an_admission(9, claim=a_claim("idem-4", "g"))) is ADMITTED
    purged = [await database.write(idempotency.purge, NOW_MS + 3, 2) for _ in range(3)]
    assert purged == [2, 1, 0]
    assert await left() == [3, 4]
