"""Runs the loops. A half-alive process can't exist: a loop that dies takes the process down."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.ports import Runtime

_DEFECTS_MAX: Final = 20
_BACK_OFF_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Loop:
    """A function called every `interval_s`, never twice at once."""

    name: str
    run: Callable[[Runtime], Awaitable[object]]
    interval_s: float
    backs_off: bool = True
    """Whether it is tried later and later while it fails."""


async def run_loops(runtime: Runtime, loops: Sequence[Loop]) -> None:
    """Run every loop until cancelled.

    A GatewayError (database busy, upstream away) is expected weather and is tried again later and
    later. Any other exception is a defect: after 20 in a row the loop dies, and with it the group.
    """
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(_run_loop(runtime, loop), name=f"loop:{loop.name}")


async def _run_loop(runtime: Runtime, loop: Loop) -> None:
    failure_count = defect_count = 0
    while True:
        try:
            await loop.run(runtime)
        except Exception as error:
            failure_count += 1
            defect_count = 0 if _is_weather(error) else defect_count + 1
            level = logging.WARNING if _is_weather(error) else logging.ERROR
            runtime.log.log(level, "worker.loop_failed", loop=loop.name, exc_info=error)
            if defect_count >= _DEFECTS_MAX:
                runtime.log.exception("worker.loop_died", loop=loop.name, exc_info=error)
                raise
        else:
            failure_count = defect_count = 0
            runtime.metrics.loop_last_success.set(runtime.clock.now_ms() / 1000, loop.name)
        await runtime.clock.sleep(_pause_s(loop, failure_count))


def _is_weather(error: Exception) -> bool:
    """Whether `error`, or all of its group, is a GatewayError."""
    if isinstance(error, ExceptionGroup):
        return error.split(GatewayError)[1] is None
    return isinstance(error, GatewayError)


def _pause_s(loop: Loop, failure_count: int) -> float:
    """Return the loop's interval, doubled with each failure in a row up to 30 s if it backs off."""
    if failure_count == 0 or not loop.backs_off:
        return loop.interval_s
    backed_off_s = min(loop.interval_s * 2.0 ** min(failure_count, 16), _BACK_OFF_S_MAX)
    return max(backed_off_s, loop.interval_s)
