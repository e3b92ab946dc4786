"""Limits set by command, on both stores."""

import asyncio

import sqlalchemy as sa

from gateway.domain.limits import (
    BUDGETS,
    Account,
    LimitSetting,
    Metric,
    Scope,
    Window,
    accounts_of,
)
from gateway.ports import ChangeKind, Database
from gateway.storage import audit, limits, schema
from tests.contract.conftest import Place
from tests.contract.test_database import watched
from tests.support.stored import NOW_MS, an_event
from tests.support.waiting import PATIENCE_S

ACCOUNTS = accounts_of("proj_default", "Key000000000")
ORGANIZATION, PROJECT, KEY = ACCOUNTS


async def put(
    database: Database,
    account: Account,
    metric: Metric,
    window: Window | None,
    cap: int | None,
) -> LimitSetting:
    setting = LimitSetting(account, metric, window, cap)
    number = len(await database.read(audit.list_events, 0, 1000))
    await database.write(limits.put, setting, NOW_MS + number, an_event("limit", number))
    return setting


async def test_a_limit_of_every_kind_is_kept_in_place_of_an_earlier_one(database: Database) -> None:
    kinds: list[tuple[Metric, Window | None]]
    kinds = [(metric, window) for metric in BUDGETS for window in Window]
    kinds += [(metric, None) for metric in (Metric.TASKS, Metric.RPM)]
    every = []
    for number, (metric, window) in enumerate(kinds):
        account = ACCOUNTS[number % 3]
        await put(database, account, metric, window, 1)
        cap = None if number % 5 == 0 else 10**18 + number
        every.append(await put(database, account, metric, window, cap))

    found = await database.read(limits.list_all)

    assert sorted(map(str, found)) == sorted(map(str, every))
    # Beside those of the two projects.
    assert len(await database.read(audit.list_events, 0, 1000)) == 2 + 2 * len(every)


async def test_the_limits_of_an_admission_are_those_of_its_three_accounts(
    database: Database,
) -> None:
    own = [
        await put(database, ORGANIZATION, Metric.MONEY, Window.DAY, 5),
        await put(database, PROJECT, Metric.TASKS, None, 0),
        await put(database, KEY, Metric.VIDEOS, Window.EVER, None),
    ]
    await put(database, Account(Scope.PROJECT, "proj_other"), Metric.MONEY, Window.DAY, 1)
    # A key and a project may have one name: each has its own limits.
    await put(database, Account(Scope.KEY, "proj_default"), Metric.MONEY, Window.DAY, 1)
    await put(database, Account(Scope.PROJECT, "Key000000000"), Metric.MONEY, Window.DAY, 1)

    found = await database.read(limits.find, ACCOUNTS)

    assert set(found) == set(own)


async def test_the_database_refuses_a_limit_that_means_nothing(database: Database) -> None:
    base = {"scope": "org", "scope_id": "", "metric": "money", "span": "day", "cap": 1}
    wrong: list[dict[str, object]] = [
        {"scope": "team"},
        {"metric": "frames"},
        {"span": "week"},
        {"span": ""},
        {"metric": "rpm"},
        {"cap": -1},
    ]

    def insert(conn: sa.Connection, changes: dict[str, object]) -> bool:
        row = {**base, "updated_at_ms": NOW_MS, **changes}
        try:
            with conn.begin_nested():
                conn.execute(sa.insert(schema.limits), row)
        except sa.exc.IntegrityError:
            return False
        return True

    assert [await database.write(insert, changes) for changes in wrong] == [False] * len(wrong)
    assert await database.write(insert, {"cap": None})


async def test_another_process_hears_of_it(place: Place, database: Database) -> None:
    other = await place.open()
    async with watched(other) as seen:
        await put(database, ORGANIZATION, Metric.RPM, None, 5)
        change = await asyncio.wait_for(seen.get(), PATIENCE_S)
    await other.close()

    # SQLite tells that something has changed, PostgreSQL what.
    assert change.kind in {ChangeKind.LIMITS, ChangeKind.ALL}
