"""The sandbox's time: dates run in real time, the timeline of tasks runs `scale` times as fast.

Two scales are needed because dates leave the sandbox: a `created_at` or a signature's date that
drifts away from everybody's wall clock would be a fault that the real upstream does not have.
`advance` moves both on. The history of changes is kept, so that every point of the timeline has
the one date at which it happened, also after a restart.
"""

import json
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final

SEGMENTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Segment:
    """From (date, point of the timeline), both milliseconds, time runs with this scale."""

    date_ms: int
    at: int
    scale: float


class SandboxClock:
    """Dates in epoch milliseconds and points of the timeline, also milliseconds."""

    def __init__(
        self,
        scale: float,
        saved: str = "",
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start at the present, or go on from what `saved()` returned before a restart."""
        self._monotonic_ns = monotonic_ns
        self._started_ns = monotonic_ns()
        wall_ms = wall_ns() // 1_000_000
        if not saved:
            self._offset_ms = 0
            self._wall_ms = wall_ms
            self._configured_scale = scale
            self._segments = [Segment(wall_ms, wall_ms, scale)]
            return
        state = json.loads(saved)
        self._offset_ms = int(state["offset_ms"])
        self._segments = [Segment(*segment) for segment in state["segments"]]
        # A wall clock that was set back must not undo a change that was made.
        self._wall_ms = max(wall_ms, self._segments[-1].date_ms - self._offset_ms)
        self._configured_scale = float(state["configured_scale"])
        if scale != self._configured_scale:
            self._configured_scale = scale
            self.set_scale(scale)

    @property
    def scale(self) -> float:
        return self._segments[-1].scale

    def now_ms(self) -> int:
        """Return the sandbox's date."""
        elapsed_ms = (self._monotonic_ns() - self._started_ns) // 1_000_000
        return self._wall_ms + elapsed_ms + self._offset_ms

    def now_at(self) -> int:
        """Return the point that the timeline has reached."""
        return self.at_of(self.now_ms())

    def at_of(self, date_ms: int) -> int:
        last = self._segments[-1]
        return last.at + int((date_ms - last.date_ms) * last.scale)

    def date_of(self, at: int) -> int:
        """Return the date of a point: as it was, or as it will be if nothing is changed."""
        index = bisect_right(self._segments, at, key=lambda segment: segment.at) - 1
        segment = self._segments[max(0, index)]
        return segment.date_ms + int((at - segment.at) / segment.scale)

    def real_s_until(self, at: int) -> float:
        """Return the real seconds until a point is reached; not positive if it has been."""
        return (at - self.now_at()) / self.scale / 1000

    def set_scale(self, scale: float) -> None:
        """Let the timeline run at another speed from now on, without a jump."""
        now_ms = self.now_ms()
        self._append(Segment(now_ms, self.at_of(now_ms), scale))

    def advance(self, seconds: float) -> None:
        """Move dates and the timeline on by the same number of seconds."""
        step_ms = int(seconds * 1000)
        now_ms = self.now_ms()
        before = Segment(now_ms, self.at_of(now_ms), 1.0)
        scale = self.scale
        self._append(before)
        self._offset_ms += step_ms
        self._append(Segment(now_ms + step_ms, before.at + step_ms, scale))

    def saved(self) -> str:
        return json.dumps(
            {
                "offset_ms": self._offset_ms,
                "configured_scale": self._configured_scale,
                "segments": [astuple(segment) for segment in self._segments],
            }
        )

    def _append(self, segment: Segment) -> None:
        self._segments.append(segment)
        del self._segments[:-SEGMENTS_MAX]
