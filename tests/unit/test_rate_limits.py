import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.limits import RATE_CAP_MAX, Account, Limit, Metric, Scope, Window
from gateway.domain.rates import (
    WINDOW_S,
    RateDecision,
    RateLimit,
    RateStanding,
    decide,
    look,
    rates_of,
)
from gateway.http.limit_headers import rate_headers
from gateway.limits.memory import MemoryRateLimiter
from gateway.ports import RateLimiter
from tests.support.clock import FakeClock

SECOND_NS: Final = 10**9
ORGANIZATION: Final = Account(Scope.ORGANIZATION, "")
PROJECT: Final = Account(Scope.PROJECT, "p")
KEY: Final = Account(Scope.KEY, "k")

_rates: Final = st.one_of(
    st.sampled_from([1, 2, 3, 7, 59, 60, 61, 600, RATE_CAP_MAX - 1, RATE_CAP_MAX]),
    st.integers(1, RATE_CAP_MAX),
)
_slow_rates: Final = st.integers(1, 20)
_pauses_ns: Final = st.lists(
    st.one_of(
        st.just(0),
        st.integers(0, 10),
        st.integers(0, 3 * SECOND_NS),
        st.sampled_from([SECOND_NS, 6 * SECOND_NS, 60 * SECOND_NS, 60 * SECOND_NS - 1]),
    ),
    max_size=80,
)


class TokenBucket:
    """The same rule told the other way round: tokens that come back evenly, as fractions."""

    def __init__(self, rate_per_minute: int) -> None:
        self.size = rate_per_minute
        self.tokens = Fraction(rate_per_minute)
        self.at_ns = 0
        whole_ns = -(-60 * SECOND_NS // rate_per_minute)
        self.per_ns = Fraction(1, whole_ns)

    def refill(self, now_ns: int) -> None:
        back = (now_ns - self.at_ns) * self.per_ns
        self.tokens, self.at_ns = min(self.tokens + back, Fraction(self.size)), now_ns

    def take(self, now_ns: int) -> bool:
        self.refill(now_ns)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def passed_at_ns(rate_per_minute: int, moments_ns: Sequence[int]) -> list[int]:
    """Return at which of the moments a request passes."""
    tat_ns, passed = 0, []
    for now_ns in moments_ns:
        decision = decide(tat_ns, now_ns, rate_per_minute, rate_per_minute)
        tat_ns = decision.tat_ns
        if decision.is_allowed:
            passed.append(now_ns)
    return passed


def moments_of(pauses_ns: Sequence[int]) -> list[int]:
    now_ns = 0
    return [now_ns := now_ns + pause_ns for pause_ns in pauses_ns]


def a_limiter(clock: FakeClock, entries_max: int = 100) -> MemoryRateLimiter:
    return MemoryRateLimiter(clock, entries_max)


async def passes(limiter: RateLimiter, *limits: RateLimit, times: int = 1) -> int:
    """Return how many of so many requests at once pass."""
    return sum([(await limiter.take(limits)).is_allowed for _ in range(times)])


@given(_slow_rates, _pauses_ns)
def test_a_rate_decides_as_a_bucket_of_tokens_does(
    rate_per_minute: int, pauses_ns: list[int]
) -> None:
    bucket, tat_ns = TokenBucket(rate_per_minute), 0
    for now_ns in moments_of(pauses_ns):
        decision = decide(tat_ns, now_ns, rate_per_minute, rate_per_minute)
        tat_ns = decision.tat_ns

        assert decision.is_allowed == bucket.take(now_ns)
        assert decision.remaining_count == bucket.tokens // 1


@given(_slow_rates, _pauses_ns)
def test_no_span_of_time_lets_more_through_than_a_burst_and_its_share(
    rate_per_minute: int, pauses_ns: list[int]
) -> None:
    passed = passed_at_ns(rate_per_minute, moments_of(pauses_ns))

    for first, start_ns in enumerate(passed):
        for last, end_ns in enumerate(passed[first:], first):
            share = Fraction((end_ns - start_ns) * rate_per_minute, 60 * SECOND_NS)
            assert last - first + 1 <= rate_per_minute + share


@pytest.mark.parametrize("rate_per_minute", [1, 2, 7, 60, 61, 997])
def test_a_fresh_minute_lets_the_whole_rate_through_at_once(rate_per_minute: int) -> None:
    passed = passed_at_ns(rate_per_minute, [0] * (rate_per_minute + 5))

    assert len(passed) == rate_per_minute


@pytest.mark.parametrize("rate_per_minute", [1, 7, 60, 601])
def test_steady_asking_gets_the_rate_and_no_more(rate_per_minute: int) -> None:
    minutes = 20
    step_ns = 60 * SECOND_NS // (rate_per_minute * 3)
    moments = list(range(0, minutes * 60 * SECOND_NS, step_ns))

    passed = passed_at_ns(rate_per_minute, moments)

    after_the_burst = len(passed) - bisect_left(passed, 60 * SECOND_NS)
    assert after_the_burst <= rate_per_minute * (minutes - 1)
    assert after_the_burst >= rate_per_minute * (minutes - 1) * 0.99


@given(_rates, st.integers(0, 60 * SECOND_NS), st.integers(0, 10**15))
def test_who_waits_as_told_passes_and_who_comes_a_second_early_does_not(
    rate_per_minute: int, ahead_ns: int, now_ns: int
) -> None:
    tat_ns = now_ns + ahead_ns
    told = look(tat_ns, now_ns, rate_per_minute, rate_per_minute)

    assert told.is_allowed == (told.retry_after_s == 0)
    assert 0 <= told.retry_after_s <= WINDOW_S
    later_ns = now_ns + told.retry_after_s * SECOND_NS
    assert decide(tat_ns, later_ns, rate_per_minute, rate_per_minute).is_allowed
    if not told.is_allowed:
        early_ns = later_ns - SECOND_NS
        assert not decide(tat_ns, early_ns, rate_per_minute, rate_per_minute).is_allowed


@given(_rates, st.integers(0, 100 * SECOND_NS), st.integers(0, 10**15))
def test_what_is_told_is_within_its_bounds(
    rate_per_minute: int, ahead_ns: int, now_ns: int
) -> None:
    for decided in (look, decide):
        told = decided(now_ns + ahead_ns, now_ns, rate_per_minute, rate_per_minute)

        assert 0 <= told.remaining_count <= rate_per_minute
        assert 0 <= told.reset_s <= WINDOW_S
        assert told.retry_after_s <= told.reset_s


@given(_rates, st.integers(0, 60 * SECOND_NS))
def test_after_its_reset_a_rate_is_whole(rate_per_minute: int, ahead_ns: int) -> None:
    told = look(ahead_ns, 0, rate_per_minute, rate_per_minute)
    # Intervals are rounded up: a full rate may be short of a minute by a nanosecond a request.
    later_ns = told.reset_s * SECOND_NS + rate_per_minute

    after = look(ahead_ns, later_ns, rate_per_minute, rate_per_minute)

    assert after.remaining_count == rate_per_minute
    assert after.reset_s == 0


def test_a_smaller_burst_than_the_rate_spreads_requests_out() -> None:
    tat_ns, passed = 0, 0
    for _ in range(20):
        decision = decide(tat_ns, 0, 60, 10)
        tat_ns, passed = decision.tat_ns, passed + decision.is_allowed

    assert passed == 10
    assert decision.reset_s == 10
    assert decision.retry_after_s == 1


@pytest.mark.parametrize(("rate_per_minute", "burst_count"), [(0, 0), (0, 5), (5, 0)])
def test_a_rate_of_nothing_lets_nothing_through(rate_per_minute: int, burst_count: int) -> None:
    decision = decide(0, 10**12, rate_per_minute, burst_count)

    assert not decision.is_allowed
    assert (decision.remaining_count, decision.retry_after_s) == (0, WINDOW_S)


async def test_one_refusal_takes_nothing_from_the_other_limits() -> None:
    clock = FakeClock(0)
    limiter = a_limiter(clock)
    wide, narrow = RateLimit(ORGANIZATION, 10), RateLimit(KEY, 2)

    assert await passes(limiter, wide, RateLimit(PROJECT, 5), narrow, times=7) == 2

    left = await limiter.look([wide, RateLimit(PROJECT, 5), narrow])
    assert [standing.remaining_count for standing in left] == [8, 3, 0]


async def test_the_order_of_limits_makes_no_difference() -> None:
    limiter = a_limiter(FakeClock(0))
    wide, narrow = RateLimit(ORGANIZATION, 10), RateLimit(KEY, 2)

    assert await passes(limiter, narrow, wide, times=7) == 2
    assert [one.remaining_count for one in await limiter.look([wide, narrow])] == [8, 0]


async def test_looking_takes_nothing_and_leaves_nothing_behind() -> None:
    limiter = a_limiter(FakeClock(0))

    for _ in range(5):
        assert [one.remaining_count for one in await limiter.look([RateLimit(KEY, 2)])] == [2]

    assert len(limiter) == 0


async def test_without_limits_everything_passes() -> None:
    decision = await a_limiter(FakeClock(0)).take([])

    assert decision == RateDecision(is_allowed=True, standings=())
    assert decision.tightest is None


async def test_requests_that_come_together_get_the_cap_and_no_more() -> None:
    limiter = a_limiter(FakeClock(0))
    limits = [RateLimit(ORGANIZATION, 30), RateLimit(PROJECT, 17)]

    decisions = await asyncio.gather(*(limiter.take(limits) for _ in range(200)))

    assert sum(decision.is_allowed for decision in decisions) == 17


async def test_a_refused_request_passes_after_the_time_it_was_told() -> None:
    clock = FakeClock()
    limiter = a_limiter(clock)
    limits = [RateLimit(ORGANIZATION, 7), RateLimit(KEY, 11)]
    await passes(limiter, *limits, times=7)

    refused = await limiter.take(limits)

    assert refused.tightest is not None
    assert refused.tightest.limit.account == ORGANIZATION
    assert refused.tightest.retry_after_s == 9  # a seventh of a minute
    clock.advance(8)
    assert await passes(limiter, *limits) == 0
    clock.advance(1)
    assert await passes(limiter, *limits) == 1


async def test_a_changed_cap_takes_effect_at_once_and_keeps_the_share_that_is_used() -> None:
    clock = FakeClock()
    limiter = a_limiter(clock)
    assert await passes(limiter, RateLimit(KEY, 60), times=30) == 30

    assert (await limiter.look([RateLimit(KEY, 6)]))[0].remaining_count == 3
    assert (await limiter.look([RateLimit(KEY, 600)]))[0].remaining_count == 300
    assert await passes(limiter, RateLimit(KEY, 6), times=10) == 3
    assert await passes(limiter, RateLimit(KEY, 600)) == 0
    clock.advance(0.1)
    assert await passes(limiter, RateLimit(KEY, 600), times=5) == 1


async def test_a_cap_of_nothing_refuses_and_forgets_nothing() -> None:
    clock = FakeClock(0)
    limiter = a_limiter(clock)
    await passes(limiter, RateLimit(KEY, 4), times=3)

    assert await passes(limiter, RateLimit(KEY, 0)) == 0

    assert await passes(limiter, RateLimit(KEY, 4), times=3) == 1


async def test_a_clock_that_jumps_back_locks_nobody_out() -> None:
    clock = FakeClock()
    limiter = a_limiter(clock)
    await passes(limiter, RateLimit(KEY, 4), times=4)
    clock.advance(-3600)

    assert await passes(limiter, RateLimit(KEY, 4)) == 0
    clock.advance(WINDOW_S)
    assert await passes(limiter, RateLimit(KEY, 4), times=9) == 4


async def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    limiter = a_limiter(FakeClock(0), entries_max=3)
    used = [RateLimit(Account(Scope.KEY, str(number)), 1) for number in range(4)]
    for limit in used[:3]:
        await limiter.take([limit])

    assert await passes(limiter, used[0]) == 0  # refused, and yet used again
    await limiter.take([used[3]])

    assert len(limiter) == 3
    left = [one.remaining_count for one in await limiter.look(used)]
    assert left == [0, 1, 0, 0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=60))
async def test_forgetting_who_is_at_rest_changes_nothing(steps: list[tuple[str, int]]) -> None:
    clock = FakeClock(0)
    ample, scarce = a_limiter(clock), a_limiter(clock, entries_max=1)
    previous = ""
    for name, pause_s in steps:
        # Whoever is about to be forgotten has rested for a minute.
        clock.advance(pause_s if name == previous else pause_s + WINDOW_S)
        previous = name
        limit = RateLimit(Account(Scope.KEY, name), 3)

        assert await scarce.take([limit]) == await ample.take([limit])
        assert len(scarce) == 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20_000),
            st.sets(st.sampled_from([(ORGANIZATION, 7), (PROJECT, 5), (KEY, 3)]), max_size=3),
        ),
        max_size=60,
    )
)
async def test_several_limits_decide_as_buckets_of_tokens_do(
    steps: list[tuple[int, set[tuple[Account, int]]]],
) -> None:
    clock = FakeClock(0)
    limiter = a_limiter(clock)
    buckets = {ORGANIZATION: TokenBucket(7), PROJECT: TokenBucket(5), KEY: TokenBucket(3)}
    for pause_ms, drawn in steps:
        clock.now += pause_ms
        now_ns = clock.now * 1_000_000
        limits = [RateLimit(account, cap) for account, cap in drawn]
        asked = [buckets[limit.account] for limit in limits]
        for bucket in asked:
            bucket.refill(now_ns)
        expected = all(bucket.tokens >= 1 for bucket in asked)
        if expected:
            for bucket in asked:
                assert bucket.take(now_ns)

        decision = await limiter.take(limits)

        assert decision.is_allowed == expected
        left = [standing.remaining_count for standing in decision.standings]
        assert left == [bucket.tokens // 1 for bucket in asked]


def test_rates_are_found_among_other_limits() -> None:
    limits = [
        Limit(ORGANIZATION, Metric.MONEY, Window.DAY, 5),
        Limit(PROJECT, Metric.RPM, None, 60),
        Limit(PROJECT, Metric.TASKS, None, 3),
    ]

    assert rates_of(limits) == (RateLimit(PROJECT, 60),)


def lines_of(decision: RateDecision) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in rate_headers(decision)}


async def test_headers_tell_the_tightest_limit() -> None:
    limiter = a_limiter(FakeClock(0))
    limits = [RateLimit(ORGANIZATION, 600), RateLimit(KEY, 60), RateLimit(PROJECT, 100)]
    for _ in range(48):
        decision = await limiter.take(limits)

    assert lines_of(decision) == {
        "ratelimit-policy": '"rpm";q=60;w=60',
        "ratelimit": '"rpm";r=12;t=48',
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "12",
        "x-ratelimit-reset-requests": "48s",
    }


async def test_headers_of_a_refusal_tell_who_refuses_for_longest() -> None:
    limiter = a_limiter(FakeClock(0))
    for _ in range(3):
        await limiter.take([RateLimit(KEY, 3)])
    await limiter.take([RateLimit(PROJECT, 1)])

    decision = await limiter.take([RateLimit(KEY, 3), RateLimit(PROJECT, 1)])

    assert not decision.is_allowed
    assert lines_of(decision)["ratelimit"] == '"rpm";r=0;t=60'
    assert lines_of(decision)["ratelimit-policy"] == '"rpm";q=1;w=60'


async def test_a_rate_of_nothing_has_headers_too() -> None:
    decision = await a_limiter(FakeClock(0)).take([RateLimit(KEY, 0)])

    assert lines_of(decision)["ratelimit"] == '"rpm";r=0;t=60'
    assert lines_of(decision)["x-ratelimit-limit-requests"] == "0"


def test_without_a_rate_there_are_no_headers() -> None:
    assert rate_headers(RateDecision(is_allowed=True, standings=())) == ()


def test_of_equal_limits_the_one_that_is_whole_later_is_tightest() -> None:
    soon, late = (RateStanding(RateLimit(KEY, 60), 5, 0, reset_s) for reset_s in (5, 50))

    assert RateDecision(is_allowed=True, standings=(soon, late)).tightest == late
