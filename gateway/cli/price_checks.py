"""Checks of prices: what is wrong, doubtful or missing in books, rates and currency."""

from collections.abc import Mapping, Sequence

from gateway.clock import SystemClock
from gateway.config import Config
from gateway.domain.billing import Usage
from gateway.domain.coverage import find_gaps
from gateway.domain.models import Catalog, Family
from gateway.domain.prices import DEFAULT_BOOK, Book, PriceList
from gateway.errors import ConfigurationError
from gateway.runtime import make_routes, open_books, open_catalog, open_prices
from gateway.services.diagnosing import Finding, Level


def check_prices(config: Config) -> Sequence[Finding]:
    """Return what is wrong, doubtful or missing about prices; one good finding if nothing is."""
    try:
        catalog = open_catalog(config)
        books, prices = open_books(config, catalog), open_prices(config, catalog)
    except ConfigurationError as error:
        return [Finding("prices", Level.FAIL, str(error), "Correct the file or the setting.")]
    if not prices.is_on:
        message = "finance.pricing is off: tasks are free, and money budgets count nothing"
        return [Finding("prices", Level.WARN, message, "Set it on to meter what is spent.")]
    findings = [
        *_check_books(config),
        *_check_rates(config, books, prices),
        *_check_free_rows(books),
        *_check_coverage(config, catalog, prices),
    ]
    good = Finding("prices", Level.OK, f"every model has a price, charged in {prices.currency}")
    return findings or [good]


def _check_books(config: Config) -> Sequence[Finding]:
    return [
        Finding(
            f"upstreams.{upstream.name}.price_book",
            Level.WARN,
            f"is not set, and its base_url does not tell: {upstream.book.name} is assumed",
            "Set the book that this provider bills by; `prices list` shows those there are.",
        )
        for upstream in config.upstreams
        if upstream.book.is_assumed
    ]


def _check_rates(config: Config, books: Mapping[str, Book], prices: PriceList) -> Sequence[Finding]:
    # As of the sandbox, where no upstream is configured.
    used = {upstream.book.name for upstream in config.upstreams} or {DEFAULT_BOOK}
    currencies = {books[name].currency for name in used}
    return [
        Finding(
            "finance.rates",
            Level.WARN,
            f"has no rate for {currency}: one {currency} is charged as one {prices.currency}",
            f"Set how many {prices.currency} one {currency} is.",
        )
        for currency in sorted(currencies - {prices.currency, *config.finance.rates})
    ]


def _check_free_rows(books: Mapping[str, Book]) -> Sequence[Finding]:
    """Tell of rows by which a video costs nothing."""
    free = [
        f"{row.place} makes {row.family} free"
        for book in books.values()
        for row in book.rows
        if not row.prices.amount(Usage(tokens=1, seconds=1))
    ]
    if not free:
        return []
    message = f"{'; '.join(free)}: money budgets count nothing of it"
    remedy = "Give the price, or leave the row out: what has no price is refused."
    return [Finding("prices.files", Level.WARN, message, remedy)]


def _check_coverage(config: Config, catalog: Catalog, prices: PriceList) -> Sequence[Finding]:
    """Tell of what an upstream would get, and the gateway refuses for no price."""
    now_ms = SystemClock().now_ms()
    findings = []
    for upstream, names_of in _list_served(config, catalog).items():
        lacking = [
            _label(catalog.families[family], names) + ", and".join(gap.describe() for gap in gaps)
            for family, names in names_of.items()
            if (gaps := find_gaps(catalog.families[family], prices, upstream, now_ms))
        ]
        if lacking:
            book = config.upstream(upstream).book.name
            message = f"the book {book} has no price for {'; '.join(lacking)}"
            remedy = "It is refused until rows for it are in a file of prices.files."
            findings.append(Finding(f"upstreams.{upstream}.prices", Level.WARN, message, remedy))
    return findings


def _list_served(config: Config, catalog: Catalog) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the families that each upstream gets, each with the names that it goes by there."""
    routes = make_routes(config)
    served: dict[str, dict[str, list[str]]] = {}
    for model, family in catalog.by_model.items():
        route = routes.choose_route(model)
        if route is not None:
            served.setdefault(route.upstream, {}).setdefault(family.name, []).append(model)
    return served


def _label(family: Family, names: Sequence[str]) -> str:
    """Return the family, with the names that the deployment gave to it."""
    own = [name for name in names if name not in family.ids]
    return f"{family.name} ({', '.join(own)})" if own else family.name
