from gateway.steadiness import Steadiness, span_of
from tests.support.clock import FakeClock

NOW_MS = 1_795_330_862_000
DAY_MS = 86_400_000


def test_a_clock_that_nobody_sets_is_steady_since_the_start() -> None:
    clock = FakeClock()
    steadiness = Steadiness(clock)

    clock.advance(3600)

    assert steadiness.steady_s() == 3600
    assert steadiness.doubted_ms is None


def test_setting_it_begins_anew_and_so_does_setting_it_right_again() -> None:
    clock = FakeClock()
    steadiness = Steadiness(clock)
    clock.advance(100)
    clock.set_date(86_400)
    assert steadiness.steady_s() == 0
    clock.advance(100)
    assert steadiness.steady_s() == 100

    clock.set_date(-86_400)

    assert steadiness.steady_s() == 0


def test_a_clock_that_is_adjusted_little_by_little_is_steady() -> None:
    clock = FakeClock()
    steadiness = Steadiness(clock)

    for _ in range(100):
        clock.advance(60)
        clock.set_date(1)
        steadiness.steady_s()

    assert steadiness.steady_s() == 6000
    assert steadiness.doubted_ms is None


def test_the_dates_that_it_was_set_past_are_doubted_and_those_since_it_was_asked_last() -> None:
    clock = FakeClock(NOW_MS)
    steadiness = Steadiness(clock)
    clock.advance(30)
    clock.set_date(86_400)

    steadiness.steady_s()

    assert steadiness.doubted_ms is not None
    first_ms, last_ms = steadiness.doubted_ms
    assert NOW_MS - 30_000 <= first_ms <= NOW_MS
    assert last_ms == clock.now_ms() == NOW_MS + 30_000 + DAY_MS


def test_setting_it_back_doubts_the_dates_that_come_once_more() -> None:
    clock = FakeClock(NOW_MS)
    steadiness = Steadiness(clock)
    clock.set_date(86_400)
    steadiness.steady_s()
    clock.set_date(-2 * 86_400)

    steadiness.steady_s()

    assert steadiness.doubted_ms is not None
    first_ms, last_ms = steadiness.doubted_ms
    assert first_ms <= NOW_MS - DAY_MS
    assert last_ms == NOW_MS + DAY_MS


def test_spans_are_joined_from_the_first_date_to_the_last() -> None:
    assert span_of(None, None) is None
    assert span_of((3, 4), None) == (3, 4)
    assert span_of((3, 4), (1, 2)) == (1, 4)
