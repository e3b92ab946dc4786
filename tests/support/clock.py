"""Time that moves when a test says so."""

import asyncio


class FakeClock:
    """A clock at a given moment. `sleep` moves it on at once and lets others run."""

    def __init__(self, now_ms: int = 1_795_330_862_000) -> None:
        self.now = now_ms
        self._set_by_ms = 0
        self.slept_s: list[float] = []

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return (self.now - self._set_by_ms) / 1000

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.advance(delay_s)
        await asyncio.sleep(0)

    def set_date(self, by_s: float) -> None:
        """Set the date alone: no time passes."""
        self._set_by_ms += int(by_s * 1000)
        self.now += int(by_s * 1000)

    def advance(self, duration_s: float) -> None:
        self.now += int(duration_s * 1000)
