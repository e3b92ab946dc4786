"""Sixteen processes on one budget: as much is granted as was left, and nobody locks anybody out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from gateway.domain.keys import Principal
from gateway.domain.limits import (
    ORGANIZATION_ID,
    Account,
    LimitSetting,
    Metric,
    Scope,
    Window,
)
from gateway.errors import BudgetExceeded, TooManyTasks
from gateway.ports import Runtime
from gateway.services import limiting
from gateway.services.observing import look_at
from gateway.services.submission import submit_task
from gateway.storage import migrate
from tests.contract.conftest import Place
from tests.racing.race import (
    TOKENS,
    JsonObject,
    Race,
    a_body,
    count_outcomes,
    find_principals,
    open_gateway,
    run_race,
    succeeded,
    upstream_of,
)
from tests.support.clock import FakeClock
from tests.support.postgres import PostgresServer
from tests.support.sums import find_wrong_sums

HOLD_MICROS: Final = 735_075
"""What is held for one task of `a_body`: 49,005 tokens at 15 a million."""
OF_ONE_TASK: Final[Mapping[Metric, int]] = {
    Metric.MONEY: HOLD_MICROS,
    Metric.VIDEOS: 1,
    Metric.SECONDS: 5,
    Metric.TOKENS: 49_005,
    Metric.TASKS: 1,
}
REFUSALS: Final = {
    Metric.MONEY: BudgetExceeded,
    Metric.VIDEOS: BudgetExceeded,
    Metric.SECONDS: BudgetExceeded,
    Metric.TOKENS: BudgetExceeded,
    Metric.TASKS: TooManyTasks,
}
SCOPES: Final[Mapping[Metric, Scope]] = {
    Metric.MONEY: Scope.ORGANIZATION,
    Metric.VIDEOS: Scope.PROJECT,
    Metric.TASKS: Scope.KEY,
}


@pytest.fixture
async def race(place: Place, tmp_path: Path) -> Race:
    """A race in which nothing happens yet, on a database of its own."""
    url = place.config.url
    made = Race(
        "submit",
        str(tmp_path / "data"),
        database_url=None if url is None else url.get_secret_value(),
    )
    await migrate.upgrade(made.config.storage, Path(made.data_dir) / "gateway.db")
    return made


def a_limit(scope: Scope, principal: Principal, metric: Metric, cap: int) -> LimitSetting:
    ids = {
        Scope.ORGANIZATION: ORGANIZATION_ID,
        Scope.PROJECT: principal.project_id,
        Scope.KEY: principal.key_id,
    }
    window = None if metric in {Metric.TASKS, Metric.RPM} else Window.EVER
    return LimitSetting(Account(scope, ids[scope]), metric, window, cap)


async def run_capped(race: Race, metric: Metric, cap_count: int) -> Sequence[JsonObject]:
    """Run a race for room for so many tasks; return what the racers tell, once all adds up."""
    async with open_gateway(race) as runtime:
        principals = await find_principals(runtime, race)
        setting = a_limit(SCOPES[metric], principals[0], metric, cap_count * OF_ONE_TASK[metric])
        await limiting.set_limit(runtime, "test", setting)
    told = run_race(race)
    async with open_gateway(race) as runtime:
        assert await runtime.db.read(find_wrong_sums) == []
        used = await limiting.list_use(runtime, setting.account)
    granted = count_outcomes(told)["granted"]
    assert [(each.held, each.left) for each in used] == [
        (granted * OF_ONE_TASK[metric], max(0, (cap_count - granted) * OF_ONE_TASK[metric]))
    ]
    return told


@pytest.mark.parametrize(
    "metric",
    [
        metric if metric is Metric.MONEY else pytest.param(metric, marks=pytest.mark.long)
        for metric in SCOPES
    ],
)
async def test_sixteen_processes_are_granted_exactly_the_cap(race: Race, metric: Metric) -> None:
    told = await run_capped(replace(race, attempts_count=8), metric, 50)

    outcomes = count_outcomes(told)
    assert outcomes == {"granted": 50, REFUSALS[metric].__name__: 16 * 8 - 50}
    assert sum(each["sent"] for each in told) == 50


@pytest.mark.long
@pytest.mark.parametrize("metric", SCOPES)
async def test_of_thousands_of_attempts_exactly_the_cap_is_granted(
    race: Race, metric: Metric
) -> None:
    told = await run_capped(replace(race, attempts_count=150), metric, 1000)

    outcomes = count_outcomes(told)
    assert outcomes == {"granted": 1000, REFUSALS[metric].__name__: 2400 - 1000}
    assert sum(each["sent"] for each in told) == 1000


@pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgres", marks=pytest.mark.long)], indirect=True
)
async def test_who_reads_first_and_writes_then_grants_too_much(race: Race) -> None:
    """The positive control: were budgets kept like this, the races above would fail."""
    told = await run_capped(replace(race, act="submit_naively"), Metric.MONEY, 5)

    assert count_outcomes(told) == {"granted": 16}


ACCOUNTS: Final = (("default", "KeyA"), ("default", "KeyB"), ("films", "KeyC"), ("films", "KeyD"))


async def run_churn(race: Race) -> None:
    """Let tasks begin and end at once, for accounts that share some of their balances."""
    busy = replace(race, act="churn", accounts=ACCOUNTS)
    async with open_gateway(busy) as runtime:
        principals = await find_principals(runtime, busy)
        settings = [
            *(a_limit(Scope.ORGANIZATION, each, Metric.MONEY, 10**12) for each in principals[:1]),
            *(a_limit(Scope.PROJECT, each, Metric.TASKS, 10**6) for each in principals[::2]),
            *(a_limit(Scope.KEY, each, Metric.VIDEOS, 10**6) for each in principals),
        ]
        for setting in settings:
            await limiting.set_limit(runtime, "test", setting)
    outcomes = count_outcomes(run_race(busy))

    assert outcomes["granted"] == busy.racers_count * busy.attempts_count
    ends = ("succeeded", "failed", "cancelled", "none")
    assert sum(outcomes[end] for end in ends) == outcomes["granted"]
    async with open_gateway(busy) as runtime:
        assert await runtime.db.read(find_wrong_sums) == []
        used = await limiting.list_use(runtime, settings[0].account)
    assert [(each.spent, each.held) for each in used] == [
        (outcomes["succeeded"] * TOKENS * 15, outcomes["none"] * HOLD_MICROS)
    ]


@pytest.mark.long
async def test_tasks_that_begin_and_end_at_once_leave_books_that_agree(race: Race) -> None:
    await run_churn(replace(race, racers_count=8, attempts_count=30, seed=1))


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_no_two_transactions_ever_wait_for_each_other(
    race: Race, postgres_server: PostgresServer
) -> None:
    """Balances are locked in one order: organization, project, key. So PostgreSQL breaks no tie."""
    log = postgres_server.folder / "log"
    before = log.read_text().count("deadlock detected")

    await run_churn(replace(race, racers_count=8, attempts_count=20, seed=2))

    assert log.read_text().count("deadlock detected") == before


async def submit(runtime: Runtime, principal: Principal, name: str) -> None:
    await submit_task(runtime, principal, a_body(name), "req")


async def settle(runtime: Runtime, principal: Principal, name: str) -> None:
    """Submit a task and see it succeed on fewer tokens than were held."""
    task = (await submit_task(runtime, principal, a_body(name), "req")).task
    assert task.upstream_task_id is not None
    upstream_of(runtime).shown[task.upstream_task_id] = succeeded()
    await look_at(runtime, task)


SETTLED: Final = {
    **OF_ONE_TASK,
    Metric.MONEY: TOKENS * 15,
    Metric.TOKENS: TOKENS,
    Metric.TASKS: 0,
}
"""What a task that has succeeded leaves in each balance."""


@pytest.mark.parametrize("metric", OF_ONE_TASK)
async def test_a_limit_that_is_set_later_counts_what_its_window_has_used(
    race: Race, metric: Metric
) -> None:
    async with open_gateway(race) as runtime:
        principal = (await find_principals(runtime, race))[0]
        await settle(runtime, principal, "settled")
        await submit(runtime, principal, "held")
        room = SETTLED[metric] + 2 * OF_ONE_TASK[metric]
        for window in (None,) if metric is Metric.TASKS else tuple(Window):
            setting = a_limit(Scope.KEY, principal, metric, room)
            await limiting.set_limit(runtime, "test", replace(setting, window=window))

        await submit(runtime, principal, "the last")
        with pytest.raises(REFUSALS[metric]):
            await submit(runtime, principal, "one too many")


async def test_a_budget_that_another_process_sets_binds_the_next_submit(race: Race) -> None:
    async with open_gateway(race, "server") as server, open_gateway(race, "command") as command:
        principal = (await find_principals(server, race))[0]
        await submit(server, principal, "before")
        for metric in OF_ONE_TASK:
            setting = a_limit(Scope.PROJECT, principal, metric, 0)
            await limiting.set_limit(command, "test", setting)
            with pytest.raises(REFUSALS[metric]):
                await submit(server, principal, f"refused by {metric.value}")
            await limiting.set_limit(command, "test", replace(setting, cap=None))

        await submit(server, principal, "after")


async def test_a_rate_that_another_process_sets_binds_within_a_second(race: Race) -> None:
    """Also if nothing reports it: no watch runs here."""
    async with open_gateway(race, "server") as opened, open_gateway(race, "command") as command:
        clock = FakeClock()
        server = replace(opened, clock=clock)
        principal = (await find_principals(server, race))[0]
        assert (await limiting.take_rate(server, principal)).is_allowed

        await limiting.set_limit(command, "test", a_limit(Scope.KEY, principal, Metric.RPM, 0))
        clock.advance(1)

        assert not (await limiting.take_rate(server, principal)).is_allowed
