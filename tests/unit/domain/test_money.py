from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.money import ceil_div, format_amount, parse_amount

AMOUNTS = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(-(10**24), 10**24), st.integers(1, 10**12))
def test_a_quotient_is_rounded_up(dividend: int, divisor: int) -> None:
    quotient = ceil_div(dividend, divisor)

    assert quotient - 1 < Fraction(dividend, divisor) <= quotient


def test_a_quotient_too_large_for_a_float_is_exact() -> None:
    assert ceil_div(2**62 + 1, 2) == 2**61 + 1
    assert ceil_div(10**24 + 1, 10**6) == 10**18 + 1


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("12.5", 12_500_000),
        ("0.1", 100_000),
        ("00.000001", 1),
        ("1.10", 1_100_000),
        ("999999999999.999999", 999_999_999_999_999_999),
    ],
)
def test_a_decimal_is_read_to_the_micro_unit(text: str, micros: int) -> None:
    assert parse_amount(text) == micros


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", "-1", "+1", "1e3", "1E-7", "1,5", "1_0", ".5", "5.", "0.0000001", "NaN",
     "inf", "\u0663", "1.\u0663", "0x1", "1" * 13, "1" * 100_000],
)  # fmt: skip
def test_what_is_no_decimal_of_a_currency_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a decimal of the currency from 0 to 999999999999"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.000000"),
        (12_500_000, "12.500000"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (-1_000_000, "-1.000000"),
        (-(2**63), "-9223372036854.775808"),
    ],
)
def test_an_amount_is_written_with_six_decimals(micros: int, text: str) -> None:
    assert format_amount(micros) == text


@given(st.integers(0, 10**18 - 1))
def test_what_was_written_is_read_as_it_was(micros: int) -> None:
    assert parse_amount(format_amount(micros)) == micros


@given(AMOUNTS)
def test_a_written_amount_is_the_decimal_of_it(micros: int) -> None:
    assert Decimal(format_amount(micros)) == Decimal(micros).scaleb(-6)


@given(st.decimals(0, 999_999_999_999, places=6))
def test_a_decimal_is_read_without_rounding(amount: Decimal) -> None:
    micros = amount.scaleb(6).to_integral_exact(ROUND_CEILING)

    assert parse_amount(f"{amount:f}") == micros
