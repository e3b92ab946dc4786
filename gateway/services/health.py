"""Whether this process can do its work."""

from collections.abc import Mapping
from typing import Final

from gateway.domain.limits import format_time
from gateway.errors import GatewayError, LedgerDifference
from gateway.ports import Runtime
from gateway.services.auditing import refuse_if_doubtful
from gateway.storage import projects

_NAMED_MAX: Final = 5
"""Differences that a probe names; the log names more."""


async def check_readiness(runtime: Runtime) -> Mapping[str, str]:
    """Return each check's name and `ok` or what is wrong. No upstream is asked."""
    checks = {"draining": "the process is stopping" if runtime.lifecycle.is_draining else "ok"}
    try:
        await runtime.db.read(projects.count)
        checks["database"] = "ok"
    except GatewayError as error:
        checks["database"] = error.message
    return checks


def describe_submits(runtime: Runtime, *, is_private: bool) -> str:
    """Return `ok`, or why every submit is refused; strangers are not told which accounts we have.

    Like the other descriptions it says nothing about readiness: reads go on.
    """
    lifecycle = runtime.lifecycle
    if lifecycle.is_reconciling:
        names = ", ".join(sorted(lifecycle.uncompared)) if is_private else ""
        what = f"the lists of {names}" if names else "its upstreams' lists"
        return f"they wait until the restored database is compared with {what}"
    try:
        refuse_if_doubtful(runtime)
    except LedgerDifference as error:
        return error.message
    return "ok"


def describe_writes(runtime: Runtime, *, is_private: bool) -> str:
    """Return `ok`, or that the store did not take the newest transaction."""
    failure = runtime.lifecycle.write_failure
    if failure is None:
        return "ok"
    word = f" ({failure.code})" if is_private and failure.code else ""
    return f"none has succeeded since {format_time(failure.since_ms)}: {failure.message}{word}"


def describe_books(runtime: Runtime, *, is_private: bool) -> str:
    """Return `ok`, or how the last audit of the ledger ended.

    What differs is for operators: it names tasks and accounts.
    """
    audit = runtime.audit
    if audit.at_ms is None:
        return "not audited yet"
    if not audit.differences_count:
        return "ok"
    noun = "difference" if audit.differences_count == 1 else "differences"
    text = f"{audit.differences_count} {noun} in the audit of {format_time(audit.at_ms)}"
    if not is_private:
        return text
    named = audit.differences[:_NAMED_MAX]
    more_count = audit.differences_count - len(named)
    more = f"; and {more_count} more" if more_count else ""
    return f"{text}: {'; '.join(named)}{more}"
