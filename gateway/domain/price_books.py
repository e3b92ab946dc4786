"""Reads price books from parsed YAML: those in config/prices/, and a deployment's own files."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from gateway.domain.billing import UnitPrices
from gateway.domain.data_files import DataError, DataSection
from gateway.domain.models import Catalog
from gateway.domain.money import parse_amount
from gateway.domain.prices import UNIT_PRICE_MICROS_MAX, Book, PriceError, Row

BOOK_FILES: Final = ("prices/volcengine-cny.yaml", "prices/byteplus-usd.yaml")
"""The books that come with the gateway, among the data files."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_CURRENCY: Final = re.compile(r"[A-Z]{3}\Z")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_TIERS: Final = ("default", "flex")
_COMPONENTS: Final = {
    "per_million_tokens": "million_tokens_micros",
    "per_video": "video_micros",
    "per_second": "second_micros",
    "per_tool_call": "tool_call_micros",
}
_NOTE_CHARS_MAX: Final = 500


def read_books(
    documents: Iterable[tuple[str, Mapping[str, object]]], catalog: Catalog
) -> Mapping[str, Book]:
    """Return the books by name. `documents` are (file, content); each holds rows of one book.

    Two files may hold rows of the same book: those of the later one go before the earlier one's.
    Raises PriceError, which names the file and the key, for data that is wrong or tells nobody
    which of two rows holds.
    """
    books: dict[str, Book] = {}
    for layer, (file, document) in enumerate(documents):
        try:
            book = _read_book(DataSection(document, ""), file, layer, catalog)
        except DataError as error:
            raise PriceError(f"{file}: {error}") from error
        known = books.get(book.name, Book(book.name, book.currency, ()))
        if known.currency != book.currency:
            raise PriceError(f"{file}: currency: the book {book.name} is in {known.currency}")
        _refuse_ambiguity(book.rows)
        books[book.name] = Book(book.name, book.currency, (*known.rows, *book.rows))
    return books


def _read_book(top: DataSection, file: str, layer: int, catalog: Catalog) -> Book:
    name, currency = top.text("book"), top.text("currency")
    if not _NAME.match(name):
        raise top.refuse("book", "must be lower-case letters, digits and dashes")
    if not _CURRENCY.match(currency):
        raise top.refuse("currency", "must be a code of three letters, such as USD")
    given = top.read("prices")
    if not isinstance(given, list):
        raise top.refuse("prices", "must be a list of rows")
    rows = [
        _read_row(DataSection(row, f"prices[{index}]"), file, layer, catalog)
        for index, row in enumerate(given)
    ]
    top.close()
    return Book(name, currency, tuple(rows))


def _read_row(section: DataSection, file: str, layer: int, catalog: Catalog) -> Row:
    family = section.text("family")
    if family not in catalog.families:
        raise section.refuse("family", f"there is no family {family}")
    resolutions = section.texts("resolutions", ())
    for resolution in resolutions:
        if resolution not in catalog.resolutions:
            raise section.refuse("resolutions", f"no model makes {resolution}")
    tier = section.text("tier", "") or None
    if tier is not None and tier not in _TIERS:
        raise section.refuse("tier", f"must be one of {', '.join(_TIERS)}")
    effective_from, effective_at_ms = _read_date(section, "effective_from")
    as_of, _ = _read_date(section, "as_of")
    row = Row(
        place=f"{file}: {section.path}",
        layer=layer,
        family=family,
        effective_from=effective_from,
        effective_at_ms=effective_at_ms,
        prices=_read_prices(section),
        source=_read_note(section, "source"),
        as_of=as_of,
        resolutions=resolutions,
        has_input_video=_read_condition(section, "input_video"),
        has_audio=_read_condition(section, "audio"),
        is_draft=_read_condition(section, "draft"),
        tier=tier,
    )
    section.close()
    return row


def _read_prices(section: DataSection) -> UnitPrices:
    given = {
        component: _read_amount(section, name)
        for name, component in _COMPONENTS.items()
        if section.read(name) is not None
    }
    if not given:
        raise DataError(section.path, f"must have one of {', '.join(_COMPONENTS)}")
    return UnitPrices(**given)


def _read_amount(section: DataSection, name: str) -> int:
    value = section.read(name)
    # YAML makes a float of 2.5, and a float is not exactly what was written.
    if isinstance(value, float):
        raise section.refuse(name, "put a decimal in quotes")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise section.refuse(name, "must be a decimal of the currency")
    try:
        micros = parse_amount(str(value))
    except ValueError as error:
        raise section.refuse(name, str(error)) from error
    if micros > UNIT_PRICE_MICROS_MAX:
        raise section.refuse(name, "is too large")
    return micros


def _read_condition(section: DataSection, name: str) -> bool | None:
    return None if section.read(name) is None else section.flag(name)


def _read_note(section: DataSection, name: str) -> str:
    note = section.text(name)
    if not 0 < len(note) <= _NOTE_CHARS_MAX or not note.isprintable():
        raise section.refuse(name, f"must be a line of at most {_NOTE_CHARS_MAX} characters")
    return note


def _read_date(section: DataSection, name: str) -> tuple[str, int]:
    """Return the day, and when it begins in UTC."""
    text = section.text(name)
    try:
        start = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        start = None
    if start is None or not _DATE.match(text):
        raise section.refuse(name, "must be a date such as 2026-01-28")
    return text, int(start.timestamp()) * 1000


def _refuse_ambiguity(rows: tuple[Row, ...]) -> None:
    earlier: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        group = earlier.setdefault((row.family, row.effective_from), [])
        for other in group:
            if row.overlaps(other):
                raise PriceError(
                    f"{row.place}: {other.place.rpartition(' ')[2]} has a price for the same case "
                    f"from {row.effective_from} on; give each its own conditions or date"
                )
        group.append(row)
