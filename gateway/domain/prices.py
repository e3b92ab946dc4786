"""Price books: what an upstream charges for a case, frozen into the price of one task.

A book is data (config/prices/, and a deployment's own files); `gateway/domain/price_books.py` reads
it. An upstream has one book and a discount on it; the deployment has one currency, rates and a
markup. What follows is worked out once, when the books are opened: a task gets one of those prices
as it is, with a version that is another one as soon as anything about the price is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Final, TypeVar
from urllib.parse import urlsplit

from gateway.domain.billing import FREE, Price, UnitPrices, Usage
from gateway.domain.refusals import show
from gateway.errors import PriceNotFound

_T = TypeVar("_T")

UNIT_PRICE_MICROS_MAX: Final = 10**13
"""With `quotes.TOKENS_MAX`, no amount of one task passes `money.MICROS_MAX`."""
PRICE_SETTING: Final = "prices.files"
DEFAULT_BOOK: Final = "volcengine-cny"

_BOOK_OF_HOST: Final = {".volces.com": DEFAULT_BOOK, ".bytepluses.com": "byteplus-usd"}


class PriceError(ValueError):
    """A price can't be worked out; the message says of which row, and why."""


@dataclass(frozen=True, slots=True)
class Case:
    """What decides the price of a task. None is what its request leaves to the upstream."""

    model: str
    """As the client named it, for messages alone."""
    family: str
    resolution: str | None
    has_input_video: bool | None
    has_audio: bool | None
    is_draft: bool = False
    tier: str | None = "default"


@dataclass(frozen=True, slots=True)
class Conditions:
    """Which cases of a family are meant. One of None, or an empty one, is met always."""

    resolutions: tuple[str, ...] = ()
    has_input_video: bool | None = None
    has_audio: bool | None = None
    is_draft: bool | None = None
    tier: str | None = None

    def matches(self, case: Case) -> bool:
        """Whether a case with nothing left open meets every condition."""
        return (
            (not self.resolutions or case.resolution in self.resolutions)
            and self.has_input_video in {None, case.has_input_video}
            and self.has_audio in {None, case.has_audio}
            and self.is_draft in {None, case.is_draft}
            and self.tier in {None, case.tier}
        )

    def describe(self) -> str:
        """Return words that can follow the name of a model; none if every case is meant."""
        words = [
            f" at {', '.join(map(show, self.resolutions))}" if self.resolutions else "",
            {None: "", True: " with input video", False: " without input video"}[
                self.has_input_video
            ],
            {None: "", True: " with audio", False: " without audio"}[self.has_audio],
            {None: "", True: " as a draft", False: " not as a draft"}[self.is_draft],
            f" in the tier {self.tier}" if self.tier else "",
        ]
        return "".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Conditions):
    """What one family costs from a day on, where the conditions are met."""

    place: str
    """Where it stands, such as `config/prices/byteplus-usd.yaml, prices[3]`."""
    layer: int
    """Which file it is from: a row of a later file goes before all rows of earlier ones."""
    family: str
    effective_from: str
    effective_at_ms: int
    prices: UnitPrices
    source: str
    as_of: str

    def overlaps(self, other: "Row") -> bool:
        """Whether some case meets the conditions of both."""
        mine, others = {*self.resolutions}, {*other.resolutions}
        return (
            self.family == other.family
            and (not mine or not others or bool(mine & others))
            and _agree(self.has_input_video, other.has_input_video)
            and _agree(self.has_audio, other.has_audio)
            and _agree(self.is_draft, other.is_draft)
            and _agree(self.tier, other.tier)
        )


@dataclass(frozen=True, slots=True)
class Book:
    """A price list of one provider in one currency."""

    name: str
    currency: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """How an upstream's book becomes a price: what we pay of it, and what we charge for that."""

    upstream: str
    book: str
    discount: Decimal = Decimal(0)
    """The share of the list price that the contract takes off."""


@dataclass(frozen=True, slots=True)
class Finance:
    """What is charged: in which currency, at which rates, with which markup."""

    currency: str | None = None
    """None is the currency of the first upstream's book."""
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    """Units of `currency` for one unit of another; 1 where none is given."""
    markup: Decimal = Decimal(0)
    """The share that is charged on top of the cost."""


@dataclass(frozen=True, slots=True)
class PricedRow:
    row: Row
    price: Price


@dataclass(frozen=True, slots=True)
class UpstreamPrices:
    """An upstream's prices by family, in the order in which a match is looked for."""

    book: str
    by_family: Mapping[str, Sequence[PricedRow]]


@dataclass(frozen=True, slots=True)
class PriceList:
    """Every price of this deployment. Without `is_on`, everything is free."""

    currency: str
    by_upstream: Mapping[str, UpstreamPrices]
    is_on: bool = True

    def find(self, case: Case, upstream: str, at_ms: int, usage: Usage) -> Price:
        """Return the price of `case` at `at_ms`; of what it leaves open, the dearest for `usage`.

        Raises: PriceNotFound if no row of the upstream's book covers any of it.
        """
        if not self.is_on:
            return FREE
        listed = self.by_upstream[upstream]
        rows = listed.by_family.get(case.family, ())
        found = [
            priced.price
            for decided in _decide(case, rows)
            if (priced := _find_row(decided, rows, at_ms)) is not None
        ]
        if not found:
            raise _refuse_case(case, listed.book)
        return max(found, key=lambda price: price.charge.amount(usage))


@dataclass(frozen=True, slots=True)
class BookChoice:
    """The book that an upstream is priced by. `is_assumed` if nothing said which."""

    name: str
    is_assumed: bool = False


def choose_book(configured: str | None, base_url: str) -> BookChoice:
    """Return the book that is configured, or else that of the provider at `base_url`."""
    if configured is not None:
        return BookChoice(configured)
    try:
        host = f".{urlsplit(base_url).hostname or ''}"
    except ValueError:  # no URL at all; whoever opens it says so
        host = ""
    for domain, name in _BOOK_OF_HOST.items():
        if host.endswith(domain):
            return BookChoice(name)
    return BookChoice(DEFAULT_BOOK, is_assumed=True)


def freeze_prices(books: Mapping[str, Book], terms: Sequence[Terms], finance: Finance) -> PriceList:
    """Return the prices of every upstream. Raises PriceError, which names the setting or the row.

    Without a currency of its own, the deployment counts in that of the first upstream's book.
    """
    for each in terms:
        if each.book not in books:
            known = ", ".join(sorted(books))
            problem = f"there is no price book {show(each.book)}; there are {known}"
            raise PriceError(f"upstreams.{each.upstream}.price_book: {problem}")
    first = terms[0].book if terms else DEFAULT_BOOK
    currency = finance.currency or books[first].currency
    if finance.rates.get(currency, 1) != 1:
        raise PriceError(f"finance.rates: {currency} is what is charged, its own rate must be 1")
    by_upstream = {
        each.upstream: _freeze_book(books[each.book], each.discount, currency, finance)
        for each in terms
    }
    return PriceList(currency, by_upstream)


def _freeze_book(book: Book, discount: Decimal, currency: str, finance: Finance) -> UpstreamPrices:
    cost_factor = 1 - Fraction(discount)
    rate = Fraction(finance.rates.get(book.currency, 1))
    charge_factor = cost_factor * rate * (1 + Fraction(finance.markup))
    by_family: dict[str, list[PricedRow]] = {}
    for row in sorted(book.rows, key=lambda row: (row.layer, row.effective_at_ms), reverse=True):
        price = Price(
            version="",
            cost_currency=book.currency,
            cost=_scale(row, cost_factor),
            charge_currency=currency,
            charge=_scale(row, charge_factor),
        )
        version = f"{book.name}/{row.effective_from}/{_hash(price)}"
        by_family.setdefault(row.family, []).append(PricedRow(row, replace(price, version=version)))
    return UpstreamPrices(book.name, by_family)


def _scale(row: Row, factor: Fraction) -> UnitPrices:
    """Return the row's prices times `factor`, each rounded once, half a micro-unit up."""
    scaled = {}
    for name, micros in asdict(row.prices).items():
        rounded = (2 * micros * factor.numerator + factor.denominator) // (2 * factor.denominator)
        if rounded > UNIT_PRICE_MICROS_MAX or (rounded == 0 and micros > 0):
            size = "large" if rounded else "small for whole micro-units"
            problem = f"after discount, rate and markup {name} is too {size}"
            raise PriceError(f"{row.place}: {problem}")
        scaled[name] = rounded
    return UnitPrices(**scaled)


def _hash(price: Price) -> str:
    text = json.dumps(price.as_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _find_row(case: Case, rows: Sequence[PricedRow], at_ms: int) -> PricedRow | None:
    in_force = (priced for priced in rows if priced.row.effective_at_ms <= at_ms)
    return next((priced for priced in in_force if priced.row.matches(case)), None)


def _decide(case: Case, rows: Sequence[PricedRow]) -> Iterator[Case]:
    """Give every case that this one may turn out to be, as far as the rows tell them apart."""
    named = dict.fromkeys(name for priced in rows for name in priced.row.resolutions)
    for resolution, has_input_video, has_audio, tier in product(
        # The empty one stands for a resolution that no row names.
        (case.resolution,) if case.resolution is not None else ("", *named),
        _open(case.has_input_video, (False, True)),
        _open(case.has_audio, (False, True)),
        _open(case.tier, ("default", "flex")),
    ):
        yield replace(
            case,
            resolution=resolution,
            has_input_video=has_input_video,
            has_audio=has_audio,
            tier=tier,
        )


def _open(value: _T | None, choices: tuple[_T, ...]) -> tuple[_T, ...]:
    return choices if value is None else (value,)


def _agree(mine: _T | None, other: _T | None) -> bool:
    return mine is None or other is None or mine == other


def _refuse_case(case: Case, book: str) -> PriceNotFound:
    resolutions = (case.resolution,) if case.resolution else ()
    asked = Conditions(resolutions, case.has_input_video, tier=case.tier)
    return PriceNotFound(
        f"The model {show(case.model)}{asked.describe()} has no price in the book {book} of this "
        f"gateway, so it is not served. The setting {PRICE_SETTING} adds one.",
        param="model",
    )
