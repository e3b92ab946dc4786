"""Somebody sets the clock of a running gateway: nothing is lost, paid twice, or left for a day."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest

from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.storage import tasks
from tests.chaos.flows import LeapingClock, Order, ask, opened, run_loops_once, start
from tests.chaos.upstream import Sandbox, credential_of, run_upstream
from tests.support.oracle import Books, find_differences, read_books

DAY_S: Final = 86_400.0
JUMPS: Final = (
    -DAY_S,
    pytest.param(-3600.0, marks=pytest.mark.long),
    pytest.param(3600.0, marks=pytest.mark.long),
    DAY_S,
)
STEP_S: Final = 60.0
PATIENCE_S: Final = 1800.0
"""How long after a jump a task may take to its end: about as long as without one."""
TIMEZONE: Final = "Asia/Singapore"
DROP = {"operation": "create", "at": "after_create", "action": "drop", "times": 1}


class SetClock(LeapingClock):
    """A clock whose date is set, while the time that durations are measured by goes on."""

    set_by_s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + int(self.set_by_s * 1000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with run_upstream(tmp_path / "sandbox", account_count=1) as running:
        yield running


@pytest.fixture
def order(tmp_path: Path, sandbox: Sandbox) -> Order:
    data_dir = str(tmp_path / "data")
    return Order("", data_dir, sandbox.url, credential_of(1), timezone=TIMEZONE)


@asynccontextmanager
async def running(order: Order, clock: SetClock) -> AsyncIterator[Runtime]:
    async with opened(order, clock) as runtime:
        await start(runtime)
        yield runtime


async def run_until_all_ended(
    runtime: Runtime, clock: SetClock, patience_s: float = PATIENCE_S, step_s: float = STEP_S
) -> None:
    """Let time pass, in steps, until every task has ended."""
    began_s = clock.monotonic_s()
    while any((await runtime.db.read(tasks.count_unfinished)).values()):
        passed_s = clock.monotonic_s() - began_s
        assert passed_s < patience_s, "a task is left alone"
        clock.ahead_s += step_s
        await run_loops_once(runtime)


async def submit(runtime: Runtime, order: Order, key: str) -> str:
    answer = await ask(runtime, replace(order, idempotency_key=key))
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["id"]
    return task_id


def books_of(order: Order) -> Books:
    return read_books(Path(order.data_dir) / DATABASE_FILE)


@pytest.mark.parametrize("jump_s", JUMPS)
async def test_a_task_is_followed_when_the_clock_is_set_after_its_submit(
    order: Order, sandbox: Sandbox, jump_s: float
) -> None:
    clock = SetClock(0.0)
    async with running(order, clock) as runtime:
        first = await submit(runtime, order, "first")
        await run_loops_once(runtime)
        clock.set_by_s = jump_s
        second = await submit(runtime, order, "second")
        await run_until_all_ended(runtime, clock)
        assert await submit(runtime, order, "first") == first
        assert await submit(runtime, order, "second") == second

    assert find_differences(books_of(order), sandbox.read_truth()) == []


@pytest.mark.parametrize("jump_s", JUMPS)
async def test_a_lost_answer_is_found_when_the_clock_is_set_after_it(
    order: Order, sandbox: Sandbox, jump_s: float
) -> None:
    clock = SetClock(0.0)
    async with running(order, clock) as runtime:
        await submit(runtime, order, "known")
        sandbox.set_faults(DROP)
        lost = await submit(runtime, order, "lost")
        await run_loops_once(runtime)
        clock.set_by_s = jump_s
        await run_until_all_ended(runtime, clock)
        assert await submit(runtime, order, "lost") == lost

    assert find_differences(books_of(order), sandbox.read_truth()) == []
    assert len(sandbox.read_truth()) == 2


async def test_what_was_sent_by_a_slow_clock_and_lost_is_found_by_its_marker(
    order: Order, sandbox: Sandbox
) -> None:
    """The upstream's date of the task is then a late one, and nothing speaks against that."""
    clock = SetClock(0.0)
    async with running(order, clock) as runtime:
        clock.set_by_s = -DAY_S
        sandbox.set_faults(DROP)
        lost = await submit(runtime, order, "lost")
        await run_loops_once(runtime)
        clock.set_by_s = 0.0
        await run_until_all_ended(runtime, clock)
        assert await submit(runtime, order, "lost") == lost

    assert find_differences(books_of(order), sandbox.read_truth()) == []
    assert len(sandbox.read_truth()) == 1


async def test_what_was_sent_by_a_fast_clock_and_lost_is_an_orphan_and_charged_to_nobody(
    order: Order, sandbox: Sandbox
) -> None:
    """The upstream's date of the task is then one before it can have been sent."""
    clock = SetClock(0.0)
    async with running(order, clock) as runtime:
        await submit(runtime, order, "before")
        clock.set_by_s = DAY_S
        sandbox.set_faults(DROP)
        lost = await submit(runtime, order, "lost")
        await run_loops_once(runtime)
        clock.set_by_s = 0.0
        await submit(runtime, order, "after")
        await run_until_all_ended(runtime, clock, patience_s=2 * DAY_S, step_s=STEP_S * 10)
        assert await submit(runtime, order, "lost") == lost
        clock.ahead_s += DAY_S / 12  # when the whole list is looked through again
        await run_loops_once(runtime)

    books, truth = books_of(order), sandbox.read_truth()
    assert len(books.orphans) == 1
    assert (
        find_differences(books, [made for made in truth if made["id"] not in books.orphans]) == []
    )


@pytest.mark.parametrize("jump_s", [-2 * DAY_S, 0.0, 2 * DAY_S])
async def test_a_task_counts_in_the_month_of_its_submit_wherever_the_clock_goes(
    order: Order, sandbox: Sandbox, jump_s: float
) -> None:
    zone = ZoneInfo(TIMEZONE)
    clock = SetClock(0.0)
    now = datetime.fromtimestamp(clock.now_ms() / 1000, zone)
    month_end = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=zone)
    clock.set_by_s = (month_end - now).total_seconds() - 60
    month_start_ms = int(
        now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000
    )
    async with running(order, clock) as runtime:
        await submit(runtime, order, "in-its-last-minute")
        clock.set_by_s += 60 + jump_s
        await run_until_all_ended(runtime, clock)

    books = books_of(order)
    assert find_differences(books, sandbox.read_truth()) == []
    assert {entry["month_start_ms"] for entry in books.entries} == {month_start_ms}
    assert [entry["kind"] for entry in books.entries] == ["hold", "settle"]
