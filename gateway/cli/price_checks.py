"""Checks of prices: what is wrong, doubtful or missing in books, rates and currency."""

from collections.abc import Mapping, Sequence

from gateway.clock import SystemClock
from gateway.config import Config
from gateway.domain.billing import Usage
from gateway.domain.models import Catalog, Family
from gateway.domain.prices import Book, Case, PriceList
from gateway.errors import ConfigurationError, PriceNotFound
from gateway.runtime import open_books, open_catalog, open_prices
from gateway.services.diagnosing import Finding, Level


def check_prices(config: Config) -> Sequence[Finding]:
    """Return what is wrong, doubtful or missing about prices; one good finding if nothing is."""
    try:
        catalog = open_catalog(config)
        prices = open_prices(config, catalog)
    except ConfigurationError as error:
        return [Finding("prices", Level.FAIL, str(error), "Correct the file or the setting.")]
    if not prices.is_on:
        message = "finance.pricing is off: tasks are free, and money budgets count nothing"
        return [Finding("prices", Level.WARN, message, "Set it on to meter what is spent.")]
    findings = [
        *_check_books(config),
        *_check_rates(config, open_books(config, catalog), prices),
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
    currencies = {books[upstream.book.name].currency for upstream in config.upstreams}
    return [
        Finding(
            "finance.rates",
            Level.WARN,
            f"has no rate for {currency}: one {currency} is charged as one {prices.currency}",
            f"Set how many {prices.currency} one {currency} is.",
        )
        for currency in sorted(currencies - {prices.currency, *config.finance.rates})
    ]


def _check_coverage(config: Config, catalog: Catalog, prices: PriceList) -> Sequence[Finding]:
    """Tell of models that the deployment names itself, and that would be refused for no price."""
    named = {*config.models.endpoints, *(name for each in config.upstreams for name in each.models)}
    now_ms = SystemClock().now_ms()
    findings = []
    for upstream in config.upstreams:
        lacking = [
            unpriced
            for model in sorted(named)
            if (family := catalog.find(model)) is not None
            and (unpriced := _find_unpriced(prices, upstream.name, model, family, now_ms))
        ]
        if lacking:
            message = f"the book {upstream.book.name} has no price for {', '.join(lacking)}"
            remedy = "Add rows for the family in a file of prices.files."
            findings.append(
                Finding(f"upstreams.{upstream.name}.prices", Level.WARN, message, remedy)
            )
    return findings


def _find_unpriced(
    prices: PriceList, upstream: str, model: str, family: Family, now_ms: int
) -> str:
    """Return the model, with its resolutions if some have a price now; empty if all have one."""
    unpriced = []
    resolutions = family.resolutions or (None,)
    for resolution in resolutions:
        case = Case(model, family.name, resolution, has_input_video=None, has_audio=None)
        try:
            prices.find(case, upstream, now_ms, Usage(tokens=1, seconds=1))
        except PriceNotFound:
            unpriced.append(resolution)
    if not unpriced or len(unpriced) == len(resolutions):
        return model if unpriced else ""
    return f"{model} at {', '.join(map(str, unpriced))}"
