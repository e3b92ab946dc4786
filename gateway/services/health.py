"""Whether this process can do its work."""

from collections.abc import Mapping

from gateway.domain.limits import format_time
from gateway.errors import GatewayError
from gateway.ports import Runtime
from gateway.storage import projects


async def check_readiness(runtime: Runtime) -> Mapping[str, str]:
    """Return each check's name and `ok` or what is wrong. No upstream is asked."""
    checks = {"draining": "the process is stopping" if runtime.lifecycle.is_draining else "ok"}
    try:
        await runtime.db.read(projects.count)
        checks["database"] = "ok"
    except GatewayError as error:
        checks["database"] = error.message
    return checks


def describe_books(runtime: Runtime) -> str:
    """Return `ok`, or how the last audit of the ledger ended; the log names what differs.

    It says nothing about readiness: reads go on, and whether submits do is a setting.
    """
    audit = runtime.audit
    if audit.at_ms is None:
        return "not audited yet"
    if not audit.differences_count:
        return "ok"
    noun = "difference" if audit.differences_count == 1 else "differences"
    return f"{audit.differences_count} {noun} in the audit of {format_time(audit.at_ms)}"
