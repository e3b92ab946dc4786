"""Usage reports: the ledger, as finance reads it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.domain.usage import (
    Group,
    Span,
    TaskSink,
    TooManyDaysError,
    UsageQuery,
    UsageRow,
    days_between,
)
from gateway.errors import InvalidRequest
from gateway.ports import Runtime
from gateway.services.admitting import zone_of
from gateway.storage import usage
from gateway.storage.usage import Found


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Sums of the ledger, equal to it to the micro-unit."""

    currency: str
    """Of the charge: the deployment's, if there was none."""
    rows: Sequence[UsageRow]


async def report(runtime: Runtime, query: UsageQuery, groups: Collection[Group]) -> UsageReport:
    """Return the sums, sorted by the groups in their order.

    Raises: InvalidRequest if there are charges in several currencies and none was chosen, or too
    many days.
    """
    zone = zone_of(runtime.config)

    def cut(from_ms: int, to_ms: int) -> Sequence[Span]:
        if Group.DAY in groups:
            return days_between(from_ms, to_ms, zone)
        return (Span(None, from_ms, to_ms),)

    try:
        found = await runtime.db.read(usage.sum_usage, query, cut, groups)
    except TooManyDaysError as error:
        raise InvalidRequest(str(error), param="from") from error
    return UsageReport(_currency_of(runtime, query, found), found.rows)


async def report_tasks(runtime: Runtime, query: UsageQuery, sink: TaskSink) -> str:
    """Give `sink` one row for each entry, in the order of their dates; return the currency.

    However many there are, a page of them is in memory. Raises: InvalidRequest, as `report` does.
    """
    found = await runtime.db.read(usage.list_usage, query, sink)
    return _currency_of(runtime, query, found)


async def find_other_currencies(runtime: Runtime, currency: str) -> Sequence[str]:
    """Return which currencies the ledger has, if it has some and `currency` is none of them."""
    known = await runtime.db.read(usage.list_currencies)
    return [] if currency in known else known


def _currency_of(runtime: Runtime, query: UsageQuery, found: Found) -> str:
    if len(found.currencies) > 1:
        names = ", ".join(found.currencies)
        raise InvalidRequest(
            f"There are charges in several currencies, {names}, which can't be added up: choose "
            "one by --currency.",
            param="currency",
        )
    return next(iter(found.currencies), query.currency or runtime.prices.currency)
