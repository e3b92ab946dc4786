"""Who runs when: the queue of one account and model, planned ahead.

Every task's queue and run times are known when it is made, so its start and end can be, too: it
takes the slot that is free first. Only a task that leaves the queue changes the plan of others.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Booking:
    """A task's place in its lane. All times are points of the timeline.

    A held one was told how long to queue: it starts then, whatever the slots say.
    """

    ordinal: int
    task_id: str
    ready_at: int
    run_ms: int
    expire_at: int
    is_held: bool
    start_at: int = 0
    end_at: int = 0


class Lane:
    """The live tasks of one account and model. `slots` None means that nothing ever waits."""

    def __init__(self, slots: int | None) -> None:
        self._slots = slots
        self._free_at: list[int] = []
        self._bookings: dict[str, Booking] = {}
        self._ends: list[tuple[int, str]] = []
        self._starts: list[int] = []

    def restore(self, bookings: Iterable[Booking]) -> None:
        """Take over live tasks, already planned, after a restart."""
        for booking in bookings:
            self._remember(booking)
        if self._slots is not None:
            ends = (each.end_at for each in self._bookings.values() if not each.is_held)
            # A slot is always taken where it is free first, so these are the slots' last ends.
            self._free_at = heapq.nlargest(self._slots, ends)
            heapq.heapify(self._free_at)

    def admit(self, booking: Booking) -> Booking:
        """Return the booking with its start and end; it is part of the lane from now on."""
        planned = self._plan(booking)
        self._remember(planned)
        return planned

    def cancel(self, task_id: str, now_at: int) -> list[Booking]:
        """Take a task out of the queue and return those that start at another time for it."""
        self._forget_ended(now_at)
        self._bookings.pop(task_id, None)
        before = list(self._bookings.values())
        self._free_at, self._ends, self._starts, self._bookings = [], [], [], {}
        started = [each for each in before if each.start_at <= now_at or each.is_held]
        waiting = [each for each in before if each.start_at > now_at and not each.is_held]
        self.restore(started)
        changed = []
        for booking in sorted(waiting, key=lambda each: each.ordinal):
            ready = max(booking.ready_at, now_at + 1)
            planned = self.admit(replace(booking, ready_at=ready))
            if planned.start_at != booking.start_at or planned.end_at != booking.end_at:
                changed.append(planned)
        return changed

    def queued_count(self, now_at: int) -> int:
        self._forget_ended(now_at)
        while self._starts and self._starts[0] <= now_at:
            heapq.heappop(self._starts)
        return len(self._starts)

    def _plan(self, booking: Booking) -> Booking:
        start_at = booking.ready_at
        takes_slot = self._slots is not None and not booking.is_held
        is_full = takes_slot and len(self._free_at) >= (self._slots or 0)
        if is_full:
            start_at = max(start_at, self._free_at[0])
        if start_at >= booking.expire_at:
            return replace(booking, start_at=booking.expire_at, end_at=booking.expire_at)
        end_at = min(start_at + booking.run_ms, booking.expire_at)
        if is_full:
            heapq.heapreplace(self._free_at, end_at)
        elif takes_slot:
            heapq.heappush(self._free_at, end_at)
        return replace(booking, start_at=start_at, end_at=end_at)

    def _remember(self, booking: Booking) -> None:
        self._bookings[booking.task_id] = booking
        heapq.heappush(self._ends, (booking.end_at, booking.task_id))
        heapq.heappush(self._starts, booking.start_at)

    def _forget_ended(self, now_at: int) -> None:
        while self._ends and self._ends[0][0] <= now_at:
            _, task_id = heapq.heappop(self._ends)
            self._bookings.pop(task_id, None)
