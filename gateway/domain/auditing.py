"""What the books must agree on, task by task: the frozen price makes the amounts.

The rest of the audit compares rows and sums, which the database does by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.billing import EvidenceKind, Outcome, Price, Usage
from gateway.domain.tasks import Event

_TOOL_CALLS_MAX: Final = 1000

_UNSHOWN: Final = "is settled on what it used, and does not show that"
_UNPROVED: Final = (Event.ABSENT, Event.VANISHED)
"""By these a task may fail while its hold waits; what resolves it comes later."""
_REFUSED: Final = (Event.REFUSED, Event.REFUSED_LATE, Event.ABSENT)
ENDS: Final[Mapping[tuple[Outcome | None, EvidenceKind | None], Sequence[Event]]] = {
    (None, None): _UNPROVED,
    (Outcome.SETTLED, EvidenceKind.ENDED): (Event.SUCCEEDED, *_UNPROVED),
    (Outcome.SETTLED, EvidenceKind.OPERATOR): _UNPROVED,
    (Outcome.SETTLED, EvidenceKind.POLICY): (Event.ABSENT,),
    (Outcome.RELEASED, EvidenceKind.ENDED): (
        Event.FAILED,
        Event.CANCELLED,
        Event.EXPIRED,
        *_UNPROVED,
    ),
    (Outcome.RELEASED, EvidenceKind.CANCELLED): (Event.CANCELLED,),
    (Outcome.RELEASED, EvidenceKind.REJECTED): _REFUSED,
    (Outcome.RELEASED, EvidenceKind.NOT_SENT): _REFUSED,
    (Outcome.RELEASED, EvidenceKind.ABSENT): (Event.ABSENT,),
    (Outcome.RELEASED, EvidenceKind.DISPUTED): (Event.ABSENT,),
    (Outcome.RELEASED, EvidenceKind.OPERATOR): _UNPROVED,
    (Outcome.RELEASED, EvidenceKind.POLICY): (Event.ABSENT,),
}
"""What may have become of the hold of a task, by which evidence, and the events that ended it.

A task that failed without evidence may be charged: an operator said so, or its upstream showed
later that it had succeeded. Nothing but a success is charged otherwise.
"""


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


def find_wrong_usage(
    shown: Usage | None, held: Usage, used: Usage, *, is_estimated: bool
) -> str | None:
    """Return how a settlement is not of what its task shows that it used; None: it shows nothing.

    `used` comes without calls of tools, which are not on record.
    """
    if is_estimated != (shown is None):
        return "is settled on its quote, and shows what it used" if is_estimated else _UNSHOWN
    due = replace(held if shown is None else shown, tool_calls=0)
    if used == due:
        return None
    return (
        f"{used.tokens} tokens, {used.seconds} s and {used.videos} videos are settled, it shows "
        f"{due.tokens}, {due.seconds} and {due.videos}"
    )


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
