"""Prices to test with: the shipped books, and small ones of a test's own."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

from gateway.domain.billing import Evidence, EvidenceKind, Price, UnitPrices, Usage
from gateway.domain.price_books import BOOK_FILES, read_books
from gateway.domain.prices import Book, Case, Finance, PriceList, Terms, freeze_prices
from gateway.yaml_file import read_yaml_mapping
from tests.support.requests import MODELS_FILE, shipped_catalog

CNY: Final = "volcengine-cny"
USD: Final = "byteplus-usd"
NOW_MS: Final = 1_795_330_862_000
"""In November 2026, when every shipped row is in force."""
ENDED: Final = Evidence(EvidenceKind.ENDED, "succeeded")

JsonObject = dict[str, Any]


@cache
def shipped_books() -> Mapping[str, Book]:
    """Return the books of config/prices."""
    folder = MODELS_FILE.parent
    documents = [(f"config/{name}", read_yaml_mapping(folder / name)) for name in BOOK_FILES]
    return read_books(documents, shipped_catalog())


def a_row(**changes: object) -> JsonObject:
    """Return a row as a file has it, with keys changed or (None) taken out."""
    row: JsonObject = {
        "family": "seedance-2-0",
        "effective_from": "2026-01-28",
        "per_million_tokens": 46,
        "source": "a test",
        "as_of": "2026-11-22",
        **changes,
    }
    return {name: value for name, value in row.items() if value is not None}


def a_document(*rows: object, book: object = "own", currency: object = "CNY") -> JsonObject:
    return {"book": book, "currency": currency, "prices": list(rows)}


def books_of(*documents: Mapping[str, object]) -> Mapping[str, Book]:
    """Read documents as the files `one.yaml`, `two.yaml` and so on."""
    names = ("one.yaml", "two.yaml", "three.yaml")
    return read_books(zip(names, documents, strict=False), shipped_catalog())


def list_prices(
    books: Mapping[str, Book],
    book: str = "own",
    *,
    discount: str = "0",
    currency: str | None = None,
    rates: Mapping[str, str] | None = None,
    markup: str = "0",
) -> PriceList:
    """Return the prices of one upstream, `ark`, that is billed by `book`."""
    terms: Sequence[Terms] = [Terms("ark", book, Decimal(discount))]
    exact = {name: Decimal(rate) for name, rate in (rates or {}).items()}
    return freeze_prices(books, terms, Finance(currency, exact, Decimal(markup)))


@cache
def shipped_prices(book: str = CNY) -> PriceList:
    return list_prices(shipped_books(), book)


def a_case(**changes: Any) -> Case:
    facts: JsonObject = {
        "model": "doubao-seedance-2-0-260128",
        "family": "seedance-2-0",
        "resolution": "720p",
        "has_input_video": False,
        "has_audio": True,
        **changes,
    }
    return Case(**facts)


def a_price(**units: int) -> Price:
    """Return a price of the same cost and charge; a million tokens are 15 of a currency's units."""
    prices = UnitPrices(**(units or {"million_tokens_micros": 15_000_000}))
    return Price("own/2026-01-28/00000000", "CNY", prices, "CNY", prices)


def some_usage(**changes: int) -> Usage:
    facts = {"tokens": 49_005, "seconds": 5, **changes}
    return Usage(**facts)
