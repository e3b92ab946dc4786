"""Submissions of a process that died are looked for at once, not only after their deadline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from gateway.domain.keys import Principal
from gateway.domain.tasks import TaskState
from gateway.errors import StorageUnavailable
from gateway.ports import Lifecycle, Runtime
from gateway.services.submission import submit_task
from gateway.services.sweeping import ALIVE_S, announce, sweep_lost_submissions
from gateway.storage import tasks
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import run_loops
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY

DAY_S = 86_400


@asynccontextmanager
async def sending(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> AsyncIterator[Runtime]:
    """Let another process send a submission, whose answer comes when the block is left."""
    other = replace(runtime, process_id="other", lifecycle=Lifecycle())
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(submit_task(other, principal, BODY, "req"))
        await upstream.asked.wait()
        yield other
        upstream.gate.set()


async def states(runtime: Runtime) -> list[TaskState]:
    return [task.state for task in await runtime.db.read(tasks.list_all, 10)]


async def test_a_process_that_lives_keeps_its_submission(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    await announce(runtime)
    async with sending(runtime, principal, upstream) as other:
        await announce(other)

        assert await sweep_lost_submissions(other) == 0

    assert await states(runtime) == [TaskState.QUEUED]


async def test_a_process_that_says_nothing_any_more_loses_it_and_its_late_answer_still_counts(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await announce(runtime)
    async with sending(runtime, principal, upstream) as other:
        await announce(other)
        clock.advance(ALIVE_S + 1)

        assert await sweep_lost_submissions(runtime) == 1
        assert await states(runtime) == [TaskState.UNKNOWN]

    await runtime.background.drain()
    assert await states(runtime) == [TaskState.QUEUED]


async def test_a_restart_finds_what_the_last_process_was_sending_whatever_the_clock_says(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    async with sending(runtime, principal, upstream) as other:
        await announce(other)
        clock.advance(-DAY_S)
        await announce(runtime)

        assert await sweep_lost_submissions(runtime) == 1


@pytest.mark.parametrize(("name", "pauses_s"), [("announce", [3.0] * 5), ("sweep", [10, 20, 30])])
async def test_saying_that_one_lives_is_never_put_off(
    runtime: Runtime, clock: FakeClock, name: str, pauses_s: list[float]
) -> None:
    (loop,) = [loop for loop in build_loops(runtime) if loop.name == name]
    count = 0

    async def fail(_: Runtime) -> None:
        nonlocal count
        count += 1
        if count > len(pauses_s):
            raise asyncio.CancelledError
        raise StorageUnavailable("The database is away.")

    with suppress(asyncio.CancelledError):
        await run_loops(runtime, [replace(loop, run=fail)])

    assert clock.slept_s == pauses_s


async def test_a_process_does_not_take_its_own_submission_for_lost(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    async with sending(runtime, principal, upstream) as other:
        clock.advance(ALIVE_S + 1)  # nothing was announced at all

        assert await sweep_lost_submissions(other) == 0
