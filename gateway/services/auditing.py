"""The auditor: recomputes the books, at the start and every minute, and says what does not add up.

It only reads, and mends nothing. A difference is a defect, or somebody's hand in the database:
either way a person must look. `ledger.refuse_on_difference` lets no submit in until one has, nor
before the first audit.
"""

from typing import Final

from gateway.domain.auditing import Audit
from gateway.errors import LedgerDifference
from gateway.ports import Runtime
from gateway.storage import auditing

NAMES_MAX: Final = 20
"""Differences that are named; the others are counted."""
_REST_FACTOR: Final = 20
"""How many times as long as it took an audit rests: a twentieth of one core, however many tasks."""
_RETRY_S: Final = 60


async def audit_when_due(runtime: Runtime) -> None:
    """Audit the books, unless the last audit was so long that there is to be a rest."""
    if runtime.clock.monotonic_s() >= runtime.audit.rests_until_s:
        await audit(runtime)


async def audit(runtime: Runtime) -> Audit:
    """Audit the books; metrics, probes and, if there are differences, the log tell of it."""
    began_s = runtime.clock.monotonic_s()
    found = await find_differences(runtime)
    ended_s, now_ms = runtime.clock.monotonic_s(), runtime.clock.now_ms()
    state = runtime.audit
    state.differences, state.differences_count, state.at_ms = found.named, found.count, now_ms
    state.rests_until_s = ended_s + _REST_FACTOR * (ended_s - began_s)
    runtime.metrics.audit_differences.set(found.count)
    runtime.metrics.audit_last.set(now_ms / 1000)
    if found.count:
        runtime.log.error(
            "ledger.audit_failed",
            differences_count=found.count,
            differences=list(found.named),
        )
    return found


async def find_differences(runtime: Runtime) -> Audit:
    """Audit the books, and tell nobody else."""
    return await runtime.db.read(auditing.audit_books, NAMES_MAX)


def refuse_if_doubtful(runtime: Runtime) -> None:
    """Raise LedgerDifference if the books are not known to be right, and that is to close us."""
    if not runtime.config.ledger.refuse_on_difference:
        return
    if runtime.audit.at_ms is None:
        raise LedgerDifference("The ledger is being audited; try again later.", retry_after_s=1)
    if runtime.audit.differences_count:
        raise LedgerDifference(
            "The ledger does not add up, and takes no new task until an operator has looked into "
            "it; nothing was sent or held for this one.",
            retry_after_s=_RETRY_S,
        )
