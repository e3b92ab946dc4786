"""The gateway's clock in virtual time. Its date may be wrong; the world's own time never is."""

import asyncio
from typing import Final

from tests.simulation.loop import SimulatedLoop

EPOCH_MS: Final = 1_795_330_862_000


class SimulatedClock:
    """Durations are the loop's; dates are, too, but for `skew_ms`."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.skew_ms = 0

    def now_ms(self) -> int:
        return self._loop.date_ms() + self.skew_ms

    def monotonic_s(self) -> float:
        return self._loop.time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
