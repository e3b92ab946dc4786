"""For how long this process has known its clock to go right: dates alone don't tell.

Somebody may set the clock. A date that has passed then says nothing of how much time has.
"""

from typing import Final, Protocol

_SET_MS: Final = 10_000
"""By what dates and durations differ once a clock was set; adjusting one takes longer."""
TRUSTED_S: Final = 3600.0
"""A clock that went right for so long is taken to be right: what is old by its date is old."""


class _Clock(Protocol):
    def now_ms(self) -> int: ...

    def monotonic_s(self) -> float: ...


class Steadiness:
    """Compares dates with durations, as often as it is asked."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._offset_ms = self._read_offset_ms()
        self._since_s = clock.monotonic_s()

    def steady_s(self) -> float:
        """Return for how long dates have gone as time has: since the start, or a set clock."""
        offset_ms = self._read_offset_ms()
        now_s = self._clock.monotonic_s()
        if abs(offset_ms - self._offset_ms) > _SET_MS:
            self._since_s = now_s
        self._offset_ms = offset_ms
        return now_s - self._since_s

    def _read_offset_ms(self) -> int:
        return self._clock.now_ms() - int(self._clock.monotonic_s() * 1000)
