"""After a restore: what the database has lost is looked for before it takes new tasks.

Until every credential's list was compared with the tasks here, submits wait and reads go on. Tasks
that were unfinished when the backup was made are followed as ever; those that were being submitted
become unknown. What is listed and belongs to no task may be one that was paid for and lost by the
restore: it is recorded as an orphan.

A list that could not be read whole proves nothing of the kind: submits wait for one that could, or
for an operator who says that they need not.
"""

from typing import Final

from gateway.domain.projects import AuditEvent
from gateway.ports import Runtime
from gateway.services.reconciling import compare_all
from gateway.services.sweeping import sweep_lost_submissions
from gateway.storage import accounts, backup, meta

NO_LIST: Final = "The upstream has no list: what was lost there can't be found."
INCOMPLETE: Final = (
    "The list could not be read whole: submits wait for one that can. `restore --open` opens the "
    "gateway without it."
)
_AGAIN_S: Final = 10.0


async def close_if_restored(runtime: Runtime) -> None:
    """Take no submits if the database was restored and not compared yet: before any is let in."""
    restored_at_ms = await runtime.db.read(meta.find_restored)
    _close(runtime, is_closed=restored_at_ms is not None)


async def compare_restored(runtime: Runtime) -> bool:
    """Compare a restored database with the upstreams, and take submits again; False if it waits.

    Nothing is read unless the process is closed for it. While an upstream does not answer, or its
    list is not complete, it stays closed. Raises: UpstreamFault.
    """
    if not runtime.lifecycle.is_reconciling:
        return True
    restored_at_ms = await runtime.db.read(meta.find_restored)
    if restored_at_ms is not None:
        await sweep_lost_submissions(runtime)
        lost_since_ms = await runtime.db.read(accounts.find_last_admission, restored_at_ms)
        compared = [
            await _compare(runtime, upstream.name, credential, (lost_since_ms, restored_at_ms))
            for upstream in runtime.upstreams.values()
            for credential in upstream.credentials
        ]
        if not all(compared):
            await runtime.clock.sleep(_AGAIN_S)
            return False
        if not await runtime.db.write(meta.clear_restored, restored_at_ms):
            return False  # restored again meanwhile, or another process was first
    _close(runtime, is_closed=False)
    return True


async def open_restored(runtime: Runtime, actor: str) -> bool:
    """Let submits in though what the restore lost was not found: an operator's word, recorded.

    Every process that is closed sees it within seconds. False if none was to be waited for.
    """
    restored_at_ms = await runtime.db.read(meta.find_restored)
    if restored_at_ms is None:
        return False
    now_ms = runtime.clock.now_ms()
    event = AuditEvent(runtime.ids.new("evt", now_ms), now_ms, actor, "database.opened", "")
    return await runtime.db.write(backup.open_restored, restored_at_ms, event)


def _close(runtime: Runtime, *, is_closed: bool) -> None:
    """Take submits or not; probes and a metric tell which."""
    accounts_of = [(each.name, each.credentials) for each in runtime.upstreams.values()]
    waiting = {f"{name}/{each}" for name, credentials in accounts_of for each in credentials}
    runtime.lifecycle.is_reconciling = is_closed
    runtime.lifecycle.uncompared = waiting if is_closed else set()
    runtime.metrics.restore_waiting.set(int(is_closed))


async def _compare(runtime: Runtime, name: str, credential: str, lost_ms: tuple[int, int]) -> bool:
    """Return whether all was seen that the credential's upstream shows."""
    is_whole = await _read_all(runtime, name, credential, lost_ms)
    uncompared, account = runtime.lifecycle.uncompared, f"{name}/{credential}"
    (uncompared.discard if is_whole else uncompared.add)(account)
    return is_whole


async def _read_all(runtime: Runtime, name: str, credential: str, lost_ms: tuple[int, int]) -> bool:
    upstream = runtime.upstreams[name]
    if not upstream.supports_list:
        runtime.log.warning(
            "reconciler.restore_compared", upstream=name, credential=credential, reason=NO_LIST
        )
        return True
    compared = await compare_all(runtime, upstream, credential, lost_ms)
    runtime.log.warning(
        "reconciler.restore_compared",
        upstream=name,
        credential=credential,
        listed_count=compared.listed_count,
        adopted_count=compared.adopted_count,
        orphans_count=compared.orphans_count,
        undecided_count=compared.undecided_count,
        is_complete=compared.is_complete,
        reason=None if compared.is_complete else INCOMPLETE,
    )
    return compared.is_complete
