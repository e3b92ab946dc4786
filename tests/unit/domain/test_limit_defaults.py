from collections.abc import Sequence
from random import Random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.limit_defaults import (
    NO_DEFAULTS,
    DefaultLimit,
    LimitDefaults,
    effective_limits,
    find_repeated,
)
from gateway.domain.limits import (
    BUDGETS,
    Account,
    Limit,
    LimitSetting,
    Metric,
    Scope,
    Window,
    accounts_of,
)

ACCOUNTS: Final = accounts_of("p", "k")
ORGANIZATION, PROJECT, KEY = ACCOUNTS
DEFAULTS: Final = LimitDefaults(
    organization=(DefaultLimit(Metric.MONEY, Window.MONTH, 1000),),
    project=(
        DefaultLimit(Metric.RPM, None, 60),
        DefaultLimit(Metric.MONEY, Window.DAY, 10),
        DefaultLimit(Metric.MONEY, Window.MONTH, 100),
    ),
    key=(DefaultLimit(Metric.TASKS, None, 5),),
)

_slots: Final = st.sampled_from(
    [(metric, window) for metric in BUDGETS for window in Window]
    + [(Metric.TASKS, None), (Metric.RPM, None)]
)
_defaults: Final = st.dictionaries(_slots, st.integers(0, 9), max_size=5).map(
    lambda caps: tuple(DefaultLimit(metric, window, cap) for (metric, window), cap in caps.items())
)
_stored: Final = st.dictionaries(
    st.tuples(st.sampled_from([*ACCOUNTS, Account(Scope.PROJECT, "other")]), _slots),
    st.one_of(st.none(), st.integers(10, 19)),
    max_size=10,
).map(
    lambda caps: [
        LimitSetting(account, metric, window, cap)
        for (account, (metric, window)), cap in caps.items()
    ]
)


def test_without_anything_set_the_defaults_bind() -> None:
    assert effective_limits(ACCOUNTS, [], DEFAULTS) == [
        Limit(ORGANIZATION, Metric.MONEY, Window.MONTH, 1000),
        Limit(PROJECT, Metric.MONEY, Window.DAY, 10),
        Limit(PROJECT, Metric.MONEY, Window.MONTH, 100),
        Limit(PROJECT, Metric.RPM, None, 60),
        Limit(KEY, Metric.TASKS, None, 5),
    ]


def test_no_limit_exists_until_it_is_set() -> None:
    assert effective_limits(ACCOUNTS, [], NO_DEFAULTS) == []


def test_what_is_set_takes_the_place_of_the_default_of_its_metric_and_window() -> None:
    stored = [
        LimitSetting(PROJECT, Metric.MONEY, Window.DAY, 0),
        LimitSetting(PROJECT, Metric.MONEY, Window.EVER, 7),
    ]

    assert effective_limits([PROJECT], stored, DEFAULTS) == [
        Limit(PROJECT, Metric.MONEY, Window.DAY, 0),
        Limit(PROJECT, Metric.MONEY, Window.MONTH, 100),
        Limit(PROJECT, Metric.MONEY, Window.EVER, 7),
        Limit(PROJECT, Metric.RPM, None, 60),
    ]


def test_a_cap_of_none_lifts_the_default() -> None:
    stored = [
        LimitSetting(KEY, Metric.TASKS, None, None),
        LimitSetting(KEY, Metric.RPM, None, None),
    ]

    assert effective_limits([KEY], stored, DEFAULTS) == []


def test_what_is_set_for_others_binds_nobody_else() -> None:
    others = [
        LimitSetting(Account(Scope.KEY, "other"), Metric.TASKS, None, 1),
        LimitSetting(Account(Scope.PROJECT, "k"), Metric.TASKS, None, 1),
    ]

    assert effective_limits([KEY], others, DEFAULTS) == [Limit(KEY, Metric.TASKS, None, 5)]


def test_a_default_given_twice_is_found() -> None:
    twice = (*DEFAULTS.project, DefaultLimit(Metric.MONEY, Window.DAY, 11))

    assert find_repeated(twice) == twice[-1]
    assert find_repeated(DEFAULTS.project) is None


@given(_stored, _defaults, _defaults, _defaults)
def test_every_slot_is_bound_by_what_is_set_or_else_by_its_default(
    stored: list[LimitSetting],
    organization: tuple[DefaultLimit, ...],
    project: tuple[DefaultLimit, ...],
    key: tuple[DefaultLimit, ...],
) -> None:
    by_account = dict(zip(ACCOUNTS, (organization, project, key), strict=True))

    bound = effective_limits(ACCOUNTS, stored, LimitDefaults(organization, project, key))

    assert len({(one.account, one.metric, one.window) for one in bound}) == len(bound)
    for account, defaults in by_account.items():
        for metric in Metric:
            for window in (None, *Window):
                found = [
                    one.cap
                    for one in bound
                    if (one.account, one.metric, one.window) == (account, metric, window)
                ]
                assert found == expected_caps(account, metric, window, stored, defaults)


def expected_caps(
    account: Account,
    metric: Metric,
    window: Window | None,
    stored: Sequence[LimitSetting],
    defaults: Sequence[DefaultLimit],
) -> list[int]:
    """Return the cap, if any, by asking what is set first."""
    for one in stored:
        if (one.account, one.metric, one.window) == (account, metric, window):
            return [] if one.cap is None else [one.cap]
    return [one.cap for one in defaults if (one.metric, one.window) == (metric, window)]


@given(_stored, _defaults, st.randoms(use_true_random=False))
def test_the_order_in_which_limits_are_stored_makes_no_difference(
    stored: list[LimitSetting], project: tuple[DefaultLimit, ...], random: Random
) -> None:
    shuffled = list(stored)
    random.shuffle(shuffled)
    defaults = LimitDefaults(project=project)

    assert effective_limits(ACCOUNTS, shuffled, defaults) == effective_limits(
        ACCOUNTS, stored, defaults
    )
