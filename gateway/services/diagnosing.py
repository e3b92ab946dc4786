"""What an operator asks first: does this gateway have all that it needs, and if not, what to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.config import Config, UpstreamConfig
from gateway.domain.limit_defaults import effective_limits
from gateway.domain.limits import (
    BUDGETS,
    ORGANIZATION_ID,
    Account,
    LimitSetting,
    Scope,
    format_time,
)
from gateway.domain.projects import AuditEvent
from gateway.errors import ConfigurationError, GatewayError, UpstreamFault
from gateway.observability.logging import find_driver_code
from gateway.ports import Runtime, Upstream
from gateway.runtime import PEPPER_FILE, check_of_pepper, describe_wrong_pepper, read_pepper
from gateway.services.auditing import find_differences
from gateway.services.bookkeeping import find_conflict
from gateway.services.observing import find_orphans
from gateway.storage import audit, keys, limits, meta, tasks

if TYPE_CHECKING:
    from sqlalchemy import Connection

_CLOCK_BACK_MS_MAX: Final = 5000
_PEPPER_COPY: Final = "pepper copy"


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; `remedy` says what to do unless all is well."""

    check: str
    level: Level
    message: str
    remedy: str = ""


async def check_database(runtime: Runtime) -> Finding:
    """Whether the database answers and takes writes. Its schema was checked when it was opened."""
    now_ms = runtime.clock.now_ms()
    event = AuditEvent(runtime.ids.new("evt", now_ms), now_ms, "doctor", "database.checked", "")
    try:
        await runtime.db.write(_write_and_undo, event)
    except _Undone:
        return Finding("database", Level.OK, f"{runtime.db.name} answers, is migrated and writable")
    except GatewayError as error:
        code = find_driver_code(error)
        message = f"{error.message.rstrip('.')} ({code})" if code else error.message
        return Finding(
            "database", Level.FAIL, message, "Check its disk, its rights and who locks it."
        )
    raise AssertionError("a write that raises can't return")


async def check_clock(runtime: Runtime) -> Finding:
    """Whether the clock stands before something that has happened already."""
    now_ms = runtime.clock.now_ms()
    events = await runtime.db.read(audit.list_events, 0, 1)
    newest = await runtime.db.read(tasks.list_all, 1)
    seen_ms = [event.at_ms for event in events] + [task.created_at_ms for task in newest]
    back_ms = max(seen_ms, default=now_ms) - now_ms
    if back_ms > _CLOCK_BACK_MS_MAX:
        return Finding(
            "clock",
            Level.FAIL,
            f"the clock is {back_ms // 1000} s before the newest row of the database",
            "Set the clock, and let NTP keep it.",
        )
    return Finding("clock", Level.OK, "not before anything that is stored")


async def check_pepper(runtime: Runtime) -> Finding:
    """Whether the pepper is the one that the keys were made with; none is made here."""
    config, now_ms = runtime.config, runtime.clock.now_ms()
    try:
        pepper = read_pepper(config)
    except ConfigurationError as error:
        return Finding("pepper", Level.FAIL, str(error), "No key can be checked without it.")
    if pepper is None and not await runtime.db.read(keys.count_valid, now_ms):
        return Finding("pepper", Level.OK, "the first key will make one")
    if pepper is None or not await runtime.db.read(meta.is_pepper, check_of_pepper(pepper), now_ms):
        return Finding("pepper", Level.FAIL, describe_wrong_pepper(config), "No start without it.")
    return Finding("pepper", Level.OK, "is the one that the keys were made with")


async def check_pepper_copy(runtime: Runtime) -> Finding:
    """Whether a copy of the pepper is kept apart, as far as that can be known."""
    config = runtime.config
    if config.auth.pepper is not None:
        return Finding(_PEPPER_COPY, Level.OK, "it is configured, not kept in the data folder")
    pepper = read_pepper(config)
    if pepper is None:
        return Finding(_PEPPER_COPY, Level.OK, "the first key will make the pepper")
    if await runtime.db.read(meta.has_pepper_copy, check_of_pepper(pepper)):
        return Finding(_PEPPER_COPY, Level.OK, "an operator has said that there is one")
    path = config.data_dir / PEPPER_FILE
    return Finding(
        _PEPPER_COPY,
        Level.WARN,
        f"{path} is the only pepper that is known of, and in no backup of the database",
        "Keep a copy apart from the backups, then say so, once: `doctor --pepper-is-safe`.",
    )


async def confirm_pepper_copy(runtime: Runtime, actor: str) -> None:
    """Note an operator's word that the pepper in the data folder is kept apart as well.

    It holds for this pepper only. Nothing is noted while there is none.
    """
    pepper, now_ms = read_pepper(runtime.config), runtime.clock.now_ms()
    if pepper is None or runtime.config.auth.pepper is not None:
        return
    event = AuditEvent(runtime.ids.new("evt", now_ms), now_ms, actor, "pepper.copy_confirmed", "")
    await runtime.db.write(_note_pepper_copy, check_of_pepper(pepper), event)


async def check_upstreams(upstreams: Iterable[Upstream]) -> Sequence[Finding]:
    """Whether each upstream takes each of its credentials: one free read each."""
    findings = []
    for upstream in upstreams:
        for credential in upstream.credentials:
            name = f"upstream {upstream.name}, credential {credential}"
            try:
                await upstream.check(credential)
            except UpstreamFault as error:
                remedy = "Check base_url, proxy and the credential: a key fits one cloud."
                findings.append(Finding(name, Level.FAIL, error.message, remedy))
            else:
                findings.append(Finding(name, Level.OK, "accepted"))
    return findings


async def check_routes(runtime: Runtime, upstreams: Sequence[UpstreamConfig]) -> Finding:
    """Whether every unfinished task is at an upstream and credential that are configured."""
    orphans = await find_orphans(runtime, upstreams)
    if not orphans:
        return Finding("routes", Level.OK, "every unfinished task is followed")
    named = ", ".join(f"{count} at {route[0]}/{route[1]}" for route, count in orphans.items())
    remedy = "Configure the upstream and credential by these names until their tasks have ended."
    return Finding("routes", Level.FAIL, f"tasks that nobody follows: {named}", remedy)


async def check_books(runtime: Runtime, *, is_trial: bool | None) -> Finding:
    """Whether a server would start on these books; `is_trial` is None if no upstream is known."""
    problem = await find_conflict(runtime, is_trial=is_trial)
    if problem is None:
        return Finding("books", Level.OK, "are kept as configured")
    return Finding("books", Level.FAIL, problem, "A start that would mix them is refused.")


async def check_restore(runtime: Runtime) -> Finding:
    """Whether submits wait for a restored database to be compared with the upstreams."""
    restored_at_ms = await runtime.db.read(meta.find_restored)
    if restored_at_ms is None:
        return Finding("restore", Level.OK, "no submit waits for a comparison")
    return Finding(
        "restore",
        Level.WARN,
        f"restored at {format_time(restored_at_ms)}: no submit is taken until it is compared with "
        "the list of every upstream account",
        "A server compares them; `/readyz?verbose` on its metrics listener names those that are "
        "left. If one is gone for good, `restore --open` takes submits without.",
    )


async def check_ledger(runtime: Runtime) -> Finding:
    """Whether the books add up, by an audit of their own."""
    found = await find_differences(runtime)
    if not found.count:
        return Finding("ledger", Level.OK, "every balance is the sum of its entries")
    named = "; ".join(found.named)
    more_count = found.count - len(found.named)
    more = f"; and {more_count} more" if more_count else ""
    remedy = "Nobody but the gateway may write to its database: `tasks story ID` tells of a task."
    return Finding("ledger", Level.FAIL, f"does not add up ({found.count}): {named}{more}", remedy)


async def check_budget(runtime: Runtime) -> Finding:
    """Whether something bounds what all keys together may spend."""
    return judge_budget(runtime.config, await runtime.db.read(limits.list_all))


def judge_budget(config: Config, settings: Sequence[LimitSetting]) -> Finding:
    """Whether the organization has a budget, by configuration or by the limits that were set."""
    organization = Account(Scope.ORGANIZATION, ORGANIZATION_ID)
    found = effective_limits([organization], settings, config.limits.defaults())
    budgets = [limit for limit in found if limit.metric in BUDGETS]
    if budgets:
        named = ", ".join(f"{limit.metric} ({limit.window})" for limit in budgets)
        return Finding("budget", Level.OK, f"the organization has one: {named}")
    return Finding(
        "budget",
        Level.WARN,
        "the organization has none: nothing bounds what all its keys spend together",
        "Set one, such as `limits set --org --metric money --window month --cap N`.",
    )


def _note_pepper_copy(conn: "Connection", check: str, event: AuditEvent) -> None:
    meta.note_pepper_copy(conn, check)
    audit.add(conn, event)


class _Undone(Exception):
    """Takes back what was only tried."""


def _write_and_undo(conn: "Connection", event: AuditEvent) -> None:
    audit.add(conn, event)
    raise _Undone
