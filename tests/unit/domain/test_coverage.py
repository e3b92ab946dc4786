"""Which cases the families allow, and how gaps between the prices are told."""

import pytest

from gateway.domain.billing import Usage
from gateway.domain.coverage import find_gaps, list_cases
from gateway.domain.models import Catalog
from gateway.domain.prices import Case, PriceList
from gateway.errors import PriceNotFound
from tests.support.pricing import (
    CNY,
    NOW_MS,
    USD,
    JsonObject,
    a_document,
    a_row,
    books_of,
    list_prices,
    shipped_books,
)
from tests.support.requests import shipped_catalog

CATALOG: Catalog = shipped_catalog()


def told(family: str, prices: PriceList) -> list[str]:
    return [gap.describe() for gap in find_gaps(CATALOG.families[family], prices, "ark", NOW_MS)]


def price_rows(family: str, *rows: JsonObject) -> PriceList:
    """Return prices of a family that are these rows, each from a file of its own."""
    named = [a_row(**{"family": family, **row}) for row in rows]
    return list_prices(books_of(*(a_document(row) for row in named)))


def has_price(prices: PriceList, case: Case) -> bool:
    try:
        prices.find(case, "ark", NOW_MS, Usage(tokens=1, seconds=1))
    except PriceNotFound:
        return False
    return True


@pytest.mark.parametrize("family", [name for name in CATALOG.families if name != "house-model"])
def test_the_list_prices_lack_one_case_that_is_known(family: str) -> None:
    assert told(family, list_prices(shipped_books(), CNY)) == []
    lacking = [" at 1080p"] if family == "seedance-2-5" else []
    assert told(family, list_prices(shipped_books(), USD)) == lacking


@pytest.mark.parametrize(
    ("family", "rows", "expected"),
    [
        ("seedance-2-0", [{}], []),
        ("seedance-2-0", [{"family": "seedance-2-5"}], [""]),
        ("seedance-2-0", [{"effective_from": "2199-01-01"}], [""]),
        ("seedance-2-0", [{"tier": "flex"}], [""]),
        ("seedance-2-0", [{"input_video": False}], [" with input video"]),
        ("seedance-2-0", [{"resolutions": ["480p", "720p"]}], [" at 1080p, 4k"]),
        (
            "seedance-2-0",
            [{"resolutions": ["480p", "720p"]}, {"resolutions": ["4k"], "input_video": True}],
            [" at 1080p", " at 4k without input video"],
        ),
        ("seedance-1-0-pro", [{"tier": "default"}], [" in the tier flex"]),
        ("seedance-1-0-pro", [{"input_video": False, "audio": True}], []),
        ("seedance-1-5-pro", [{"audio": True}], [" without audio"]),
        ("seedance-1-5-pro", [{"draft": False}], [" as a draft"]),
        (
            "seedance-1-5-pro",
            [{"tier": "default"}, {"audio": True, "tier": "flex"}],
            [" without audio in the tier flex"],
        ),
        ("house-model", [{"resolutions": ["480p"]}], []),
        ("house-model", [{"input_video": False}], [" with input video"]),
    ],
)
def test_a_gap_is_told_by_what_sets_it_apart(
    family: str, rows: list[JsonObject], expected: list[str]
) -> None:
    assert told(family, price_rows(family, *rows)) == expected


@pytest.mark.parametrize("family", CATALOG.families)
@pytest.mark.parametrize("left_out", range(4))
def test_gaps_hold_just_the_cases_without_a_price(family: str, left_out: int) -> None:
    rows: list[JsonObject] = [
        {"resolutions": ["480p"], "tier": "default"},
        {"resolutions": ["1080p"], "input_video": False},
        {"resolutions": ["720p"], "audio": True, "tier": "flex"},
        {"resolutions": ["480p"], "draft": True, "input_video": True, "tier": "flex"},
    ]
    del rows[left_out]
    prices = price_rows(family, *rows)

    gaps = find_gaps(CATALOG.families[family], prices, "ark", NOW_MS)

    for case in list_cases(CATALOG.families[family]):
        assert any(gap.matches(case) for gap in gaps) is not has_price(prices, case)


def test_only_what_the_rules_allow_is_a_case() -> None:
    draft_cases = [
        case for case in list_cases(CATALOG.families["seedance-1-5-pro"]) if case.is_draft
    ]
    lite = list_cases(CATALOG.families["seedance-1-0-lite-t2v"])

    assert {case.resolution for case in draft_cases} == {"480p"}
    assert {(case.tier, case.has_input_video, case.has_audio) for case in lite} == {
        ("default", False, None)
    }
    assert [case.resolution for case in lite] == ["480p", "720p", "1080p"]
