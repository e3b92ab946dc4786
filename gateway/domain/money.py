"""Money is whole micro-units, a millionth of a currency's unit. No amount is ever a float."""

import re
from typing import Final

MICROS_PER_UNIT: Final = 1_000_000
MICROS_MAX: Final = 2**62
"""The largest amount that is computed with: what a 64-bit column holds, with room for a sum."""

AMOUNT_MAX: Final = "999999999999.999999"
"""The largest amount that can be given."""

_AMOUNT: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\Z")


def ceil_div(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up: no fraction of a micro-unit is given away."""
    return -(-dividend // divisor)


def parse_amount(text: str) -> int:
    """Return the micro-units of a decimal such as `12.5`. Raises ValueError for anything else."""
    match = _AMOUNT.match(text)
    if match is None:
        raise ValueError(
            f"must be a decimal of the currency from 0 to {AMOUNT_MAX}, with six decimals at most"
        )
    return int(match[1]) * MICROS_PER_UNIT + int((match[2] or "").ljust(6, "0"))


def format_amount(micros: int) -> str:
    """Return the decimal of an amount, with six decimals: `12.500000`."""
    units, rest = divmod(abs(micros), MICROS_PER_UNIT)
    return f"{'-' if micros < 0 else ''}{units}.{rest:06d}"
