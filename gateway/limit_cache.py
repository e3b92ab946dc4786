"""Limits in force, for the rates that are decided before any transaction.

Entries are believed for less than a second, so that a limit that another process set is soon heeded
even if nothing reports it. Budgets are not read from here: the admission transaction reads its own.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from gateway.domain.limits import Limit

_BELIEVED_S: Final = 0.9


class LimitCache:
    """Key id to the limits that bind it, least recently used out first."""

    def __init__(self, entries_max: int) -> None:
        self._entries: OrderedDict[str, tuple[float, Sequence[Limit]]] = OrderedDict()
        self._entries_max = entries_max
        self.generation = 0
        """Counts what was dropped: a reader that began before must not put what it read."""

    def find(self, key_id: str, now_s: float) -> Sequence[Limit] | None:
        """Return the key's limits if they are fresh enough to be believed."""
        entry = self._entries.get(key_id)
        if entry is None or now_s - entry[0] > _BELIEVED_S:
            return None
        self._entries.move_to_end(key_id)
        return entry[1]

    def put(self, key_id: str, limits: Sequence[Limit], now_s: float, generation: int) -> None:
        """Keep what was read at `now_s`, unless something was dropped since `generation`."""
        if generation != self.generation:
            return
        self._entries[key_id] = (now_s, limits)
        self._entries.move_to_end(key_id)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self.generation += 1
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
