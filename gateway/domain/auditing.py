"""What the books must agree on, task by task: the frozen price makes the amounts.

The rest of the audit compares rows and sums, which the database does by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.billing import Price, Usage

_TOOL_CALLS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found: how many differences, and the first of them in a sentence each."""

    count: int = 0
    named: Sequence[str] = ()


def find_wrong_hold(price: Price, held: Usage, hold_micros: int) -> str | None:
    """Return how a hold is not what its price makes of the quote."""
    due_micros = price.charge.amount(held)
    if hold_micros == due_micros:
        return None
    return f"{hold_micros} is held, by its price {due_micros}"


def find_wrong_charge(
    price: Price, usage: Usage, charge_micros: int, cost_micros: int
) -> str | None:
    """Return how charge or cost are not what the price makes of the usage that was settled.

    `usage` comes without calls of tools, which are not on record: their number is what is left of
    the amount, and the same for both.
    """
    used = replace(usage, tool_calls=_count_tool_calls(price, usage, charge_micros, cost_micros))
    due_micros = price.charge.amount(used)
    if charge_micros != due_micros:
        return f"{charge_micros} is charged, by its price {due_micros}"
    due_micros = price.cost.amount(used)
    if cost_micros != due_micros:
        return f"its cost is {cost_micros}, by its price {due_micros}"
    return None


def _count_tool_calls(price: Price, usage: Usage, charge_micros: int, cost_micros: int) -> int:
    for units, amount in ((price.charge, charge_micros), (price.cost, cost_micros)):
        if units.tool_call_micros:
            count = (amount - units.amount(usage)) // units.tool_call_micros
            return min(max(count, 0), _TOOL_CALLS_MAX)
    return 0
