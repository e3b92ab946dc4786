"""Limits: what an organization, a project or a key may use, and in which window.

A limit exists only once it is set. Budgets (money, videos, seconds, tokens) count what is held and
spent by the tasks admitted in a window; `tasks` counts those in progress now; `rpm` is a rate of
submits. A window begins at midnight, or on the first of a month, in `finance.timezone`.

Windows tile time: each begins where the one before it ends. So a date begins once, at the first
moment at which the zone's clocks show it or a later one. That is the end of the gap where midnight
is skipped, and the first midnight where clocks go back over it and show the day before once more.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from gateway.domain.money import format_amount, parse_amount

ORGANIZATION_ID: Final = ""
"""The deployment is the one organization; it needs no name."""


class Scope(StrEnum):
    """Whom a limit binds, in the order in which limits are checked and rows are locked."""

    ORGANIZATION = "org"
    PROJECT = "project"
    KEY = "key"

    @property
    def word(self) -> str:
        """What messages call it."""
        return "organization" if self is Scope.ORGANIZATION else self.value


class Metric(StrEnum):
    MONEY = "money"  # micro-units of the deployment's currency
    VIDEOS = "videos"
    SECONDS = "seconds"  # of output video
    TOKENS = "tokens"
    TASKS = "tasks"  # in progress
    RPM = "rpm"  # submits per minute


BUDGETS: Final = (Metric.MONEY, Metric.VIDEOS, Metric.SECONDS, Metric.TOKENS)


class Window(StrEnum):
    DAY = "day"
    MONTH = "month"
    EVER = "ever"


@dataclass(frozen=True, slots=True)
class Account:
    """What limits and balances belong to."""

    scope: Scope
    id: str


def accounts_of(project_id: str, key_id: str) -> tuple[Account, Account, Account]:
    """Return the accounts that bear a task, in the order in which they are always locked."""
    return (
        Account(Scope.ORGANIZATION, ORGANIZATION_ID),
        Account(Scope.PROJECT, project_id),
        Account(Scope.KEY, key_id),
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `cap` of `metric` in each `window`; None for `tasks` and `rpm`, which have none."""

    account: Account
    metric: Metric
    window: Window | None
    cap: int


@dataclass(frozen=True, slots=True)
class LimitSetting:
    """What was set for an account: a cap, or None, which lifts the default that it has else."""

    account: Account
    metric: Metric
    window: Window | None
    cap: int | None


COUNT_CAP_MAX: Final = 10**15
"""The largest cap of a budget that is no money: every JSON reader takes it for what it is."""
RATE_CAP_MAX: Final = 1_000_000
"""The largest cap of `tasks` and `rpm`."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,16}\Z")


def check_window(metric: Metric, window: Window | None) -> None:
    """Raises ValueError unless a budget has a window, and what is no budget has none."""
    if metric in BUDGETS and window is None:
        raise ValueError(f"{metric} needs a window: day, month or ever")
    if metric not in BUDGETS and window is not None:
        raise ValueError(f"{metric} takes no window")


def parse_cap(metric: Metric, text: str) -> int:
    """Return the cap that `text` gives: micro-units for money, else a whole number.

    Raises ValueError, which says what is allowed.
    """
    if metric is Metric.MONEY:
        return parse_amount(text)
    cap_max = COUNT_CAP_MAX if metric in BUDGETS else RATE_CAP_MAX
    if _WHOLE_NUMBER.match(text) is None or int(text) > cap_max:
        raise ValueError(f"must be a whole number from 0 to {cap_max}")
    return int(text)


def format_cap(metric: Metric, cap: int) -> str:
    """Return the text that `parse_cap` reads as `cap`."""
    return format_amount(cap) if metric is Metric.MONEY else str(cap)


def window_start_ms(window: Window, at_ms: int, zone: tzinfo) -> int:
    """Return when the window that holds `at_ms` began; 0 for `ever`."""
    if window is Window.EVER:
        return 0
    return start_of_date_ms(date_of(window, at_ms, zone), zone)


def window_end_ms(window: Window, at_ms: int, zone: tzinfo) -> int | None:
    """Return when the next window begins; None for `ever`."""
    if window is Window.EVER:
        return None
    return start_of_date_ms(_following(window, date_of(window, at_ms, zone)), zone)


def date_of(window: Window, at_ms: int, zone: tzinfo) -> date:
    """Return the first date of the day or month (not `ever`) that `at_ms` belongs to."""
    found = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).date()
    if window is Window.MONTH:
        found = found.replace(day=1)
    # Clocks that go back over midnight show a date again whose successor has begun already.
    while start_of_date_ms(following := _following(window, found), zone) <= at_ms:
        found = following
    return found


def _following(window: Window, first: date) -> date:
    if window is Window.DAY:
        return first + timedelta(days=1)
    return (first + timedelta(days=31)).replace(day=1)


def start_of_date_ms(day: date, zone: tzinfo) -> int:
    """Return the first moment of a date."""
    # fold=0 is the first of two midnights, and the end of the gap that swallowed the only one.
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone, fold=0)
    return (midnight.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)


def format_time(at_ms: int) -> str:
    """Return the moment in UTC, to the second: `2026-12-01T00:00:00Z`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
