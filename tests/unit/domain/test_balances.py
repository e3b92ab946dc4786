from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.balances import (
    Amounts,
    Balance,
    Exceeded,
    amounts_of,
    by_window,
    find_exceeded,
)
from gateway.domain.limits import BUDGETS, Account, Limit, Metric, Scope, Window, accounts_of
from tests.support.pricing import some_usage

ORGANIZATION, PROJECT, KEY = ACCOUNTS = accounts_of("proj", "key")
ASKED: Final = Amounts(micros=700, tokens=70, seconds=7, videos=1)
NOTHING: Final = Amounts()
STARTS: Final = {Window.DAY: 2000, Window.MONTH: 1000, Window.EVER: 0}

SMALL = st.integers(0, 20)
AMOUNTS = st.builds(Amounts, SMALL, SMALL, SMALL, SMALL)


def a_balance(
    account: Account = ORGANIZATION,
    window: Window = Window.MONTH,
    *,
    held: Amounts = NOTHING,
    spent: Amounts = NOTHING,
    tasks_count: int = 0,
) -> Balance:
    return Balance(account, window, STARTS[window], held, spent, tasks_count)


def a_limit(
    metric: Metric,
    cap: int,
    window: Window | None = Window.MONTH,
    account: Account = ORGANIZATION,
) -> Limit:
    return Limit(account, metric, window, cap)


def test_amounts_add_up_and_cancel_out() -> None:
    total = ASKED + Amounts(1, 2, 3, 4)

    assert total == Amounts(701, 72, 10, 5)
    assert NOTHING == ASKED + -ASKED
    assert -Amounts(1, 2, 3, 4) == Amounts(-1, -2, -3, -4)


def test_a_task_adds_its_charge_and_its_usage() -> None:
    assert amounts_of(735_075, some_usage(tool_calls=3)) == Amounts(735_075, 49_005, 5, 1)


@pytest.mark.parametrize(
    ("metric", "amount"),
    [(Metric.MONEY, 700), (Metric.TOKENS, 70), (Metric.SECONDS, 7), (Metric.VIDEOS, 1)],
)
def test_each_budget_counts_its_own_amount(metric: Metric, amount: int) -> None:
    assert ASKED.of(metric) == amount


@pytest.mark.parametrize("metric", BUDGETS)
@pytest.mark.parametrize("window", list(Window))
@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_budget_has_room_up_to_its_cap_and_not_one_more(
    metric: Metric, window: Window, account: Account
) -> None:
    held, spent = Amounts(11, 11, 11, 11), Amounts(5, 5, 5, 5)
    known = by_window([a_balance(account, window, held=held, spent=spent)])
    asked = ASKED.of(metric)
    fits = a_limit(metric, asked + 16, window, account)
    full = a_limit(metric, asked + 15, window, account)

    assert find_exceeded([fits], known, ASKED) is None
    assert find_exceeded([full], known, ASKED) == Exceeded(full, asked, 11, 5)


def test_a_limit_looks_at_its_own_account_and_window_alone() -> None:
    used = Amounts(1000, 1000, 1000, 1000)
    known = by_window(
        a_balance(account, window, held=used)
        for account in ACCOUNTS
        for window in Window
        if (account, window) != (PROJECT, Window.DAY)
    )

    assert find_exceeded([a_limit(Metric.MONEY, 700, Window.DAY, PROJECT)], known, ASKED) is None


def test_without_a_balance_nothing_is_used() -> None:
    limit = a_limit(Metric.VIDEOS, 0)

    assert find_exceeded([a_limit(Metric.VIDEOS, 1)], {}, ASKED) is None
    assert find_exceeded([limit], {}, ASKED) == Exceeded(limit, 1, 0, 0)


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_tasks_in_progress_are_counted_by_one_each(cap: int) -> None:
    limit = a_limit(Metric.TASKS, cap, None, KEY)
    # What they hold makes no difference.
    for count in range(5):
        known = by_window([a_balance(KEY, Window.EVER, held=ASKED, tasks_count=count)])
        refusal = Exceeded(limit, 1, count, 0) if count >= cap else None
        assert find_exceeded([limit], known, ASKED) == refusal
    refusal = Exceeded(limit, 1, 0, 0) if cap == 0 else None
    assert find_exceeded([limit], {}, ASKED) == refusal


def test_rates_are_decided_elsewhere() -> None:
    assert find_exceeded([a_limit(Metric.RPM, 0, None)], {}, ASKED) is None


def test_the_first_limit_without_room_is_told() -> None:
    limits = [
        a_limit(Metric.MONEY, 10_000),
        a_limit(Metric.RPM, 0, None),
        a_limit(Metric.SECONDS, 6, Window.DAY, PROJECT),
        a_limit(Metric.VIDEOS, 0, Window.EVER, KEY),
    ]

    exceeded = find_exceeded(limits, {}, ASKED)

    assert exceeded is not None
    assert exceeded.limit is limits[2]


@given(
    st.lists(
        st.builds(
            Limit,
            st.sampled_from(ACCOUNTS),
            st.sampled_from(BUDGETS),
            st.sampled_from(Window),
            st.integers(0, 60),
        ),
        max_size=6,
    ),
    st.lists(AMOUNTS, max_size=12),
)
def test_what_is_admitted_never_passes_a_cap(limits: list[Limit], asks: list[Amounts]) -> None:
    """Each one is held in all nine balances, and half of the held are spent in full."""
    held = spent = NOTHING
    for number, asked in enumerate(asks):
        known = by_window(
            a_balance(account, window, held=held, spent=spent)
            for account in ACCOUNTS
            for window in Window
        )
        total = held + spent + asked
        refusing = [limit for limit in limits if total.of(limit.metric) > limit.cap]
        exceeded = find_exceeded(limits, known, asked)

        assert (exceeded and exceeded.limit) == (refusing[0] if refusing else None)
        if exceeded is None and number % 2:
            spent += asked
        elif exceeded is None:
            held += asked
    assert all((held + spent).of(limit.metric) <= limit.cap for limit in limits)


def test_every_scope_has_an_account_of_its_own() -> None:
    assert [account.scope for account in ACCOUNTS] == list(Scope)
