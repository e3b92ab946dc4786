"""Keys that were checked a moment ago, by the raw header that carried them.

An entry lives for `auth.cache_s` at most, so a revocation made by any process is effective within
that time without a message; a change that this process hears of clears the cache at once.
"""

from collections import OrderedDict

from gateway.domain.keys import Principal


class KeyCache:
    """Raw `Authorization` value to who it is, bounded in size and age.

    Refused values are kept apart, so that a flood of them can't push the good ones out.
    """

    def __init__(self, keys_max: int, age_s_max: float) -> None:
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._keys_max = keys_max
        self._age_s_max = age_s_max
        self.generation = 0
        """Counts the clearings: an answer read before one must not be kept."""

    def find(self, header: bytes, now_s: float) -> Principal | None:
        """Return who is known to send this header."""
        entry = self._known.get(header)
        if entry is None or now_s - entry[1] > self._age_s_max:
            return None
        return entry[0]

    def is_refused(self, header: bytes, now_s: float) -> bool:
        """Whether this header is known to be nobody's."""
        refused_at_s = self._refused.get(header)
        return refused_at_s is not None and now_s - refused_at_s <= self._age_s_max

    def put(
        self, header: bytes, principal: Principal | None, now_s: float, generation: int
    ) -> None:
        """Keep an answer whose reading began at `now_s`, in `generation`."""
        if generation != self.generation:
            return
        if principal is not None:
            self._known[header] = (principal, now_s)
            self._known.move_to_end(header)
            if len(self._known) > self._keys_max:
                self._known.popitem(last=False)
        else:
            self._refused[header] = now_s
            self._refused.move_to_end(header)
            if len(self._refused) > self._keys_max:
                self._refused.popitem(last=False)

    def clear(self) -> None:
        self.generation += 1
        self._known.clear()
        self._refused.clear()
