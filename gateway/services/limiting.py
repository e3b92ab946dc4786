"""Limits: what an account may use, what it has left, and the rates that are decided beforehand.

Budgets and tasks in progress are decided in the transaction that admits a task. A rate is decided
here, before a body is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.balances import Balances, by_window
from gateway.domain.keys import Principal
from gateway.domain.limits import (
    ORGANIZATION_ID,
    Account,
    Limit,
    LimitSetting,
    Metric,
    Scope,
    Window,
    accounts_of,
    format_cap,
    window_end_ms,
    window_start_ms,
)
from gateway.domain.money import ceil_div
from gateway.domain.projects import AuditEvent
from gateway.domain.rates import RateDecision, RateStanding, rates_of
from gateway.ports import Runtime
from gateway.services import admin
from gateway.services.admitting import chooser, zone_of
from gateway.storage import balances, limits

_SECOND_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit with what of it is used now.

    Of a rate, `spent` is what has not come free again yet; nothing of it is ever held.
    """

    limit: Limit
    spent: int
    held: int
    left: int
    resets_at_ms: int | None = None
    """When the window ends, or the whole rate is free again; None if that is never, or now."""


async def take_rate(runtime: Runtime, principal: Principal) -> RateDecision:
    """Let one submit through every rate that binds the key, or through none of them."""
    return await runtime.limiter.take(rates_of(await _find_limits(runtime, principal)))


async def look_at_rates(runtime: Runtime, principal: Principal) -> Sequence[RateStanding]:
    """Return what the rates that bind the key have left, and take nothing."""
    return await runtime.limiter.look(rates_of(await _find_limits(runtime, principal)))


async def list_key_use(runtime: Runtime, principal: Principal) -> Sequence[LimitUse]:
    """Return every limit that binds the key, its project's and the organization's included."""
    found = await _read_limits(runtime, principal.project_id, principal.key_id)
    used = await _list_use(runtime, found)
    now_ms = runtime.clock.now_ms()
    standings = await runtime.limiter.look(rates_of(found))
    return [*used, *(_use_of_rate(each, now_ms) for each in standings)]


async def list_use(runtime: Runtime, account: Account) -> Sequence[LimitUse]:
    """Return the limits of one account. A rate's use is known to the server alone: none is told."""
    stored = await runtime.db.read(limits.list_all)
    found = chooser(runtime.config)([account], stored)
    rates = [LimitUse(each, 0, 0, each.cap) for each in found if each.metric is Metric.RPM]
    return [*await _list_use(runtime, found), *rates]


async def set_limit(runtime: Runtime, actor: str, setting: LimitSetting) -> None:
    """Set a limit in place of an earlier one, or of the configuration's; with who did it."""
    now_ms = runtime.clock.now_ms()
    account = setting.account
    cap = "none" if setting.cap is None else format_cap(setting.metric, setting.cap)
    window = setting.window.value if setting.window is not None else "-"
    detail = f"metric={setting.metric.value} window={window} cap={cap}"
    subject = f"{account.scope.value}:{account.id}"
    event = AuditEvent(runtime.ids.new("evt", now_ms), now_ms, actor, "limit.set", subject, detail)
    await runtime.db.write(limits.put, setting, now_ms, event)
    runtime.limit_cache.clear()
    runtime.log.info(
        "limit.set",
        scope=account.scope.value,
        account_id=account.id,
        metric=setting.metric.value,
        window=window,
        cap=cap,
    )


async def list_all_use(runtime: Runtime) -> Sequence[LimitUse]:
    """Return the limits of the organization, of each project, and of keys with some of their own.

    A default that each key has is left out.
    """
    stored = await runtime.db.read(limits.list_all)
    accounts = [
        Account(Scope.ORGANIZATION, ORGANIZATION_ID),
        *(Account(Scope.PROJECT, each.id) for each in await admin.list_projects(runtime)),
        *(each.account for each in stored if each.account.scope is Scope.KEY),
    ]
    used = [await list_use(runtime, account) for account in dict.fromkeys(accounts)]
    return [each for uses in used for each in uses]


async def _find_limits(runtime: Runtime, principal: Principal) -> Sequence[Limit]:
    """Return the limits that bind the key, believed for less than a second."""
    now_s = runtime.clock.monotonic_s()
    known = runtime.limit_cache.find(principal.key_id, now_s)
    if known is not None:
        return known
    generation = runtime.limit_cache.generation
    found = await _read_limits(runtime, principal.project_id, principal.key_id)
    runtime.limit_cache.put(principal.key_id, found, now_s, generation)
    return found


async def _read_limits(runtime: Runtime, project_id: str, key_id: str) -> Sequence[Limit]:
    accounts = accounts_of(project_id, key_id)
    return chooser(runtime.config)(accounts, await runtime.db.read(limits.find, accounts))


async def _list_use(runtime: Runtime, found: Sequence[Limit]) -> Sequence[LimitUse]:
    """Return budgets and limits of tasks in progress, with what is used of them."""
    counted = [limit for limit in found if limit.metric is not Metric.RPM]
    if not counted:
        return []
    zone, now_ms = zone_of(runtime.config), runtime.clock.now_ms()
    starts = {window: window_start_ms(window, now_ms, zone) for window in Window}
    accounts = list(dict.fromkeys(limit.account for limit in counted))
    by_account = by_window(await runtime.db.read(balances.find, accounts, starts))
    ends = {window: window_end_ms(window, now_ms, zone) for window in Window}
    return [_use_of(limit, by_account, ends.get(limit.window or Window.EVER)) for limit in counted]


def _use_of(limit: Limit, known: Balances, end_ms: int | None) -> LimitUse:
    balance = known.get((limit.account, limit.window or Window.EVER))
    spent = held = 0
    if balance is not None and limit.metric is Metric.TASKS:
        held = balance.tasks_count
    elif balance is not None:
        spent, held = balance.spent.of(limit.metric), balance.held.of(limit.metric)
    return LimitUse(limit, spent, held, max(limit.cap - spent - held, 0), end_ms)


def _use_of_rate(standing: RateStanding, now_ms: int) -> LimitUse:
    """Return the figures that the headers `RateLimit` and `RateLimit-Policy` give of the rate."""
    cap, left = standing.limit.cap_per_minute, standing.remaining_count
    limit = Limit(standing.limit.account, Metric.RPM, None, cap)
    # In whole seconds, as it is told: rounded down, it would be told too early.
    whole_at_s = ceil_div(now_ms, _SECOND_MS) + standing.reset_s
    return LimitUse(limit, cap - left, 0, left, whole_at_s * _SECOND_MS if left < cap else None)
