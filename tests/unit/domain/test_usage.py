"""The days of reports: they tile time, whatever a zone's clocks do."""

from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.limits import Window, window_start_ms
from gateway.domain.usage import DAYS_MAX, DayFinder, TooManyDaysError, days_between, month_of

ZONES = [
    "UTC",
    "Asia/Singapore",
    "Asia/Shanghai",
    "America/New_York",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
]
HOUR_MS = 3_600_000


def at(text: str, zone: tzinfo = UTC) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=zone)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def hours_of(zone_name: str, first: str, last: str) -> dict[str, float]:
    """Return how long each day is, from the beginning of `first` to that of `last`."""
    zone = ZoneInfo(zone_name)
    spans = days_between(at(first, zone), at(last, zone), zone)
    return {str(span.day): (span.end_ms - span.start_ms) / HOUR_MS for span in spans}


def test_a_day_of_the_zone_is_not_one_of_utc() -> None:
    zone = ZoneInfo("Asia/Singapore")

    (first, second) = days_between(at("2026-11-30T15:00"), at("2026-11-30T17:00"), zone)

    assert (first.day, second.day) == (date(2026, 11, 30), date(2026, 12, 1))
    assert first.end_ms == second.start_ms == at("2026-11-30T16:00")


def test_where_clocks_change_days_are_longer_and_shorter() -> None:
    assert hours_of("America/New_York", "2026-03-07", "2026-03-10") == {
        "2026-03-07": 24,
        "2026-03-08": 23,
        "2026-03-09": 24,
    }
    assert hours_of("America/New_York", "2026-10-31", "2026-11-03") == {
        "2026-10-31": 24,
        "2026-11-01": 25,
        "2026-11-02": 24,
    }


def test_a_date_that_a_country_skipped_has_no_span() -> None:
    assert hours_of("Pacific/Apia", "2011-12-28", "2012-01-01") == {
        "2011-12-28": 24,
        "2011-12-29": 24,
        "2011-12-31": 24,
    }


def test_no_time_has_no_days() -> None:
    assert days_between(at("2026-11-01"), at("2026-11-01"), UTC) == []


def test_a_report_by_day_is_bounded() -> None:
    day_ms = 24 * HOUR_MS
    assert len(days_between(0, DAYS_MAX * day_ms, UTC)) == DAYS_MAX
    with pytest.raises(TooManyDaysError):
        days_between(0, DAYS_MAX * day_ms + 1, UTC)


@given(
    zone_name=st.sampled_from(ZONES),
    from_ms=st.integers(at("1995-01-01"), at("2030-01-01")),
    length_ms=st.integers(1, 60 * 24 * HOUR_MS),
)
def test_days_tile_time_in_order_and_begin_where_budgets_do(
    zone_name: str, from_ms: int, length_ms: int
) -> None:
    zone, to_ms = ZoneInfo(zone_name), from_ms + length_ms

    spans = days_between(from_ms, to_ms, zone)

    assert (spans[0].start_ms, spans[-1].end_ms) == (from_ms, to_ms)
    for before, after in pairwise(spans):
        assert before.end_ms == after.start_ms
        assert before.day is not None
        assert after.day is not None
        assert before.day < after.day
    for span in spans[1:]:
        assert window_start_ms(Window.DAY, span.end_ms - 1, zone) == span.start_ms
    finder = DayFinder(zone)
    for span in spans:
        for at_ms in (span.start_ms, span.end_ms - 1):
            assert finder.day_of(at_ms) == DayFinder(zone).day_of(at_ms) == span.day


@given(zone_name=st.sampled_from(ZONES), at_ms=st.integers(at("1995-01-01"), at("2030-01-01")))
def test_a_month_is_made_of_whole_days(zone_name: str, at_ms: int) -> None:
    zone = ZoneInfo(zone_name)

    from_ms, to_ms = month_of(at_ms, zone)
    spans = days_between(from_ms, to_ms, zone)

    assert from_ms <= at_ms < to_ms
    assert {span.day.month for span in spans if span.day is not None} == {spans[0].day.month}  # type: ignore[union-attr]
    assert 27 <= len(spans) <= 31
