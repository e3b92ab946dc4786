from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.limits import (
    BUDGETS,
    COUNT_CAP_MAX,
    RATE_CAP_MAX,
    Metric,
    Scope,
    Window,
    accounts_of,
    check_window,
    format_cap,
    format_time,
    parse_cap,
    window_end_ms,
    window_start_ms,
)

HOUR_MS: Final = 3_600_000
CALENDAR: Final = (Window.DAY, Window.MONTH)
ZONES: Final = [
    "UTC",
    "Asia/Shanghai",
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Casablanca",  # summer time that is interrupted
    "America/Sao_Paulo",  # midnight skipped and shown twice
    "America/Asuncion",  # midnight of the first of a month skipped
    "America/St_Johns",  # clocks go back at 00:01
    "America/Havana",  # clocks go back from 01:00 to 00:00
    "Asia/Beirut",
    "Africa/Cairo",
    "Pacific/Apia",  # a date left out
    "Pacific/Kwajalein",  # another
    "America/New_York",
    "Europe/Berlin",
    "Atlantic/Azores",
]
TURNS: Final = [
    ("America/Sao_Paulo", "2018-11-04T03:00"),
    ("America/Sao_Paulo", "2018-02-18T02:00"),
    ("America/Asuncion", "2017-10-01T04:00"),
    ("America/St_Johns", "2010-11-07T02:31"),
    ("America/St_Johns", "2009-11-01T02:31"),
    ("America/St_Johns", "2010-03-14T03:31"),
    ("America/Havana", "2023-11-05T05:00"),
    ("Asia/Beirut", "2022-03-26T22:00"),
    ("Asia/Beirut", "2022-10-29T21:00"),
    ("Africa/Cairo", "2024-04-25T22:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Pacific/Kwajalein", "1993-08-21T12:00"),
    ("Australia/Lord_Howe", "2024-04-06T15:00"),
    ("Atlantic/Azores", "2024-10-27T01:00"),
]
"""Moments, in UTC, at which a zone's clocks are put forward or back."""

_seconds = st.integers(
    int(datetime(1973, 1, 1, tzinfo=UTC).timestamp()),
    int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()),
)
_milliseconds = st.builds(lambda second, rest: second * 1000 + rest, _seconds, st.integers(0, 999))


def at(text: str, zone: tzinfo = UTC) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1000


def end_ms(window: Window, at_ms: int, zone: tzinfo) -> int:
    found = window_end_ms(window, at_ms, zone)
    assert found is not None
    return found


def hours_of(window: Window, text: str, name: str) -> float:
    """How long the window lasts that holds a local time."""
    zone = ZoneInfo(name)
    at_ms = at(text, zone)
    return (end_ms(window, at_ms, zone) - window_start_ms(window, at_ms, zone)) / HOUR_MS


def walked_start_ms(window: Window, at_ms: int, zone: tzinfo) -> int:
    """Return the start of a window by looking at the clock of every minute of the days before."""
    days = 3 if window is Window.DAY else 34
    first_ms = (at_ms - days * 24 * HOUR_MS) // 60_000 * 60_000
    latest, began_ms = date.min, first_ms
    for minute_ms in range(first_ms, at_ms + 1, 60_000):
        shown = datetime.fromtimestamp(minute_ms // 1000, zone).date()
        if window is Window.MONTH:
            shown = shown.replace(day=1)
        if shown > latest:
            latest, began_ms = shown, minute_ms
    return began_ms


@pytest.mark.parametrize(
    ("name", "text", "hours"),
    [
        ("Europe/Berlin", "2024-03-31T12:00", 23),
        ("Europe/Berlin", "2024-10-27T12:00", 25),
        ("Europe/Berlin", "2024-10-27T02:30", 25),
        ("Australia/Lord_Howe", "2024-04-07T12:00", 24.5),
        ("Australia/Lord_Howe", "2024-10-06T12:00", 23.5),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),
        ("America/Sao_Paulo", "2018-02-17T12:00", 25),
        ("Asia/Beirut", "2022-03-27T12:00", 23),
        ("Asia/Beirut", "2022-10-29T12:00", 25),
        ("Africa/Cairo", "2024-04-26T12:00", 23),
        ("America/Havana", "2023-11-05T12:00", 25),
        ("Pacific/Apia", "2011-12-29T12:00", 24),
        ("Pacific/Apia", "2011-12-31T12:00", 24),
        ("Asia/Kathmandu", "2024-02-29T12:00", 24),
    ],
)
def test_a_day_lasts_from_midnight_to_midnight(name: str, text: str, hours: float) -> None:
    assert hours_of(Window.DAY, text, name) == hours


@pytest.mark.parametrize(
    ("name", "text", "hours"),
    [
        ("UTC", "2024-02-29T23:59:59", 29 * 24),
        ("UTC", "2023-02-01T00:00", 28 * 24),
        ("UTC", "2000-02-10T00:00", 29 * 24),
        ("UTC", "2100-02-10T00:00", 28 * 24),
        ("UTC", "2024-12-31T23:59:59", 31 * 24),
        ("Asia/Shanghai", "2024-04-30T23:59:59", 30 * 24),
        ("Europe/Berlin", "2024-03-01T00:00", 31 * 24 - 1),
        ("Europe/Berlin", "2024-10-31T23:59:59", 31 * 24 + 1),
        ("America/Asuncion", "2017-10-15T00:00", 31 * 24 - 1),
        ("Pacific/Apia", "2011-12-15T00:00", 30 * 24),
    ],
)
def test_a_month_lasts_from_its_first_to_the_next_ones(name: str, text: str, hours: float) -> None:
    assert hours_of(Window.MONTH, text, name) == hours


def test_a_window_holds_its_first_millisecond_and_not_its_last() -> None:
    zone = ZoneInfo("Asia/Shanghai")
    midnight_ms = at("2026-11-30T16:00")

    assert window_start_ms(Window.MONTH, midnight_ms, zone) == midnight_ms
    assert end_ms(Window.MONTH, midnight_ms - 1, zone) == midnight_ms
    assert window_start_ms(Window.MONTH, midnight_ms - 1, zone) == at("2026-10-31T16:00")
    assert window_start_ms(Window.DAY, midnight_ms - 1, zone) == at("2026-11-29T16:00")


def test_a_day_whose_midnight_is_skipped_begins_when_the_gap_ends() -> None:
    zone = ZoneInfo("America/Sao_Paulo")

    start_ms = window_start_ms(Window.DAY, at("2018-11-04T12:00", zone), zone)

    assert datetime.fromtimestamp(start_ms / 1000, zone).hour == 1
    assert start_ms == at("2018-11-04T03:00")


def test_a_date_that_a_zone_leaves_out_has_no_window() -> None:
    zone = ZoneInfo("Pacific/Apia")

    assert end_ms(Window.DAY, at("2011-12-29T12:00", zone), zone) == at("2011-12-31T00:00", zone)


def test_a_day_that_has_begun_does_not_end_when_clocks_go_back_over_its_midnight() -> None:
    zone = ZoneInfo("America/St_Johns")
    first_midnight_ms = at("2010-11-07T02:30")
    shows_the_day_before_ms = at("2010-11-07T02:45")

    assert datetime.fromtimestamp(shows_the_day_before_ms / 1000, zone).day == 6
    assert window_start_ms(Window.DAY, shows_the_day_before_ms, zone) == first_midnight_ms
    assert end_ms(Window.DAY, at("2010-11-06T12:00"), zone) == first_midnight_ms
    assert end_ms(Window.DAY, shows_the_day_before_ms, zone) == at("2010-11-08T03:30")


def test_ever_has_no_end() -> None:
    assert window_start_ms(Window.EVER, at("2026-11-30T16:00"), UTC) == 0
    assert window_end_ms(Window.EVER, at("2026-11-30T16:00"), UTC) is None


@pytest.mark.parametrize("window", CALENDAR)
@pytest.mark.parametrize("text", ["1970-01-01T00:00", "2038-01-19T03:14:08", "9990-12-31T23:59:59"])
@pytest.mark.parametrize("name", ["UTC", "Asia/Shanghai", "America/New_York"])
def test_far_dates_have_windows(window: Window, text: str, name: str) -> None:
    zone = ZoneInfo(name)
    at_ms = at(text)

    assert window_start_ms(window, at_ms, zone) <= at_ms < end_ms(window, at_ms, zone)


def test_a_zone_may_be_a_plain_offset() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))

    assert window_start_ms(Window.DAY, at("2026-11-30T18:29"), zone) == at("2026-11-29T18:30")


def check_windows_tile(window: Window, at_ms: int, zone: tzinfo) -> None:
    start_ms = window_start_ms(window, at_ms, zone)
    following_ms = end_ms(window, at_ms, zone)

    assert start_ms <= at_ms < following_ms
    assert window_start_ms(window, start_ms, zone) == start_ms
    assert window_start_ms(window, following_ms - 1, zone) == start_ms
    assert window_start_ms(window, following_ms, zone) == following_ms
    assert end_ms(window, start_ms, zone) == following_ms
    assert end_ms(window, start_ms - 1, zone) == start_ms


@given(st.sampled_from(CALENDAR), _milliseconds, st.sampled_from(ZONES))
def test_windows_tile_time(window: Window, at_ms: int, name: str) -> None:
    check_windows_tile(window, at_ms, ZoneInfo(name))


@pytest.mark.parametrize("window", CALENDAR)
@pytest.mark.parametrize(("name", "turn"), TURNS)
def test_windows_tile_the_hours_around_a_change_of_clocks(
    name: str, turn: str, window: Window
) -> None:
    zone = ZoneInfo(name)
    turn_ms = at(turn)
    before, after = (
        datetime.fromtimestamp((turn_ms + step) / 1000, zone).utcoffset() for step in (-1, 0)
    )
    assert before != after, "the zone's clocks do not change here"

    for minutes in range(-26 * 60, 26 * 60, 7):
        check_windows_tile(window, turn_ms + minutes * 60_000, zone)
    for step in (-1, 0, 1):
        check_windows_tile(window, turn_ms + step, zone)


@given(
    st.one_of(
        st.tuples(_milliseconds, st.sampled_from(ZONES)),
        st.tuples(st.sampled_from(TURNS), st.integers(-26 * 60, 26 * 60)).map(
            lambda drawn: (at(drawn[0][1]) + drawn[1] * 60_000, drawn[0][0])
        ),
    )
)
def test_a_day_begins_when_the_clock_first_shows_it(moment: tuple[int, str]) -> None:
    at_ms, name = moment
    zone = ZoneInfo(name)

    assert window_start_ms(Window.DAY, at_ms, zone) == walked_start_ms(Window.DAY, at_ms, zone)


@pytest.mark.parametrize(("name", "turn"), [*TURNS, ("UTC", None)])
def test_a_month_begins_when_the_clock_first_shows_it(name: str, turn: str | None) -> None:
    zone = ZoneInfo(name)
    at_ms = at(turn or "2024-02-29T23:59") + 5 * HOUR_MS

    assert window_start_ms(Window.MONTH, at_ms, zone) == walked_start_ms(Window.MONTH, at_ms, zone)


@given(
    _seconds,
    st.integers(0, 40 * 24 * 3600),
    st.sampled_from(CALENDAR),
    st.sampled_from(ZONES),
)
def test_a_later_moment_is_never_in_an_earlier_window(
    second: int, later_s: int, window: Window, name: str
) -> None:
    zone = ZoneInfo(name)

    earlier_ms = window_start_ms(window, second * 1000, zone)
    assert earlier_ms <= window_start_ms(window, (second + later_s) * 1000, zone)


@given(_milliseconds, st.sampled_from(ZONES))
def test_a_month_is_made_of_whole_days(at_ms: int, name: str) -> None:
    zone = ZoneInfo(name)
    month_ms = window_start_ms(Window.MONTH, at_ms, zone)
    month_end_ms = end_ms(Window.MONTH, at_ms, zone)

    day_ms, count = month_ms, 0
    while day_ms < month_end_ms:
        assert window_start_ms(Window.DAY, day_ms, zone) == day_ms
        day_ms, count = end_ms(Window.DAY, day_ms, zone), count + 1

    assert day_ms == month_end_ms
    assert 27 <= count <= 31


def test_messages_call_each_scope_by_a_word() -> None:
    assert [scope.word for scope in Scope] == ["organization", "project", "key"]


def test_a_reset_is_told_in_utc_to_the_second() -> None:
    assert format_time(at("2026-11-30T16:00", ZoneInfo("UTC")) + 999) == "2026-11-30T16:00:00Z"


def test_accounts_are_locked_from_the_organization_down() -> None:
    assert [account.scope for account in accounts_of("p", "k")] == list(Scope)
    assert [account.id for account in accounts_of("p", "k")] == ["", "p", "k"]


@pytest.mark.parametrize(
    ("metric", "text", "cap"),
    [
        (Metric.MONEY, "0", 0),
        (Metric.MONEY, "12.5", 12_500_000),
        (Metric.MONEY, "0.000001", 1),
        (Metric.MONEY, "999999999999.999999", 999_999_999_999_999_999),
        (Metric.VIDEOS, "0", 0),
        (Metric.SECONDS, "007", 7),
        (Metric.TOKENS, str(COUNT_CAP_MAX), COUNT_CAP_MAX),
        (Metric.TASKS, "10", 10),
        (Metric.RPM, str(RATE_CAP_MAX), RATE_CAP_MAX),
    ],
)
def test_a_cap_is_read(metric: Metric, text: str, cap: int) -> None:
    assert parse_cap(metric, text) == cap


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", " 1", "1 ", "1\n", "1e3", "1_000", "1,5", "0x10", "٣", "½", "inf", "nan",
     "true", "None", "1.", ".5", "9" * 17, "9" * 5000],
)  # fmt: skip
def test_what_is_no_cap_is_refused(metric: Metric, text: str) -> None:
    with pytest.raises(ValueError, match="must be a"):
        parse_cap(metric, text)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric.MONEY, "0.0000001"),
        (Metric.MONEY, "1000000000000"),
        (Metric.VIDEOS, "1.0"),
        (Metric.TOKENS, str(COUNT_CAP_MAX + 1)),
        (Metric.TASKS, str(RATE_CAP_MAX + 1)),
        (Metric.RPM, "0.5"),
    ],
)
def test_a_cap_out_of_its_metrics_bounds_is_refused(metric: Metric, text: str) -> None:
    with pytest.raises(ValueError, match="must be a"):
        parse_cap(metric, text)


@given(st.sampled_from(list(Metric)), st.integers(0, RATE_CAP_MAX))
def test_a_cap_that_was_written_is_read_as_it_was(metric: Metric, cap: int) -> None:
    assert parse_cap(metric, format_cap(metric, cap)) == cap


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("window", [None, *Window])
def test_budgets_have_windows_and_the_rest_has_none(metric: Metric, window: Window | None) -> None:
    if (metric in BUDGETS) == (window is not None):
        check_window(metric, window)
        return
    with pytest.raises(ValueError, match="window"):
        check_window(metric, window)
