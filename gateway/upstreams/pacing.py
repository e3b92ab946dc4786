"""Keeping reads inside an upstream's documented budget."""

import asyncio
from typing import Final

from gateway.errors import UpstreamUnavailable
from gateway.ports import Clock

# Calls that leave evenly do not arrive evenly: one part in twenty is kept back for the difference,
# and for the call that stands on either end of the second in which an upstream counts.
_MARGIN: Final = 1.05
# Less than this is no time worth sleeping for.
_RESOLUTION_S: Final = 0.001


class Pacer:
    """Lets calls go one by one, in the order they came, never more than `per_s_max` in a second."""

    def __init__(self, per_s_max: float, clock: Clock, *, wait_s_max: float) -> None:
        self._interval_s = _MARGIN / per_s_max
        self._wait_s_max = wait_s_max
        self._clock = clock
        self._turn = asyncio.Lock()
        self._waiting_count = 0
        self._next_at_s = clock.monotonic_s()

    async def wait_turn(self) -> None:
        """Return when the next call may go.

        Raises UpstreamUnavailable at once if the queue before it is longer than the wait allowed.
        """
        if self._waiting_count * self._interval_s > self._wait_s_max:
            raise UpstreamUnavailable("The upstream's budget of reads is used up for the moment.")
        self._waiting_count += 1
        try:
            async with self._turn:  # woken in order of arrival
                while (delay_s := self._next_at_s - self._clock.monotonic_s()) > _RESOLUTION_S:
                    await self._clock.sleep(delay_s)
                self._next_at_s = self._clock.monotonic_s() + self._interval_s
        finally:
            self._waiting_count -= 1
