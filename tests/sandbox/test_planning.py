"""The parts that plan: lanes, the clock, draws, rates."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.clock import SEGMENTS_MAX, SandboxClock
from gateway.sandbox.draws import Draws
from gateway.sandbox.errors import VendorError
from gateway.sandbox.lanes import Booking, Lane
from gateway.sandbox.limits import RateLimits

NEVER = 10**12

orders = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(0, 100)), max_size=40
)


def overlap(bookings: list[Booking]) -> int:
    """Return how many run at once at the worst time."""
    points = [each.start_at for each in bookings]
    return max(
        (sum(each.start_at <= at < each.end_at for each in bookings) for at in points), default=0
    )


@given(orders, st.integers(1, 4), st.lists(st.integers(0, 39), max_size=10), st.booleans())
def test_never_runs_more_than_the_slots_and_never_before_its_time(
    orders: list[tuple[int, int, int]],
    slots: int,
    cancels: list[int],
    restarts: bool,  # noqa: FBT001
) -> None:
    lane, now_at, plans = Lane(slots), 0, {}
    for ordinal, (wait, queue_ms, run_ms) in enumerate(orders):
        now_at += wait
        booking = Booking(ordinal, f"t{ordinal}", now_at + queue_ms, run_ms, NEVER, is_held=False)
        plans[booking.task_id] = lane.admit(booking)
        if ordinal in cancels:
            queued = [each for each in plans.values() if each.start_at > now_at]
            if queued:
                gone = plans.pop(queued[0].task_id)
                before = dict(plans)
                for changed in lane.cancel(gone.task_id, now_at):
                    assert before[changed.task_id].start_at > now_at
                    plans[changed.task_id] = changed
        if restarts:
            lane = Lane(slots)
            lane.restore(each for each in plans.values() if each.end_at > now_at)

    assert overlap(list(plans.values())) <= slots
    for ordinal, (_, queue_ms, run_ms) in enumerate(orders):
        plan = plans.get(f"t{ordinal}")
        if plan is not None:
            assert plan.end_at - plan.start_at == run_ms
            assert plan.start_at >= queue_ms
    assert lane.queued_count(now_at) == sum(each.start_at > now_at for each in plans.values())


def test_a_held_task_takes_no_slot() -> None:
    lane = Lane(1)
    first = lane.admit(Booking(1, "a", 10, 1000, NEVER, is_held=False))
    held = lane.admit(Booking(2, "b", 50, 1000, NEVER, is_held=True))
    second = lane.admit(Booking(3, "c", 20, 1000, NEVER, is_held=False))

    assert (first.start_at, held.start_at, second.start_at) == (10, 50, 1010)


def test_without_slots_nothing_waits() -> None:
    lane = Lane(None)
    plans = [lane.admit(Booking(n, f"{n}", 10, 1000, NEVER, is_held=False)) for n in range(50)]

    assert {each.start_at for each in plans} == {10}


class Time:
    """A wall clock and a monotonic one that a test moves."""

    def __init__(self) -> None:
        self.wall_ms = 1_700_000_000_000
        self.passed_ms = 0

    def clock(self, scale: float, saved: str = "") -> SandboxClock:
        self.wall_ms += self.passed_ms
        self.passed_ms = 0
        return SandboxClock(
            scale,
            saved,
            wall_ns=lambda: self.wall_ms * 1_000_000,
            monotonic_ns=lambda: self.passed_ms * 1_000_000,
        )


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 10**7)),
        st.tuples(st.just("scale"), st.integers(1, 1000)),
        st.tuples(st.just("advance"), st.integers(0, 10**5)),
        st.tuples(st.just("restart"), st.integers(-(10**6), 10**6)),
    ),
    max_size=30,
)


@given(steps)
def test_time_never_goes_back_and_dates_of_the_past_stay(steps: list[tuple[str, int]]) -> None:
    time = Time()
    clock = time.clock(20.0)
    seen: list[tuple[int, int]] = [(clock.now_at(), clock.now_ms())]
    for step, amount in steps:
        if step == "pass":
            time.passed_ms += amount
        elif step == "scale":
            clock.set_scale(amount)
        elif step == "advance":
            clock.advance(amount)
        else:
            saved = clock.saved()
            time.wall_ms += amount
            clock = time.clock(20.0, saved)
        at, now_ms = clock.now_at(), clock.now_ms()
        assert at >= seen[-1][0] or step == "restart"
        assert now_ms >= seen[-1][1] or step == "restart"
        seen.append((at, now_ms))

    ordered = [clock.date_of(at) for at in sorted(at for at, _ in seen)]
    assert ordered == sorted(ordered)
    if "restart" not in {step for step, _ in steps}:
        for at, now_ms in seen:
            assert clock.at_of(now_ms) <= clock.now_at()
            assert clock.date_of(at) <= now_ms


def test_an_advance_moves_dates_and_tasks_alike() -> None:
    time = Time()
    clock = time.clock(20.0)
    at, now_ms = clock.now_at(), clock.now_ms()
    clock.advance(3600)

    assert clock.now_ms() - now_ms == 3_600_000
    assert clock.now_at() - at == 3_600_000
    assert clock.date_of(at + 1_800_000) == now_ms + 1_800_000
    time.passed_ms += 1000
    assert clock.now_at() - at == 3_620_000


def test_the_history_of_the_clock_is_bounded() -> None:
    clock = Time().clock(1.0)
    for scale in range(1, SEGMENTS_MAX * 2):
        clock.set_scale(scale)

    assert clock.saved().count("[") == SEGMENTS_MAX + 1


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_id_suffixes_do_not_repeat(seed: int, start: int) -> None:
    suffixes = {Draws(seed, start + index).id_suffix() for index in range(300)}

    # A multiplier that shares a factor with 36 would come back to these too early.
    early = {Draws(seed, start + 36**5 // factor).id_suffix() for factor in (2, 3, 6, 36)}

    assert len(suffixes) == 300
    assert Draws(seed, start).id_suffix() not in early
    assert all(len(each) == 5 for each in suffixes)


def test_a_rate_is_exact_in_any_window() -> None:
    now_s = [0.0]
    rates = RateLimits(lambda: now_s[0])
    granted = []
    for step in range(100):
        now_s[0] = step * 0.1
        with suppress(VendorError):
            rates.take(("a", "get"), 3, 1.0, "AccountRateLimitExceeded")
            granted.append(now_s[0])
    for moment in granted:
        assert sum(moment <= each < moment + 0.999 for each in granted) <= 3

    assert len(granted) >= 27
