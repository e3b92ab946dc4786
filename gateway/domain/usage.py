"""Usage reports: which of the ledger's entries they show, by which date, and how they are summed.

A report is in one currency of charge. Costs are in the currencies of the upstreams' price books,
and are never added across them: each row has one cost currency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, tzinfo
from enum import StrEnum
from typing import Final, Protocol

from gateway.domain.limits import Window, date_of, window_end_ms, window_start_ms
from gateway.domain.tasks import TaskState

DAYS_MAX: Final = 3_660
"""Of one report by day."""


class Basis(StrEnum):
    """Which date counts."""

    SETTLED = "settled"  # when the ledger books it, as the vendor bills
    SUBMITTED = "submitted"  # when the task was admitted, as budgets count


class UsageKind(StrEnum):
    """What a row tells of. Sums over all kinds are the ledger's."""

    SETTLED = "settled"
    LOSS = "loss"  # the upstream bills for it, and no project is charged
    HELD = "held"  # not resolved yet: shown by submission alone


class Group(StrEnum):
    """What a report can be broken down by, in the order in which it is sorted."""

    PROJECT = "project"
    KEY = "key"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which entries: dated from `from_ms` on, before `to_ms`."""

    basis: Basis
    from_ms: int
    to_ms: int
    currency: str | None = None
    """That of the charge; None is the only one there is."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a report's time: a day of it, or all."""

    day: date | None
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of one group. What is not grouped by is None."""

    kind: UsageKind
    project: str | None
    key: str | None
    model: str | None
    day: date | None
    tasks: int
    estimated: int
    """How many of the tasks were settled on their quote, for want of reported tokens."""
    videos: int
    seconds: int
    tokens: int
    charge_micros: int
    held_micros: int
    cost_currency: str
    cost_micros: int


@dataclass(frozen=True, slots=True)
class TaskUsage:
    """One task's entry, with all that leads to the upstream's bill."""

    kind: UsageKind
    project: str
    key: str
    model: str
    task_id: str
    upstream: str
    upstream_task_id: str | None
    upstream_request_id: str | None
    state: TaskState
    submitted_at_ms: int
    settled_at_ms: int | None
    """When it was booked; None while it is held."""
    is_estimated: bool
    videos: int
    seconds: int
    tokens: int
    charge_micros: int
    held_micros: int
    cost_currency: str
    cost_micros: int
    price_version: str
    evidence: str | None
    evidence_detail: str

    def dated_ms(self, basis: Basis) -> int:
        """Return the time by which a report counts it."""
        if basis is Basis.SUBMITTED or self.settled_at_ms is None:
            return self.submitted_at_ms
        return self.settled_at_ms


class TaskSink(Protocol):
    """Takes the rows of a report by task. What was begun may be begun again, from the start."""

    def begin(self) -> None: ...

    def add(self, rows: Sequence[TaskUsage]) -> None: ...


class TooManyDaysError(ValueError):
    """A report by day has a row for each: not for more than DAYS_MAX."""


def days_between(from_ms: int, to_ms: int, zone: tzinfo) -> Sequence[Span]:
    """Return the days of a time zone, the first and the last of them in part.

    Raises TooManyDaysError.
    """
    spans: list[Span] = []
    start_ms = from_ms
    while start_ms < to_ms:
        if len(spans) == DAYS_MAX:
            raise TooManyDaysError(f"A report by day is of {DAYS_MAX} days at most.")
        day_end_ms = window_end_ms(Window.DAY, start_ms, zone)
        assert day_end_ms is not None  # noqa: S101 - a day has an end
        end_ms = min(day_end_ms, to_ms)
        spans.append(Span(date_of(Window.DAY, start_ms, zone), start_ms, end_ms))
        start_ms = end_ms
    return spans


class DayFinder:
    """Tells on which day of a time zone a moment is; quickly where moments come in order."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._day, self._start_ms, self._end_ms = date.min, 0, 0

    def day_of(self, at_ms: int) -> date:
        if not self._start_ms <= at_ms < self._end_ms:
            end_ms = window_end_ms(Window.DAY, at_ms, self._zone)
            assert end_ms is not None  # noqa: S101 - a day has an end
            self._day = date_of(Window.DAY, at_ms, self._zone)
            self._start_ms = window_start_ms(Window.DAY, at_ms, self._zone)
            self._end_ms = end_ms
        return self._day


def month_of(at_ms: int, zone: tzinfo) -> tuple[int, int]:
    """Return when the month that holds `at_ms` begins and ends."""
    end_ms = window_end_ms(Window.MONTH, at_ms, zone)
    assert end_ms is not None  # noqa: S101 - a month has an end
    return window_start_ms(Window.MONTH, at_ms, zone), end_ms
