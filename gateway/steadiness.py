"""For how long this process has known its clock to go right: dates alone don't tell.

Somebody may set the clock. A date that has passed then says nothing of how much time has, and what
was dated before can't be compared with what is dated now.
"""

from typing import Final, Protocol

_SET_MS: Final = 10_000
"""By what dates and durations differ once a clock was set; adjusting one takes longer."""
TRUSTED_S: Final = 3600.0
"""A clock that went right for so long is taken to be right: what is old by its date is old."""


def span_of(*spans: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the span from the first to the last date of these; None if there is none."""
    known = [span for span in spans if span is not None]
    if not known:
        return None
    return min(first for first, _ in known), max(last for _, last in known)


class _Clock(Protocol):
    def now_ms(self) -> int: ...

    def monotonic_s(self) -> float: ...


class Steadiness:
    """Compares dates with durations, as often as it is asked."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._offset_ms = self._read_offset_ms()
        self._since_s = self._asked_s = clock.monotonic_s()
        self.doubted_ms: tuple[int, int] | None = None
        """The first and last of the dates that the clock was set past, or back over."""

    def steady_s(self) -> float:
        """Return for how long dates have gone as time has: since the start, or a set clock."""
        offset_ms = self._read_offset_ms()
        now_s = self._clock.monotonic_s()
        if abs(offset_ms - self._offset_ms) > _SET_MS:
            self._since_s = now_s
            self._doubt(offset_ms, now_s)
        self._offset_ms, self._asked_s = offset_ms, now_s
        return now_s - self._since_s

    def _doubt(self, offset_ms: int, now_s: float) -> None:
        """Note that the clock was set, some time since it was asked before."""
        unasked_ms = int((now_s - self._asked_s) * 1000) + _SET_MS
        dates = [offset + int(now_s * 1000) for offset in (offset_ms, self._offset_ms)]
        self.doubted_ms = span_of((min(dates) - unasked_ms, max(dates)), self.doubted_ms)

    def _read_offset_ms(self) -> int:
        return self._clock.now_ms() - int(self._clock.monotonic_s() * 1000)
