"""Who may have deliveries in progress: receivers that don't answer take nobody else's turn.

A receiver is proved when it takes a delivery, until one fails. Each proved one has a few places.
One that is not has a single place, and all of those together have half of the places: however many
do not answer, and however much waits for them, the others are served meanwhile.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

_PROVED_MAX: Final = 10_000


class Places:
    """The places for one kind of deliveries, in this process."""

    def __init__(self, places_max: int, receiver_max: int) -> None:
        self._places_max = places_max
        self._unproved_max = max(places_max // 2, 1)
        self._receiver_max = receiver_max
        self._taken: Counter[str] = Counter()
        self._proved: OrderedDict[str, None] = OrderedDict()
        self.last_served = ""
        """The receiver behind whom the next round begins."""

    @property
    def taken_count(self) -> int:
        return self._taken.total()

    def grant(self, receivers: Iterable[str]) -> Mapping[str, int]:
        """Return how many more deliveries each may begin, those first who come first."""
        left = self._places_max - self._taken.total()
        unproved_left = self._unproved_max - sum(
            count for receiver, count in self._taken.items() if receiver not in self._proved
        )
        granted: dict[str, int] = {}
        for receiver in receivers:
            is_proved = receiver in self._proved
            most = self._receiver_max if is_proved else min(1, unproved_left)
            count = min(most - self._taken[receiver], left)
            if count <= 0:
                continue
            granted[receiver] = count
            left -= count
            unproved_left -= 0 if is_proved else count
        return granted

    def take(self, receiver: str) -> None:
        self._taken[receiver] += 1

    def give_back(self, receiver: str, *, is_delivered: bool) -> None:
        self._taken[receiver] -= 1
        if not self._taken[receiver]:
            del self._taken[receiver]
        if not is_delivered:
            self._proved.pop(receiver, None)
            return
        self._proved[receiver] = None
        self._proved.move_to_end(receiver)
        if len(self._proved) > _PROVED_MAX:
            self._proved.popitem(last=False)
