"""What the books of a store are kept in: one currency, one time zone, real money or a trial's.

Amounts of two currencies can't be added, a day of one zone is no day of another, and what a sandbox
charges is no money. So all three are settled by the first task that is held for.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from gateway.errors import ConfigurationError
from gateway.ports import Runtime
from gateway.storage import ledger, meta

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class BookTerms:
    currency: str
    timezone: str
    is_trial: bool


async def settle_terms(runtime: Runtime, *, is_trial: bool) -> None:
    """Keep the books as configured, from the first task on.

    Raises: ConfigurationError if they are kept otherwise, and hold something already.
    """
    terms = _configured(runtime, is_trial=is_trial)
    problem = _find_conflict(terms, await runtime.db.write(_settle, terms))
    if problem is not None:
        raise ConfigurationError(problem)


async def find_conflict(runtime: Runtime, *, is_trial: bool | None) -> str | None:
    """Say why no server would start on these books, and what to do; None if one would.

    Of a trial, nothing is said if `is_trial` is None.
    """
    kept = await runtime.db.read(_find_settled)
    if kept is None:
        return None
    asked = kept.is_trial if is_trial is None else is_trial
    return _find_conflict(_configured(runtime, is_trial=asked), kept)


async def follow_terms(runtime: Runtime) -> Runtime:
    """Return the runtime with the days and months of the books, whatever is configured here."""
    terms = await runtime.db.read(_find)
    if terms is None:
        return runtime
    finance = runtime.config.finance.model_copy(update={"timezone": terms.timezone})
    return replace(runtime, config=runtime.config.model_copy(update={"finance": finance}))


def _configured(runtime: Runtime, *, is_trial: bool) -> BookTerms:
    return BookTerms(runtime.prices.currency, runtime.config.finance.timezone, is_trial)


def _find_conflict(terms: BookTerms, kept: BookTerms) -> str | None:
    elsewhere = "or use another data_dir or database"
    if terms.is_trial != kept.is_trial:
        held = "a sandbox trial" if kept.is_trial else "real tasks"
        added = "real ones" if kept.is_trial else "those of a sandbox"
        return (
            f"The books of this store hold {held}, and {added} would be added to the same budgets "
            "and reports: use another data_dir or database."
        )
    if terms.currency != kept.currency:
        return (
            f"finance.currency is {terms.currency}, but the budgets and the ledger of this store "
            f"are in {kept.currency}: set finance.currency to {kept.currency}, with finance.rates "
            f"for upstreams that bill in another one, {elsewhere}."
        )
    if terms.timezone != kept.timezone:
        return (
            f"finance.timezone is {terms.timezone}, but the days and months of this store's "
            f"budgets are those of {kept.timezone}: set finance.timezone to {kept.timezone}, "
            f"{elsewhere}."
        )
    return None


def _settle(conn: "Connection", terms: BookTerms) -> BookTerms:
    """Note the terms, unless there are some that hold."""
    kept = _find_settled(conn)
    if kept is not None:
        return kept
    meta.put_book_terms(conn, json.dumps(asdict(terms)))
    return terms


def _find_settled(conn: "Connection") -> BookTerms | None:
    """Return the terms that something is held or charged in already."""
    return _find(conn) if ledger.has_holds(conn) else None


def _find(conn: "Connection") -> BookTerms | None:
    found = meta.find_book_terms(conn)
    return None if found is None else BookTerms(**json.loads(found))
