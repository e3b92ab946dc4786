"""Limits that configuration gives to whoever has none of his own.

A limit that was set for an account takes the place of the default of the same metric and window,
and a cap of None lifts it. Every other default of the account stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.limits import Account, Limit, LimitSetting, Metric, Scope, Window

Slot = tuple[Metric, Window | None]
"""What an account has one limit of."""

_METRICS: Final = tuple(Metric)
_WINDOWS: Final = (None, *Window)


@dataclass(frozen=True, slots=True)
class DefaultLimit:
    """A limit of everybody in a scope; `window` is None for `tasks` and `rpm`."""

    metric: Metric
    window: Window | None
    cap: int

    @property
    def slot(self) -> Slot:
        return self.metric, self.window


@dataclass(frozen=True, slots=True)
class LimitDefaults:
    """What the organization, each project and each key has."""

    organization: tuple[DefaultLimit, ...] = ()
    project: tuple[DefaultLimit, ...] = ()
    key: tuple[DefaultLimit, ...] = ()

    def of(self, scope: Scope) -> tuple[DefaultLimit, ...]:
        """Return the defaults of a scope."""
        match scope:
            case Scope.ORGANIZATION:
                return self.organization
            case Scope.PROJECT:
                return self.project
            case Scope.KEY:
                return self.key


NO_DEFAULTS: Final = LimitDefaults()


def find_repeated(defaults: Sequence[DefaultLimit]) -> DefaultLimit | None:
    """Return the first that names a metric and window once more."""
    seen: set[Slot] = set()
    for default in defaults:
        if default.slot in seen:
            return default
        seen.add(default.slot)
    return None


def effective_limits(
    accounts: Sequence[Account], stored: Sequence[LimitSetting], defaults: LimitDefaults
) -> Sequence[Limit]:
    """Return the limits that bind `accounts`, in their order, and each account's in one order.

    What is stored of other accounts is passed over.
    """
    return [limit for account in accounts for limit in _limits_of(account, stored, defaults)]


def _limits_of(
    account: Account, stored: Sequence[LimitSetting], defaults: LimitDefaults
) -> Sequence[Limit]:
    caps: dict[Slot, int | None] = {one.slot: one.cap for one in defaults.of(account.scope)}
    caps |= {(one.metric, one.window): one.cap for one in stored if one.account == account}
    return [
        Limit(account, metric, window, cap)
        for (metric, window), cap in sorted(caps.items(), key=lambda item: _rank(item[0]))
        if cap is not None
    ]


def _rank(slot: Slot) -> tuple[int, int]:
    metric, window = slot
    return _METRICS.index(metric), _WINDOWS.index(window)
