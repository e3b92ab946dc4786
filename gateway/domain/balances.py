"""Balances: what an account has held and spent in a window, and whether a limit leaves room.

A balance is a projection of the ledger: the sum of the entries of the tasks that were admitted in
its window. The auditor recomputes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.billing import Usage
from gateway.domain.limits import Account, Limit, Metric, Window


@dataclass(frozen=True, slots=True)
class Amounts:
    """One signed amount of each metric that a budget can count."""

    micros: int = 0
    tokens: int = 0
    seconds: int = 0
    videos: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.micros + other.micros,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.videos + other.videos,
        )

    def __neg__(self) -> "Amounts":
        return Amounts(-self.micros, -self.tokens, -self.seconds, -self.videos)

    def of(self, metric: Metric) -> int:
        """Return the amount that a budget of `metric` counts."""
        amount: int = getattr(self, _FIELD_OF[metric])
        return amount


_FIELD_OF: Final = {
    Metric.MONEY: "micros",
    Metric.TOKENS: "tokens",
    Metric.SECONDS: "seconds",
    Metric.VIDEOS: "videos",
}


def amounts_of(micros: int, usage: Usage) -> Amounts:
    """Return what a task with this charge and usage adds to a balance."""
    return Amounts(micros, usage.tokens, usage.seconds, usage.videos)


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has in one window. `tasks_count` is kept in the window `ever` alone."""

    account: Account
    window: Window
    start_ms: int
    held: Amounts = Amounts()
    spent: Amounts = Amounts()
    tasks_count: int = 0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that leaves no room, and the figures that say so."""

    limit: Limit
    asked: int
    held: int
    spent: int


Balances = Mapping[tuple[Account, Window], Balance]


def by_window(balances: Iterable[Balance]) -> Balances:
    return {(balance.account, balance.window): balance for balance in balances}


def find_exceeded(limits: Sequence[Limit], balances: Balances, asked: Amounts) -> Exceeded | None:
    """Return the first limit that `asked`, and one more task, would pass; None if there is room.

    Rates are not looked at here: they are decided before a transaction begins.
    """
    for limit in limits:
        if limit.metric is Metric.RPM:
            continue
        balance = balances.get((limit.account, limit.window or Window.EVER))
        if limit.metric is Metric.TASKS:
            exceeded = Exceeded(limit, 1, balance.tasks_count if balance else 0, 0)
        else:
            held = balance.held.of(limit.metric) if balance else 0
            spent = balance.spent.of(limit.metric) if balance else 0
            exceeded = Exceeded(limit, asked.of(limit.metric), held, spent)
        if exceeded.asked + exceeded.held + exceeded.spent > limit.cap:
            return exceeded
    return None
