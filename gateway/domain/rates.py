"""Rates of submits: GCRA (the generic cell rate algorithm) in whole nanoseconds.

A limit of N per minute lets N through at once after a minute of rest, and one more each N-th part
of a minute from then on: in any span of `w` seconds N + N*w/60 at most, and N per minute in the
long run. All that is kept of an account is one moment, its `tat` (theoretical arrival time): when
it will be at rest again. How far it lies ahead is the share of the minute's worth that is used, so
a cap that changes takes effect at once and keeps the share: whoever had used half of the old one
has used half of the new one.

The time between two requests is rounded up to a nanosecond: never more passes than was allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.limits import Account, Limit, Metric
from gateway.domain.money import ceil_div

WINDOW_S: Final = 60
_SECOND_NS: Final = 1_000_000_000
_WINDOW_NS: Final = WINDOW_S * _SECOND_NS


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `cap_per_minute` requests of an account. One account has one."""

    account: Account
    cap_per_minute: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request passes one rate, and how that rate stands afterwards.

    `retry_after_s` is 0 if it passes; `reset_s` is the time until the whole burst is free again.
    """

    is_allowed: bool
    tat_ns: int
    remaining_count: int
    retry_after_s: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class RateStanding:
    """What a limit has left."""

    limit: RateLimit
    remaining_count: int
    retry_after_s: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether a request passes all of its rates. If one refuses it, none has lost anything."""

    is_allowed: bool
    standings: tuple[RateStanding, ...]
    """In the order in which the limits were given."""

    @property
    def tightest(self) -> RateStanding | None:
        """The limit that refuses for longest, or else leaves least; None without any limit."""
        return min(
            self.standings,
            key=lambda one: (one.remaining_count, -one.retry_after_s, -one.reset_s),
            default=None,
        )


def rates_of(limits: Sequence[Limit]) -> tuple[RateLimit, ...]:
    """Return the rates among `limits`."""
    return tuple(RateLimit(one.account, one.cap) for one in limits if one.metric is Metric.RPM)


def look(tat_ns: int, now_ns: int, rate_per_minute: int, burst_count: int) -> Decision:
    """Return how a rate stands and whether a request would pass, and let none through."""
    if rate_per_minute == 0 or burst_count == 0:
        return Decision(
            is_allowed=False,
            tat_ns=tat_ns,
            remaining_count=0,
            retry_after_s=WINDOW_S,  # it never passes; asking more often would not help
            reset_s=WINDOW_S,
        )
    interval_ns = ceil_div(_WINDOW_NS, rate_per_minute)
    burst_ns = burst_count * interval_ns
    # A slower rate before, or a clock that was set back, may have left it further ahead.
    used_ns = min(max(tat_ns - now_ns, 0), burst_ns)
    remaining_count = (burst_ns - used_ns) // interval_ns
    return Decision(
        is_allowed=remaining_count > 0,
        tat_ns=now_ns + used_ns,
        remaining_count=remaining_count,
        retry_after_s=max(ceil_div(used_ns + interval_ns - burst_ns, _SECOND_NS), 0),
        # The rounding of the interval must not show as one second more.
        reset_s=min(
            ceil_div(used_ns, _SECOND_NS), ceil_div(burst_count * WINDOW_S, rate_per_minute)
        ),
    )


def decide(tat_ns: int, now_ns: int, rate_per_minute: int, burst_count: int) -> Decision:
    """Let one request through, if the rate allows it. Its `tat_ns` is what to keep."""
    before = look(tat_ns, now_ns, rate_per_minute, burst_count)
    if not before.is_allowed:
        return before
    taken_ns = before.tat_ns + ceil_div(_WINDOW_NS, rate_per_minute)
    after = look(taken_ns, now_ns, rate_per_minute, burst_count)
    return replace(after, is_allowed=True, retry_after_s=0)


def decide_all(
    limits: Sequence[RateLimit], tats_ns: Sequence[int], now_ns: int
) -> tuple[Decision, ...]:
    """Let one request through all of `limits`, or through none.

    It has passed if every decision allows it; otherwise each shows how its rate stands, untouched.
    """
    pairs = list(zip(limits, tats_ns, strict=True))
    decisions = tuple(
        decide(tat_ns, now_ns, limit.cap_per_minute, limit.cap_per_minute)
        for limit, tat_ns in pairs
    )
    if all(decision.is_allowed for decision in decisions):
        return decisions
    return tuple(
        look(tat_ns, now_ns, limit.cap_per_minute, limit.cap_per_minute) for limit, tat_ns in pairs
    )


def standing_of(limit: RateLimit, decision: Decision) -> RateStanding:
    """Return what `limit` has left after `decision`."""
    return RateStanding(limit, decision.remaining_count, decision.retry_after_s, decision.reset_s)
