"""What a task costs: a quote before it is sent, one hold, and one resolution of that hold.

The hold is taken in the transaction that admits the task. It is resolved once: *settled* on the
usage that the upstream reports, at the price frozen when it was quoted, or *released*. Both need an
`Evidence`: nobody lets go of money because time has passed or an exception was raised.

Every amount exists twice: `cost` is what the upstream will bill, in its price book's currency;
`charge` is what budgets and reports count, in the deployment's. Rounding is up, and by one function
for quote and settlement, so that a task which uses what was quoted is charged what was held.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.money import ceil_div

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What a task consumes, by quote or by the upstream's report. `seconds` are of output video."""

    tokens: int
    seconds: int
    videos: int = 1
    tool_calls: int = 0


NO_USAGE: Final = Usage(tokens=0, seconds=0, videos=0)


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """Micro-units per unit of usage."""

    million_tokens_micros: int = 0
    video_micros: int = 0
    second_micros: int = 0
    tool_call_micros: int = 0

    def amount(self, usage: Usage) -> int:
        """Return the price of `usage` in micro-units, a fraction rounded up."""
        return (
            ceil_div(usage.tokens * self.million_tokens_micros, _MILLION)
            + usage.videos * self.video_micros
            + usage.seconds * self.second_micros
            + usage.tool_calls * self.tool_call_micros
        )


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one task, frozen when it is admitted: no later change of a book touches it."""

    version: str
    """Which row of which book, discount, rate and markup: equal versions are equal prices."""
    cost_currency: str
    cost: UnitPrices
    charge_currency: str
    charge: UnitPrices

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def price_from_json(stored: Mapping[str, object]) -> Price:
    """Return the price that `Price.as_json` wrote."""
    fields = dict(stored)
    for name in ("cost", "charge"):
        units = fields[name]
        assert isinstance(units, Mapping)  # noqa: S101 - as_json wrote it
        fields[name] = UnitPrices(**units)
    return Price(**fields)  # type: ignore[arg-type]


FREE: Final = Price("off", "XXX", UnitPrices(), "XXX", UnitPrices())
"""What everything costs where pricing is off. XXX is ISO 4217's word for no currency."""


@dataclass(frozen=True, slots=True)
class Quote:
    """The bounds of what a task may use, what of it is held, and at which price."""

    low: Usage
    high: Usage
    held: Usage
    """`high`, or a typical value where the length is left open and the deployment says so."""
    price: Price

    @property
    def hold_micros(self) -> int:
        """The charge that is held."""
        return self.price.charge.amount(self.held)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was held for a task when it was admitted.

    `day_start_ms` and `month_start_ms` name the windows of admission: budgets of these windows bear
    the task, whenever it settles.
    """

    task_id: str
    project_id: str
    key_id: str
    held: Usage
    price: Price
    at_ms: int
    day_start_ms: int
    month_start_ms: int

    @property
    def hold_micros(self) -> int:
        return self.price.charge.amount(self.held)


class EvidenceKind(StrEnum):
    """Why a hold may be resolved."""

    REJECTED = "rejected"  # the upstream's complete and definite no
    NOT_SENT = "not_sent"  # the transport proves that no byte left
    ENDED = "ended"  # the upstream showed the task in a terminal state
    CANCELLED = "cancelled"  # the upstream took our cancel of a queued task
    ABSENT = "absent"  # the upstream's lists prove that the task never existed
    DISPUTED = "disputed"  # its task can't be told from another project's
    OPERATOR = "operator"  # a named operator's act
    POLICY = "policy"  # the configured end of an unknown submission's wait


@dataclass(frozen=True, slots=True)
class Evidence:
    """What proves how a task ended. `detail` goes to the ledger: ids and counts, no secrets."""

    kind: EvidenceKind
    detail: str = ""


class EntryKind(StrEnum):
    """What a row of the ledger does. A task has one hold, one settle or release, and its losses."""

    HOLD = "hold"
    SETTLE = "settle"
    RELEASE = "release"
    LOSS = "loss"  # the upstream bills for it, and no project can be charged


class Outcome(StrEnum):
    """How a hold was resolved."""

    SETTLED = "settled"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The one end of a hold. `usage` and both amounts are zero for a release."""

    outcome: Outcome
    usage: Usage
    charge_micros: int
    cost_micros: int
    evidence: Evidence
    is_estimated: bool = False
    """The upstream reported no usable tokens: the quote was charged, and an alarm raised."""


def settle(price: Price, held: Usage, reported: Usage | None, evidence: Evidence) -> Resolution:
    """Return the settlement of a success on what the upstream reported.

    Without a positive number of tokens, `reported` is None: what was quoted is charged, as
    `estimated`, because a success is never free. It may be more than was held: an overage, which is
    booked and seen, since the upstream has billed it already.
    """
    usage = held if reported is None else reported
    return Resolution(
        Outcome.SETTLED,
        usage,
        price.charge.amount(usage),
        price.cost.amount(usage),
        evidence,
        is_estimated=reported is None,
    )


def release(evidence: Evidence) -> Resolution:
    """Return the release of a whole hold."""
    return Resolution(Outcome.RELEASED, NO_USAGE, 0, 0, evidence)
