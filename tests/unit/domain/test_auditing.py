from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.auditing import ENDS, find_wrong_charge, find_wrong_hold, find_wrong_usage
from gateway.domain.billing import EvidenceKind, Outcome, Price, UnitPrices, Usage
from gateway.domain.tasks import TERMINAL, TRANSITIONS, Event
from tests.support.pricing import a_price, some_usage

UNITS = st.builds(UnitPrices, *[st.integers(0, 10**9)] * 4)
USAGES = st.builds(
    Usage, tokens=st.integers(0, 10**9), seconds=st.integers(0, 60), videos=st.just(1)
)


def a_price_of(charge: UnitPrices, cost: UnitPrices) -> Price:
    return Price("v", "USD", cost, "CNY", charge)


def test_a_hold_is_what_its_price_makes_of_the_quote() -> None:
    assert find_wrong_hold(a_price(), some_usage(), 735_075) is None


@pytest.mark.parametrize("hold_micros", [735_074, 735_076, 0])
def test_a_hold_that_is_off_by_a_micro_unit_is_told(hold_micros: int) -> None:
    said = find_wrong_hold(a_price(), some_usage(), hold_micros)

    assert said == f"{hold_micros} is held, by its price 735075"


@given(UNITS, UNITS, USAGES, st.integers(0, 1000))
def test_a_right_settlement_is_found_right_whatever_tools_it_called(
    charge: UnitPrices, cost: UnitPrices, usage: Usage, calls: int
) -> None:
    used = replace(usage, tool_calls=calls)

    wrong = find_wrong_charge(
        a_price_of(charge, cost), usage, charge.amount(used), cost.amount(used)
    )

    assert wrong is None


@given(
    st.builds(UnitPrices, *[st.integers(0, 10**9)] * 3),
    st.builds(UnitPrices, *[st.integers(0, 10**9)] * 3),
    USAGES,
    st.integers(-5, 5).filter(bool),
    st.booleans(),
)
def test_an_amount_that_is_off_is_told(
    charge: UnitPrices,
    cost: UnitPrices,
    usage: Usage,
    step: int,
    is_cost: bool,  # noqa: FBT001 - drawn
) -> None:
    charged, paid = charge.amount(usage), cost.amount(usage)
    if is_cost:
        paid += step
    else:
        charged += step

    said = find_wrong_charge(a_price_of(charge, cost), usage, charged, paid)

    assert said is not None
    assert ("cost" in said) is is_cost


def test_a_rest_that_is_no_number_of_tool_calls_is_told() -> None:
    price = a_price_of(UnitPrices(tool_call_micros=100), UnitPrices(tool_call_micros=10))

    assert find_wrong_charge(price, some_usage(), 300, 30) is None
    assert find_wrong_charge(price, some_usage(), 301, 30) is not None
    assert find_wrong_charge(price, some_usage(), 300, 40) is not None
    assert find_wrong_charge(price, some_usage(), -100, -10) is not None
    assert find_wrong_charge(price, some_usage(), 100_100, 10_010) is not None


def test_tool_calls_that_cost_and_are_not_charged_are_counted_by_the_cost() -> None:
    price = a_price_of(UnitPrices(1_000_000), UnitPrices(tool_call_micros=10))

    assert find_wrong_charge(price, some_usage(), 49_005, 30) is None
    assert find_wrong_charge(price, some_usage(), 49_005, 35) is not None


def test_every_evidence_releases_and_only_three_can_charge() -> None:
    released = {evidence for outcome, evidence in ENDS if outcome is Outcome.RELEASED}
    charging = {evidence for outcome, evidence in ENDS if outcome is Outcome.SETTLED}

    assert released == set(EvidenceKind)
    assert charging == {EvidenceKind.ENDED, EvidenceKind.OPERATOR, EvidenceKind.POLICY}


def test_only_a_success_is_charged_of_tasks_that_ended_by_evidence() -> None:
    charged = {
        event
        for (outcome, _), events in ENDS.items()
        if outcome is Outcome.SETTLED
        for event in events
    }

    assert charged == {Event.SUCCEEDED, Event.ABSENT, Event.VANISHED}
    assert set(ENDS[None, None]) == {Event.ABSENT, Event.VANISHED}


def test_whatever_ends_a_task_ends_its_hold_in_some_way() -> None:
    ending = {event for (_, event), state in TRANSITIONS.items() if state in TERMINAL}

    assert {event for events in ENDS.values() for event in events} == ending


@pytest.mark.parametrize(
    ("shown", "used", "is_estimated"),
    [
        (Usage(48_000, 5), Usage(48_000, 5), False),
        (Usage(48_000, 5, tool_calls=3), Usage(48_000, 5), False),
        (None, some_usage(), True),
    ],
)
def test_a_settlement_of_what_its_task_shows_is_right(
    shown: Usage | None, used: Usage, *, is_estimated: bool
) -> None:
    assert find_wrong_usage(shown, some_usage(), used, is_estimated=is_estimated) is None


@pytest.mark.parametrize(
    ("shown", "used", "is_estimated", "told"),
    [
        (
            Usage(48_000, 5),
            Usage(47_999, 5),
            False,
            "47999 tokens, 5 s and 1 videos are settled, it shows 48000, 5 and 1",
        ),
        (
            Usage(48_000, 5),
            Usage(48_000, 4),
            False,
            "48000 tokens, 4 s and 1 videos are settled, it shows 48000, 5 and 1",
        ),
        (Usage(48_000, 5), some_usage(), True, "is settled on its quote, and shows what it used"),
        (None, Usage(48_000, 5), False, "is settled on what it used, and does not show that"),
        (
            None,
            Usage(48_000, 5),
            True,
            "48000 tokens, 5 s and 1 videos are settled, it shows 49005, 5 and 1",
        ),
    ],
)
def test_a_settlement_of_anything_else_is_told(
    shown: Usage | None, used: Usage, told: str, *, is_estimated: bool
) -> None:
    assert find_wrong_usage(shown, some_usage(), used, is_estimated=is_estimated) == told
