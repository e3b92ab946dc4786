"""Rates in the memory of one process.

A rate protects, it does not account: what counts money is in the database and fails closed. So this
fails soft. A restart forgets what was used, and of several processes each allows the whole rate. A
limiter over a shared store stands behind the same port, and falls back to this one, with one log
line and one metric, while its store does not answer.
"""

from collections import OrderedDict
from collections.abc import Sequence

from gateway.domain.limits import Account
from gateway.domain.rates import (
    Decision,
    RateDecision,
    RateLimit,
    RateStanding,
    decide_all,
    look,
    standing_of,
)
from gateway.ports import Clock


class MemoryRateLimiter:
    """One moment for each account, bounded in number.

    The least recently used goes first. After a minute without requests an account is as good as
    new, so forgetting it changes nothing; forgetting a busy one gives it one burst more.
    """

    def __init__(self, clock: Clock, entries_max: int) -> None:
        self._clock = clock
        self._entries_max = entries_max
        self._tats_ns: OrderedDict[Account, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tats_ns)

    async def take(self, limits: Sequence[RateLimit]) -> RateDecision:
        """Let one request through all of `limits`, or through none of them."""
        now_ns = self._now_ns()
        decisions = decide_all(limits, self._find_tats_ns(limits, now_ns), now_ns)
        # Nothing is awaited between reading and writing: no other request comes in between.
        for limit, decision in zip(limits, decisions, strict=True):
            self._put(limit.account, decision.tat_ns)
        return RateDecision(
            is_allowed=all(decision.is_allowed for decision in decisions),
            standings=_standings_of(limits, decisions),
        )

    async def look(self, limits: Sequence[RateLimit]) -> Sequence[RateStanding]:
        """Return what `limits` have left, and take nothing."""
        now_ns = self._now_ns()
        tats_ns = self._find_tats_ns(limits, now_ns)
        return _standings_of(
            limits,
            [
                look(tat_ns, now_ns, limit.cap_per_minute, limit.cap_per_minute)
                for limit, tat_ns in zip(limits, tats_ns, strict=True)
            ],
        )

    def _now_ns(self) -> int:
        # To the microsecond: a clock's float may hold no more.
        return round(self._clock.monotonic_s() * 1_000_000) * 1_000

    def _find_tats_ns(self, limits: Sequence[RateLimit], now_ns: int) -> Sequence[int]:
        return [self._tats_ns.get(limit.account, now_ns) for limit in limits]

    def _put(self, account: Account, tat_ns: int) -> None:
        self._tats_ns[account] = tat_ns
        self._tats_ns.move_to_end(account)
        if len(self._tats_ns) > self._entries_max:
            self._tats_ns.popitem(last=False)


def _standings_of(
    limits: Sequence[RateLimit], decisions: Sequence[Decision]
) -> tuple[RateStanding, ...]:
    return tuple(map(standing_of, limits, decisions))
