import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.billing import FREE, UnitPrices, Usage
from gateway.domain.prices import (
    DEFAULT_BOOK,
    UNIT_PRICE_MICROS_MAX,
    Book,
    Case,
    Finance,
    PriceError,
    PriceList,
    Row,
    Terms,
    choose_book,
    freeze_prices,
)
from gateway.errors import PriceNotFound
from tests.support.pricing import NOW_MS, a_case, list_prices, some_usage

USAGE: Final = some_usage()
DAY_MS: Final = 86_400_000

FACTORS = st.decimals(0, 3, places=9)
RATES = st.decimals("0.000001", 1000, places=12)
MICROS = st.integers(0, 10**9)
OPEN_FLAG = st.sampled_from([None, False, True])
CASES = st.builds(
    a_case,
    resolution=st.sampled_from([None, "480p", "720p", "4k", "8k"]),
    has_input_video=OPEN_FLAG,
    has_audio=OPEN_FLAG,
    is_draft=st.booleans(),
    tier=st.sampled_from([None, "default", "flex"]),
)


def a_row(micros: int = 46_000_000, **changes: Any) -> Row:
    facts: dict[str, Any] = {
        "place": "own.yaml, prices[0]",
        "layer": 0,
        "family": "seedance-2-0",
        "effective_from": "2026-01-28",
        "effective_at_ms": NOW_MS - 300 * DAY_MS,
        "prices": UnitPrices(micros),
        "source": "a test",
        "as_of": "2026-11-22",
        **changes,
    }
    return Row(**facts)


def books_with(*rows: Row, currency: str = "CNY") -> Mapping[str, Book]:
    return {"own": Book("own", currency, rows)}


def find_micros(prices: PriceList, case: Case, at_ms: int = NOW_MS) -> int:
    """Return what a million tokens are charged."""
    return prices.find(case, "ark", at_ms, USAGE).charge.million_tokens_micros


ROWS = st.lists(
    st.builds(
        a_row,
        micros=st.integers(1, 10**6),
        layer=st.integers(0, 2),
        effective_at_ms=st.sampled_from([NOW_MS - 2 * DAY_MS, NOW_MS - DAY_MS, NOW_MS + DAY_MS]),
        resolutions=st.sampled_from([(), ("480p",), ("480p", "720p"), ("4k",)]),
        has_input_video=OPEN_FLAG,
        has_audio=OPEN_FLAG,
        is_draft=OPEN_FLAG,
        tier=st.sampled_from([None, "default", "flex"]),
    ),
    max_size=6,
)


def concrete_cases(case: Case) -> list[Case]:
    """Return all that a case may turn out to be, with resolutions that no row names among it."""
    return [
        replace(case, resolution=resolution, has_input_video=video, has_audio=audio, tier=tier)
        for resolution in (
            ["480p", "720p", "4k", "8k", "1p"] if case.resolution is None else [case.resolution]
        )
        for video in ([False, True] if case.has_input_video is None else [case.has_input_video])
        for audio in ([False, True] if case.has_audio is None else [case.has_audio])
        for tier in (["default", "flex"] if case.tier is None else [case.tier])
    ]


def wanted_micros(rows: list[Row], case: Case, at_ms: int) -> int | None:
    """The plainest way: the newest row in force of the last file, if its conditions hold."""
    matching = [
        row
        for row in rows
        if row.effective_at_ms <= at_ms
        and (not row.resolutions or case.resolution in row.resolutions)
        and row.has_input_video in {None, case.has_input_video}
        and row.has_audio in {None, case.has_audio}
        and row.is_draft in {None, case.is_draft}
        and row.tier in {None, case.tier}
    ]
    if not matching:
        return None
    # Of equal ones, which no book can hold, the first is taken.
    best = max((row.layer, row.effective_at_ms) for row in matching)
    chosen = next(row for row in matching if (row.layer, row.effective_at_ms) == best)
    return chosen.prices.million_tokens_micros


@given(ROWS, CASES, st.sampled_from([NOW_MS - 3 * DAY_MS, NOW_MS - DAY_MS, NOW_MS]))
def test_of_what_is_left_open_the_dearest_price_is_found(
    rows: list[Row], case: Case, at_ms: int
) -> None:
    prices = list_prices(books_with(*rows))
    found = [
        micros
        for each in concrete_cases(case)
        if (micros := wanted_micros(rows, each, at_ms)) is not None
    ]

    if found:
        assert find_micros(prices, case, at_ms) == max(found)
    else:
        with pytest.raises(PriceNotFound):
            find_micros(prices, case, at_ms)


def test_the_dearest_is_judged_by_what_would_be_charged() -> None:
    """Not by the price of a unit: what a million tokens cost says little of a short video."""
    by_video = a_row(0, has_audio=True, prices=UnitPrices(video_micros=1_000_000))
    by_tokens = a_row(50_000_000, has_audio=False)
    prices = list_prices(books_with(by_video, by_tokens))
    case = a_case(has_audio=None)

    short = prices.find(case, "ark", NOW_MS, some_usage(tokens=10_000))
    long = prices.find(case, "ark", NOW_MS, some_usage(tokens=100_000))

    assert short.charge.video_micros == 1_000_000
    assert long.charge.million_tokens_micros == 50_000_000


def test_a_row_holds_from_its_day_on() -> None:
    old = a_row(1, effective_at_ms=1000)
    new = a_row(2, effective_at_ms=2000, effective_from="2026-02-01")
    prices = list_prices(books_with(old, new))

    assert [find_micros(prices, a_case(), at_ms) for at_ms in (1000, 1999, 2000)] == [1, 1, 2]
    with pytest.raises(PriceNotFound):
        find_micros(prices, a_case(), 999)


def test_a_later_file_goes_before_an_earlier_one_also_with_an_older_date() -> None:
    prices = list_prices(
        books_with(a_row(1, layer=0), a_row(2, layer=1, effective_at_ms=1000, tier="flex"))
    )

    assert find_micros(prices, a_case(tier="flex")) == 2
    assert find_micros(prices, a_case()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "at 720p without input video in the tier default"),
        ({"resolution": None, "has_input_video": None, "tier": None}, ""),
        ({"has_input_video": True, "tier": "flex"}, "at 720p with input video in the tier flex"),
    ],
)
def test_an_unpriced_model_is_refused_with_the_setting_that_prices_it(
    changes: dict[str, object], words: str
) -> None:
    prices = list_prices(books_with())

    with pytest.raises(PriceNotFound) as caught:
        find_micros(prices, a_case(**changes))

    named = " ".join(filter(None, ["The model doubao-seedance-2-0-260128", words]))
    assert caught.value.message == (
        f"{named} has no price in the book own of this gateway, so it is not served. The setting "
        "prices.files adds one."
    )
    assert caught.value.param == "model"
    assert caught.value.public_status == 400


def test_a_hostile_models_name_is_cut_in_the_refusal() -> None:
    with pytest.raises(PriceNotFound) as caught:
        find_micros(list_prices(books_with()), a_case(model="m\n" * 500))

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_without_pricing_everything_is_free() -> None:
    prices = replace(list_prices(books_with()), is_on=False)

    assert prices.find(a_case(), "ark", NOW_MS, USAGE) == FREE


@given(
    st.builds(UnitPrices, MICROS, MICROS, MICROS, MICROS),
    st.decimals(0, "0.99", places=9),
    RATES,
    FACTORS,
)
def test_discount_rate_and_markup_are_exact_and_rounded_once(
    units: UnitPrices, discount: Decimal, rate: Decimal, markup: Decimal
) -> None:
    terms = Terms("ark", "own", discount)
    finance = Finance("USD", {"CNY": rate}, markup)
    due_factor = 1 - Fraction(discount)
    charge_factor = due_factor * Fraction(rate) * (1 + Fraction(markup))

    def scaled(factor: Fraction) -> dict[str, int]:
        half = Fraction(1, 2)
        return {name: math.floor(micros * factor + half) for name, micros in asdict(units).items()}

    try:
        prices = freeze_prices(books_with(a_row(prices=units)), [terms], finance)
    except PriceError:
        listed, amounts = asdict(units), [scaled(due_factor), scaled(charge_factor)]
        assert any(
            each[name] > UNIT_PRICE_MICROS_MAX or (micros > 0 and each[name] == 0)
            for each in amounts
            for name, micros in listed.items()
        )
        return
    price = prices.find(a_case(), "ark", NOW_MS, USAGE)
    assert asdict(price.cost) == scaled(due_factor)
    assert asdict(price.charge) == scaled(charge_factor)
    assert (price.cost_currency, price.charge_currency) == ("CNY", "USD")


def test_a_contract_of_15_percent_and_a_markup_of_10_at_a_rate_of_a_seventh() -> None:
    prices = list_prices(
        books_with(a_row()), discount="0.15", currency="USD", rates={"CNY": "0.14"}, markup="0.1"
    )

    price = prices.find(a_case(), "ark", NOW_MS, USAGE)

    assert price.cost.million_tokens_micros == 39_100_000
    assert price.charge.million_tokens_micros == 6_021_400


def test_half_a_micro_unit_is_rounded_up() -> None:
    prices = list_prices(books_with(a_row(5)), discount="0.5")

    assert prices.find(a_case(), "ark", NOW_MS, USAGE).cost.million_tokens_micros == 3


@pytest.mark.parametrize(
    ("row", "terms", "problem"),
    [
        (
            a_row(1),
            {"currency": "USD", "rates": {"CNY": "0.1"}},
            "million_tokens_micros is too small for whole micro-units",
        ),
        (
            a_row(10**13),
            {"markup": "0.1"},
            "million_tokens_micros is too large",
        ),
    ],
)
def test_a_price_that_does_not_fit_is_refused_and_named(
    row: Row, terms: dict[str, Any], problem: str
) -> None:
    with pytest.raises(PriceError) as caught:
        list_prices(books_with(row), **terms)

    said = f"own.yaml, prices[0]: after discount, rate and markup {problem}"
    assert str(caught.value) == said


def test_what_is_free_stays_free() -> None:
    prices = list_prices(books_with(a_row(0)), discount="0.9", markup="3")

    assert find_micros(prices, a_case()) == 0


def test_without_a_currency_the_first_upstreams_book_decides() -> None:
    books = {
        "cny": Book("cny", "CNY", (a_row(46_000_000),)),
        "usd": Book("usd", "USD", (a_row(7_000_000),)),
    }
    terms = [Terms("first", "usd"), Terms("second", "cny")]

    prices = freeze_prices(books, terms, Finance(rates={"CNY": Decimal("0.14")}))

    assert prices.currency == "USD"
    assert prices.find(a_case(), "first", NOW_MS, USAGE).charge.million_tokens_micros == 7_000_000
    second = prices.find(a_case(), "second", NOW_MS, USAGE)
    assert (second.cost.million_tokens_micros, second.cost_currency) == (46_000_000, "CNY")
    assert (second.charge.million_tokens_micros, second.charge_currency) == (6_440_000, "USD")


def test_without_a_rate_one_is_charged_as_one() -> None:
    prices = list_prices(books_with(a_row(46_000_000)), currency="EUR")

    price = prices.find(a_case(), "ark", NOW_MS, USAGE)

    assert (price.cost, price.charge_currency) == (price.charge, "EUR")


def test_without_upstreams_the_default_books_currency_is_charged() -> None:
    books = {DEFAULT_BOOK: Book(DEFAULT_BOOK, "CNY", ())}

    assert freeze_prices(books, [], Finance()).currency == "CNY"


def test_a_book_that_is_not_there_is_refused_by_its_setting() -> None:
    with pytest.raises(PriceError) as caught:
        freeze_prices(books_with(), [Terms("ark", "other")], Finance())

    assert str(caught.value) == (
        "upstreams.ark.price_book: there is no price book other; there are own"
    )


def test_the_own_currency_has_no_rate_but_one() -> None:
    assert list_prices(books_with(), rates={"CNY": "1.0"}).currency == "CNY"
    with pytest.raises(PriceError, match=r"finance\.rates: CNY is what is charged, its own rate"):
        list_prices(books_with(), rates={"CNY": "1.01"})


SETUPS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["own", "other"]),
        "currency": st.sampled_from(["CNY", "USD"]),
        "effective_from": st.sampled_from(["2026-01-28", "2026-02-01"]),
        "units": st.builds(UnitPrices, *[st.sampled_from([1000, 1001])] * 4),
        "discount": st.sampled_from(["0", "0.1", "0.5"]),
        "charged": st.sampled_from(["CNY", "USD"]),
        "rate": st.sampled_from(["1", "2", "7"]),
        "markup": st.sampled_from(["0", "1", "0.25"]),
    }
)


def frozen(setup: dict[str, Any]) -> Any:
    row = a_row(prices=setup["units"], effective_from=setup["effective_from"])
    books = {setup["name"]: Book(setup["name"], setup["currency"], (row,))}
    rates = {} if setup["currency"] == setup["charged"] else {setup["currency"]: setup["rate"]}
    prices = list_prices(
        books,
        setup["name"],
        discount=setup["discount"],
        currency=setup["charged"],
        rates=rates,
        markup=setup["markup"],
    )
    return prices.find(a_case(), "ark", NOW_MS, USAGE)


@given(SETUPS, SETUPS)
def test_a_version_is_another_one_as_soon_as_anything_about_the_price_is(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = frozen(one), frozen(other)
    is_same = (
        replace(first, version="") == replace(second, version="")
        and one["name"] == other["name"]
        and one["effective_from"] == other["effective_from"]
    )

    assert (first.version == second.version) is is_same


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"currency": "USD"},
        {"effective_from": "2026-02-01"},
        {"units": UnitPrices(1001, 1000, 1000, 1000)},
        {"units": UnitPrices(1000, 1001, 1000, 1000)},
        {"units": UnitPrices(1000, 1000, 1001, 1000)},
        {"units": UnitPrices(1000, 1000, 1000, 1001)},
        {"discount": "0.1"},
        {"charged": "USD"},
        {"rate": "2"},
        {"markup": "0.25"},
    ],
)
def test_every_part_of_a_price_is_in_its_version(change: dict[str, Any]) -> None:
    setup: dict[str, Any] = {
        "name": "own",
        "currency": "EUR",
        "effective_from": "2026-01-28",
        "units": UnitPrices(1000, 1000, 1000, 1000),
        "discount": "0",
        "charged": "CNY",
        "rate": "1",
        "markup": "0",
    }

    assert frozen(setup).version != frozen({**setup, **change}).version
    assert frozen(setup).version == frozen(dict(setup)).version


def test_a_version_names_book_and_day() -> None:
    price = list_prices(books_with(a_row())).find(a_case(), "ark", NOW_MS, USAGE)

    book, day, digest = price.version.split("/")
    assert (book, day) == ("own", "2026-01-28")
    assert len(digest) == 8


@pytest.mark.parametrize(
    ("configured", "base_url", "name", "is_assumed"),
    [
        ("mine", "https://ark.cn-beijing.volces.com/api/v3", "mine", False),
        (None, "https://ark.cn-beijing.volces.com/api/v3", "volcengine-cny", False),
        (None, "https://ARK.ap-southeast.BytePluses.com/api/v3", "byteplus-usd", False),
        (None, "https://bytepluses.com", "byteplus-usd", False),
        (None, "https://volces.com.evil.example", "volcengine-cny", True),
        (None, "https://evilbytepluses.com", "volcengine-cny", True),
        (None, "http://127.0.0.1:8081", "volcengine-cny", True),
        (None, "http://[::1", "volcengine-cny", True),
        (None, "", "volcengine-cny", True),
    ],
)
def test_a_book_is_chosen_by_setting_or_by_address(
    configured: str | None,
    base_url: str,
    name: str,
    is_assumed: bool,  # noqa: FBT001 - part of a table
) -> None:
    choice = choose_book(configured, base_url)

    assert (choice.name, choice.is_assumed) == (name, is_assumed)


CONDITIONED_ROWS = st.builds(
    a_row,
    family=st.sampled_from(["seedance-2-0", "seedance-2-5"]),
    resolutions=st.sampled_from([(), ("480p",), ("480p", "720p"), ("4k",)]),
    has_input_video=OPEN_FLAG,
    has_audio=OPEN_FLAG,
    is_draft=OPEN_FLAG,
    tier=st.sampled_from([None, "default", "flex"]),
)


@given(CONDITIONED_ROWS, CONDITIONED_ROWS)
def test_rows_overlap_if_some_case_meets_both(one: Row, other: Row) -> None:
    cases = [
        replace(each, is_draft=is_draft)
        for is_draft in (False, True)
        for each in concrete_cases(
            a_case(resolution=None, has_input_video=None, has_audio=None, tier=None)
        )
    ]
    is_met = one.family == other.family and any(
        one.matches(case) and other.matches(case) for case in cases
    )

    assert one.overlaps(other) is other.overlaps(one) is is_met


def test_usage_without_tokens_still_finds_a_price() -> None:
    prices = list_prices(books_with(a_row()))

    assert prices.find(a_case(), "ark", NOW_MS, Usage(0, 0)).charge.million_tokens_micros
