"""The one clock: durations come from `monotonic_s`, dates from `now_ms`."""

import asyncio
import time


class SystemClock:
    """UTC wall time in epoch milliseconds, monotonic seconds, and sleep."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
