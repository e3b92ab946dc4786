import json
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.billing import (
    FREE,
    NO_USAGE,
    Evidence,
    EvidenceKind,
    Outcome,
    Price,
    Quote,
    Reservation,
    UnitPrices,
    Usage,
    price_from_json,
    release,
    settle,
)
from gateway.domain.money import MICROS_MAX
from gateway.domain.prices import UNIT_PRICE_MICROS_MAX
from gateway.domain.quotes import TOKENS_MAX
from tests.support.pricing import ENDED, a_price, some_usage

MICROS = st.integers(0, UNIT_PRICE_MICROS_MAX)
UNITS = st.builds(UnitPrices, MICROS, MICROS, MICROS, MICROS)
USAGES = st.builds(
    Usage,
    tokens=st.integers(0, TOKENS_MAX),
    seconds=st.integers(0, 3600),
    videos=st.integers(0, 4),
    tool_calls=st.integers(0, 1000),
)
PRICES = st.builds(
    Price,
    version=st.text(max_size=20),
    cost_currency=st.sampled_from(["CNY", "USD"]),
    cost=UNITS,
    charge_currency=st.sampled_from(["CNY", "USD"]),
    charge=UNITS,
)


def a_reservation(price: Price, held: Usage) -> Reservation:
    return Reservation("cgt-1", "proj", "key", held, price, 3, 2, 1)


@given(UNITS, USAGES)
def test_an_amount_is_the_exact_sum_rounded_up_once(units: UnitPrices, usage: Usage) -> None:
    with localcontext(prec=60):
        exact = (
            Decimal(usage.tokens) * units.million_tokens_micros / 1_000_000
            + usage.videos * units.video_micros
            + usage.seconds * units.second_micros
            + usage.tool_calls * units.tool_call_micros
        )
        assert units.amount(usage) == exact.to_integral_value(ROUND_CEILING)


@given(UNITS, USAGES, USAGES)
def test_more_usage_is_never_cheaper(units: UnitPrices, usage: Usage, more: Usage) -> None:
    larger = Usage(
        usage.tokens + more.tokens,
        usage.seconds + more.seconds,
        usage.videos + more.videos,
        usage.tool_calls + more.tool_calls,
    )

    assert units.amount(usage) <= units.amount(larger)
    # Rounded up apart, two tasks cost what both cost together, or a micro-unit more.
    together = units.amount(usage) + units.amount(more) - units.amount(larger)
    assert together in {0, 1}


def test_the_largest_price_of_the_largest_task_fits_into_a_column() -> None:
    dearest = UnitPrices(*[UNIT_PRICE_MICROS_MAX] * 4)
    largest = Usage(TOKENS_MAX, 3600, 1, 1000)

    assert dearest.amount(largest) <= MICROS_MAX


@pytest.mark.parametrize(
    ("million_tokens_micros", "tokens", "micros"),
    [
        (46_000_000, 108_900, 5_009_400),
        (15_000_000, 49_005, 735_075),
        (7_000_000, 50_638, 354_466),
        (4_300_000, 50_638, 217_744),  # 217,743.4
        (1, 1, 1),
        (1, 1_000_000, 1),
        (1, 1_000_001, 2),
        (0, 1_000_000, 0),
    ],
)
def test_tokens_are_priced_by_the_million(
    million_tokens_micros: int, tokens: int, micros: int
) -> None:
    assert UnitPrices(million_tokens_micros).amount(Usage(tokens, 0)) == micros


def test_videos_seconds_and_calls_of_tools_have_prices_of_their_own() -> None:
    units = UnitPrices(0, 100, 10, 1)

    assert units.amount(Usage(tokens=10**9, seconds=3, videos=2, tool_calls=7)) == 237


@given(PRICES)
def test_a_price_is_read_as_it_was_stored(price: Price) -> None:
    assert price_from_json(json.loads(json.dumps(price.as_json()))) == price


@given(PRICES, USAGES)
def test_a_task_that_uses_what_is_held_is_charged_what_is_held(price: Price, held: Usage) -> None:
    reservation = a_reservation(price, held)
    quote = Quote(low=NO_USAGE, high=held, held=held, price=price)

    settled = settle(price, held, held, ENDED)

    assert settled.charge_micros == reservation.hold_micros == quote.hold_micros
    assert settled.cost_micros == price.cost.amount(held)
    assert settled.outcome is Outcome.SETTLED
    assert not settled.is_estimated


@given(PRICES, USAGES)
def test_a_success_without_tokens_is_charged_what_is_held_and_says_so(
    price: Price, held: Usage
) -> None:
    settled = settle(price, held, None, ENDED)

    assert settled == replace(settle(price, held, held, ENDED), is_estimated=True)


def test_a_success_without_tokens_is_never_free() -> None:
    assert settle(a_price(), some_usage(), None, ENDED).charge_micros == 735_075


@given(PRICES, USAGES, USAGES)
def test_what_was_reported_is_charged_also_if_it_is_more_than_was_held(
    price: Price, held: Usage, reported: Usage
) -> None:
    settled = settle(price, held, reported, ENDED)

    assert settled.usage == reported
    assert settled.charge_micros == price.charge.amount(reported)
    assert settled.cost_micros == price.cost.amount(reported)


def test_cost_and_charge_are_priced_apart() -> None:
    price = Price("v", "USD", UnitPrices(7_000_000), "CNY", UnitPrices(55_000_000))

    settled = settle(price, some_usage(), some_usage(tokens=1_000_001), ENDED)

    assert (settled.cost_micros, settled.charge_micros) == (7_000_007, 55_000_055)


def test_a_release_charges_nothing_and_keeps_its_evidence() -> None:
    evidence = Evidence(EvidenceKind.REJECTED, "InvalidParameter")

    released = release(evidence)

    assert released.outcome is Outcome.RELEASED
    assert released.usage == NO_USAGE == Usage(0, 0, 0, 0)
    assert (released.charge_micros, released.cost_micros) == (0, 0)
    assert released.evidence is evidence
    assert not released.is_estimated


@given(USAGES)
def test_without_pricing_everything_is_free(usage: Usage) -> None:
    assert settle(FREE, usage, usage, ENDED).charge_micros == 0
    assert a_reservation(FREE, usage).hold_micros == 0
