import asyncio

import pytest

from gateway.background import Background


async def test_work_goes_on_when_nobody_waits_for_it_any_more() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    async with Background() as background:
        future = background.start(work())
        future.cancel()
        go.set()
        await background.drain()

        assert done.is_set()
        assert background.active_count == 0


async def test_a_failure_reaches_who_waits_and_nobody_else() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    async def succeed() -> int:
        await asyncio.sleep(0)
        return 7

    async with Background() as background:
        failing, other = background.start(fail()), background.start(succeed())

        assert await other == 7
        with pytest.raises(ValueError, match="mine"):
            await failing


async def test_leaving_waits_for_what_runs() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async with Background() as background:
        background.start(work())

    assert done.is_set()
