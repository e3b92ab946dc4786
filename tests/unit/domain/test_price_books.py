from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.billing import UnitPrices
from gateway.domain.prices import Book, PriceError
from gateway.errors import PriceNotFound
from tests.support.pricing import (
    CNY,
    NOW_MS,
    USD,
    a_case,
    a_document,
    a_row,
    books_of,
    list_prices,
    shipped_books,
    shipped_prices,
    some_usage,
)
from tests.support.requests import shipped_catalog

DAY_MS: Final = 86_400_000

LOW: Final = ("480p", "720p")
EVERY: Final = ("480p", "720p", "1080p")
SILENT: Final[dict[str, object]] = {"has_audio": False}
FLEX: Final[dict[str, object]] = {"tier": "flex"}
VIDEO: Final[dict[str, object]] = {"has_input_video": True}
LISTED: Final[list[tuple[str, tuple[str, ...], dict[str, object], str | None, str | None]]] = [
    # What the vendor lists for a million tokens, in CNY and in USD; a `?` was on no vendor's page.
    ("seedance-1-0-lite-t2v", EVERY, {}, "10?", "1.8?"),
    ("seedance-1-0-lite-t2v", EVERY, FLEX, "5?", "1.8?"),
    ("seedance-1-0-lite-i2v", EVERY, {}, "10?", "1.8?"),
    ("seedance-1-0-lite-i2v", EVERY, FLEX, "5?", "1.8?"),
    ("seedance-1-0-pro", EVERY, {}, "15?", "2.5"),
    ("seedance-1-0-pro", EVERY, FLEX, "7.5?", "1.25"),
    ("seedance-1-0-pro-fast", EVERY, {}, "4.2?", "1.0"),
    ("seedance-1-0-pro-fast", EVERY, FLEX, "2.1?", "0.5"),
    ("seedance-1-5-pro", EVERY, {}, "16?", "2.4"),
    ("seedance-1-5-pro", EVERY, SILENT, "8?", "1.2"),
    ("seedance-1-5-pro", EVERY, FLEX, "8?", "1.2"),
    ("seedance-1-5-pro", EVERY, {**SILENT, **FLEX}, "4?", "0.6"),
    ("seedance-2-0", LOW, {}, "46", "7.0"),
    ("seedance-2-0", LOW, VIDEO, "28", "4.3"),
    ("seedance-2-0", ("1080p",), {}, "51", "7.7"),
    ("seedance-2-0", ("1080p",), VIDEO, "31", "4.7"),
    ("seedance-2-0", ("4k",), {}, "26", "4.0"),
    ("seedance-2-0", ("4k",), VIDEO, "16", "2.4"),
    ("seedance-2-0-fast", LOW, {}, "37", "5.6"),
    ("seedance-2-0-fast", LOW, VIDEO, "22", "3.3"),
    ("seedance-2-0-mini", LOW, {}, "23", "3.5"),
    ("seedance-2-0-mini", LOW, VIDEO, "14", "2.1"),
    ("seedance-2-5", LOW, {}, "70", "10.7"),
    ("seedance-2-5", LOW, VIDEO, "42", "6.4"),
    ("seedance-2-5", ("1080p",), {}, "77", None),
    ("seedance-2-5", ("1080p",), VIDEO, "46", None),
]
CASES: Final = [
    (book, family, resolution, facts, price)
    for family, resolutions, facts, cny, usd in LISTED
    for book, price in ((CNY, cny), (USD, usd))
    for resolution in resolutions
]


def micros_of(price: str) -> int:
    """Return the micro-units of a price of the table, by counting digits."""
    units, _, rest = price.rstrip("?").partition(".")
    return int(units) * 1_000_000 + int(rest.ljust(6, "0"))


def problem_of(*documents: Mapping[str, object]) -> str:
    with pytest.raises(PriceError) as caught:
        books_of(*documents)
    return str(caught.value)


@pytest.mark.parametrize(("book", "family", "resolution", "facts", "price"), CASES)
def test_every_list_price_is_in_the_shipped_books(
    book: str, family: str, resolution: str, facts: dict[str, Any], price: str | None
) -> None:
    case = a_case(model=family, family=family, resolution=resolution, **facts)
    prices = shipped_prices(book)

    if price is None:
        with pytest.raises(PriceNotFound):
            prices.find(case, "ark", NOW_MS, some_usage())
        return
    found = prices.find(case, "ark", NOW_MS, some_usage())
    assert found.charge == found.cost == UnitPrices(micros_of(price))
    assert found.cost_currency == book[-3:].upper()


@pytest.mark.parametrize(("book", "family", "resolution", "facts", "price"), CASES)
def test_a_list_price_says_where_it_is_from_and_whether_a_page_of_the_vendors_has_it(
    book: str, family: str, resolution: str, facts: dict[str, Any], price: str | None
) -> None:
    case = a_case(family=family, resolution=resolution, **facts)
    rows = [row for row in shipped_books()[book].rows if row.family == family and row.matches(case)]

    assert len(rows) == (price is not None)
    for row in rows:
        assert ("unverified" in row.source) is (price or "").endswith("?")
        assert len(row.source.split()) > 1
        assert "2026-01-28" <= row.as_of <= "2026-11-22"


def test_the_shipped_books_hold_nothing_else() -> None:
    assert {name: book.currency for name, book in shipped_books().items()} == {
        CNY: "CNY",
        USD: "USD",
    }
    for book in shipped_books().values():
        for row in book.rows:
            case = {"family": row.family, "has_audio": row.has_audio is not False}
            case |= {"has_input_video": bool(row.has_input_video), "tier": row.tier or "default"}
            resolution = row.resolutions[0] if row.resolutions else "720p"
            assert any(
                (book.name, row.family, resolution) == each[:3]
                and row.matches(a_case(resolution=resolution, **case))
                for each in CASES
            )
            assert row.prices.million_tokens_micros
            assert row.effective_at_ms < NOW_MS
            assert row.place.startswith(f"config/prices/{book.name}.yaml: prices[")


def test_every_shipped_family_has_a_price_in_every_resolution_and_book() -> None:
    """But for 2.5 at 1080p in USD: no source gives that one."""
    for name, family in shipped_catalog().families.items():
        if not family.has_rules:
            continue
        for resolution in family.resolutions:
            for book in (CNY, USD):
                if (name, resolution, book) == ("seedance-2-5", "1080p", USD):
                    continue
                for tier in family.service_tiers:
                    case = a_case(
                        family=name,
                        resolution=resolution,
                        tier=tier,
                        has_input_video=None,
                        has_audio=None,
                    )
                    found = shipped_prices(book).find(case, "ark", NOW_MS, some_usage())
                    assert found.charge.million_tokens_micros


def test_before_its_books_begin_nothing_has_a_price() -> None:
    starts = {row.effective_at_ms for book in shipped_books().values() for row in book.rows}

    with pytest.raises(PriceNotFound):
        shipped_prices(CNY).find(a_case(), "ark", min(starts) - 1, some_usage())


def test_a_row_is_read_with_all_it_may_have() -> None:
    (row,) = books_of(
        a_document(
            a_row(
                resolutions=["480p", "4k"],
                input_video=False,
                audio=True,
                draft=False,
                tier="flex",
                effective_from="2026-03-01",
                per_million_tokens="4.3",
                per_video=1,
                per_second="0.000001",
                per_tool_call="0",
            )
        )
    )["own"].rows

    assert row.prices == UnitPrices(4_300_000, 1_000_000, 1, 0)
    assert row.resolutions == ("480p", "4k")
    assert (row.has_input_video, row.has_audio, row.is_draft, row.tier) == (
        False,
        True,
        False,
        "flex",
    )
    assert (row.effective_from, row.effective_at_ms) == ("2026-03-01", 1_772_323_200_000)
    assert (row.place, row.source, row.as_of) == ("one.yaml: prices[0]", "a test", "2026-11-22")


def test_what_a_row_does_not_say_it_does_not_ask_for() -> None:
    (row,) = books_of(a_document(a_row(resolutions=[], tier=None)))["own"].rows

    assert row.resolutions == ()
    assert (row.has_input_video, row.has_audio, row.is_draft, row.tier) == (None,) * 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"spare": 1}, "spare: unknown key"),
        ({"family": None}, "family: is missing"),
        ({"family": "seedance-9"}, "family: there is no family seedance-9"),
        ({"resolutions": "480p"}, "resolutions: must be a list of texts"),
        ({"resolutions": ["480p", "8k"]}, "resolutions: no model makes 8k"),
        ({"tier": "fast"}, "tier: must be one of default, flex"),
        ({"tier": True}, "tier: must be text"),
        ({"input_video": "yes"}, "input_video: must be true or false"),
        ({"audio": 1}, "audio: must be true or false"),
        ({"draft": "false"}, "draft: must be true or false"),
        ({"effective_from": None}, "effective_from: is missing"),
        ({"effective_from": "2026-1-28"}, "effective_from: must be a date such as 2026-01-28"),
        ({"effective_from": "2026-02-30"}, "effective_from: must be a date such as 2026-01-28"),
        ({"effective_from": "2026-01-28T00:00"}, "effective_from: must be a date such as"),
        ({"effective_from": "\u0662026-01-28"}, "effective_from: must be a date such as"),
        ({"effective_from": 20260128}, "effective_from: must be text"),
        ({"as_of": "today"}, "as_of: must be a date such as 2026-01-28"),
        ({"as_of": None}, "as_of: is missing"),
        ({"source": None}, "source: is missing"),
        ({"source": ""}, "source: must be a line of at most 500 characters"),
        ({"source": "two\nlines"}, "source: must be a line of at most 500 characters"),
        ({"source": "x" * 501}, "source: must be a line of at most 500 characters"),
        (
            {"per_million_tokens": None},
            "must have one of per_million_tokens, per_video, per_second, per_tool_call",
        ),
        ({"per_million_tokens": 4.3}, "per_million_tokens: put a decimal in quotes"),
        ({"per_video": 1e3}, "per_video: put a decimal in quotes"),
        ({"per_second": True}, "per_second: must be a decimal of the currency"),
        ({"per_second": [1]}, "per_second: must be a decimal of the currency"),
        ({"per_tool_call": "-1"}, "per_tool_call: must be a decimal of the currency from"),
        ({"per_tool_call": -1}, "per_tool_call: must be a decimal of the currency from"),
        ({"per_million_tokens": "1e2"}, "per_million_tokens: must be a decimal of the currency"),
        ({"per_million_tokens": "0.0000001"}, "per_million_tokens: must be a decimal of the"),
        ({"per_million_tokens": "10000000.000001"}, "per_million_tokens: is too large"),
        ({"per_million_tokens": 10_000_001}, "per_million_tokens: is too large"),
    ],
)
def test_a_row_that_can_not_be_right_is_refused_by_file_and_key(
    change: dict[str, object], problem: str
) -> None:
    said = problem_of(a_document(a_row(), a_row(**{"tier": "flex", **change})))

    key, _, words = problem.partition(": ")
    where = f"prices[1].{key}: {words}" if words else f"prices[1]: {problem}"
    assert said.startswith(f"one.yaml: {where}")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "book: is missing"),
        (a_document(book="Own"), "book: must be lower-case letters, digits and dashes"),
        (a_document(book="own/2"), "book: must be lower-case letters, digits and dashes"),
        (a_document(book="x" * 64), "book: must be lower-case letters, digits and dashes"),
        (a_document(currency="usd"), "currency: must be a code of three letters, such as USD"),
        (a_document(currency="USDX"), "currency: must be a code of three letters, such as USD"),
        ({"book": "own", "currency": "CNY"}, "prices: must be a list of rows"),
        (
            {"book": "own", "currency": "CNY", "prices": {"family": "x"}},
            "prices: must be a list of rows",
        ),
        (a_document("row"), "prices[0]: must be a mapping"),
        (a_document(a_row()) | {"rows": []}, "rows: unknown key"),
    ],
)
def test_a_file_that_is_no_book_is_refused(document: Mapping[str, object], problem: str) -> None:
    assert problem_of(document) == f"one.yaml: {problem}"


def test_a_book_may_be_empty() -> None:
    assert books_of(a_document())["own"].rows == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({}, {"tier": "flex"}),
        ({"tier": "default"}, {"audio": True}),
        ({"resolutions": ["480p", "720p"]}, {"resolutions": ["720p", "1080p"]}),
        ({"resolutions": ["480p"]}, {"input_video": True}),
        ({"input_video": True, "tier": "flex"}, {"draft": True, "tier": "flex"}),
    ],
)
def test_two_rows_that_hold_for_one_case_are_refused_whatever_their_order(
    one: dict[str, object], other: dict[str, object]
) -> None:
    for first, second in ((one, other), (other, one)):
        said = problem_of(
            a_document(a_row(tier="flex", family="seedance-2-5"), a_row(**first), a_row(**second))
        )
        assert said == (
            "one.yaml: prices[2]: prices[1] has a price for the same case from 2026-01-28 on; "
            "give each its own conditions or date"
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tier": "default"}, {"tier": "flex"}),
        ({"resolutions": ["480p"]}, {"resolutions": ["720p"]}),
        ({"input_video": True}, {"input_video": False}),
        ({"audio": True}, {"audio": False}),
        ({"draft": True}, {"draft": False}),
        ({}, {"family": "seedance-2-5"}),
        ({}, {"effective_from": "2026-01-29"}),
    ],
)
def test_rows_of_different_cases_or_days_stand_side_by_side(
    one: dict[str, object], other: dict[str, object]
) -> None:
    assert len(books_of(a_document(a_row(**one), a_row(**other)))["own"].rows) == 2


def test_rows_of_a_later_file_go_before_those_of_an_earlier_one() -> None:
    books = books_of(
        a_document(a_row(per_million_tokens=46)),
        a_document(a_row(per_million_tokens=40, resolutions=["720p"])),
    )
    prices = list_prices(books)

    def charged(resolution: str) -> int:
        case = a_case(resolution=resolution)
        return prices.find(case, "ark", NOW_MS, some_usage()).charge.million_tokens_micros

    assert charged("720p") == 40_000_000
    assert charged("480p") == 46_000_000


def test_a_file_may_add_to_a_shipped_book_and_not_change_its_currency() -> None:
    own = a_document(a_row(family="seedance-2-5", resolutions=["1080p"]), book=USD)
    shipped = a_document(a_row(family="seedance-2-5"), book=USD, currency="USD")

    assert len(books_of(shipped, own | {"currency": "USD"})[USD].rows) == 2
    assert problem_of(shipped, own) == "two.yaml: currency: the book byteplus-usd is in USD"


def test_the_second_of_two_files_is_the_one_that_is_named() -> None:
    said = problem_of(a_document(a_row()), a_document(a_row(per_video=1.5)))

    assert said == "two.yaml: prices[0].per_video: put a decimal in quotes"


def test_a_day_begins_at_midnight_of_utc() -> None:
    (row,) = books_of(a_document(a_row(effective_from="1970-01-02")))["own"].rows

    assert row.effective_at_ms == DAY_MS


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**8),
    st.floats(),
    st.sampled_from(
        ["480p", "720p", "flex", "default", "2026-01-28", "seedance-2-0", "own", "CNY"]
    ),
    st.text(max_size=5),
    st.lists(st.sampled_from(["480p", "720p", 1, None]), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
)
KEYS = st.sampled_from(
    ["family", "effective_from", "per_million_tokens", "per_video", "source", "as_of", "tier",
     "resolutions", "input_video", "audio", "draft", "spare"]
)  # fmt: skip


@given(
    st.lists(
        st.builds(lambda more: {**a_row(), **more}, st.dictionaries(KEYS, VALUES, max_size=3))
    ),
    st.dictionaries(st.sampled_from(["book", "currency", "prices", "spare"]), VALUES, max_size=1),
)
def test_whatever_a_file_holds_is_read_or_refused(
    rows: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    document = {**a_document(*rows), **more}
    try:
        books = books_of(document)
    except PriceError as error:
        refusal = str(error)
    else:
        check_whole_prices(books)
        return
    assert refusal.startswith("one.yaml: ")


def check_whole_prices(books: Mapping[str, Book]) -> None:
    for book in books.values():
        for row in book.rows:
            micros = [getattr(row.prices, name) for name in UnitPrices.__slots__]
            assert all(type(each) is int and each >= 0 for each in micros)
