import asyncio
from bisect import bisect_left

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.upstreams.pacing import Pacer
from tests.support.clock import FakeClock


class HeldClock(FakeClock):
    """A clock whose sleepers wake when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.wake = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        await self.wake.wait()
        self.advance(delay_s)


def busiest_second(times_s: list[float]) -> int:
    """Return how many of `times_s`, in order, fall into one second, both its ends included."""
    return max(
        bisect_left(times_s, start_s + 1.0 + 1e-9) - index for index, start_s in enumerate(times_s)
    )


@pytest.mark.parametrize("per_s_max", [0.5, 1.0, 20.0])
async def test_a_budget_is_never_exceeded_in_any_second(per_s_max: float) -> None:
    clock = FakeClock()
    pacer = Pacer(per_s_max, clock, wait_s_max=1000)
    left_at_s: list[float] = []

    async def call() -> None:
        await pacer.wait_turn()
        left_at_s.append(clock.monotonic_s())

    await asyncio.gather(*(call() for _ in range(100)))

    assert len(left_at_s) == 100
    assert busiest_second(left_at_s) <= max(1, per_s_max)


async def test_a_burst_after_a_long_rest_is_paced_too() -> None:
    clock = FakeClock()
    pacer = Pacer(10, clock, wait_s_max=1000)
    await pacer.wait_turn()
    clock.advance(3600)

    left_at_s: list[float] = []
    for _ in range(30):
        await pacer.wait_turn()
        left_at_s.append(clock.monotonic_s())

    assert busiest_second(left_at_s) <= 10


async def test_the_budget_is_used_nearly_whole() -> None:
    clock = FakeClock()
    pacer = Pacer(20, clock, wait_s_max=1000)
    started_s = clock.monotonic_s()

    for _ in range(201):
        await pacer.wait_turn()

    assert clock.monotonic_s() - started_s < 200 / 20 * 1.1


async def test_a_call_at_rest_goes_at_once() -> None:
    clock = FakeClock()
    pacer = Pacer(1, clock, wait_s_max=10)

    await pacer.wait_turn()
    clock.advance(2)
    await pacer.wait_turn()

    assert clock.slept_s == []


async def test_calls_go_in_the_order_they_came() -> None:
    pacer = Pacer(20, FakeClock(), wait_s_max=1000)
    order: list[int] = []

    async def call(number: int) -> None:
        await pacer.wait_turn()
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(50)))

    assert order == list(range(50))


async def test_a_queue_longer_than_the_wait_allowed_is_refused_at_once() -> None:
    clock = HeldClock()
    pacer = Pacer(1, clock, wait_s_max=3)
    await pacer.wait_turn()

    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(pacer.wait_turn()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(UpstreamUnavailable):
            await pacer.wait_turn()
        assert not any(waiter.done() for waiter in waiters)
        clock.wake.set()

    await pacer.wait_turn()


async def test_a_waiter_that_gives_up_costs_the_others_nothing() -> None:
    clock = HeldClock()
    pacer = Pacer(1, clock, wait_s_max=100)
    await pacer.wait_turn()
    started_s = clock.monotonic_s()

    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(pacer.wait_turn()) for _ in range(5)]
        await asyncio.sleep(0)
        for waiter in waiters[:4]:
            waiter.cancel()
        clock.wake.set()

    assert waiters[4].done()
    assert clock.monotonic_s() - started_s < 2
