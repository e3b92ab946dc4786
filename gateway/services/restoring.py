"""After a restore: what the database has lost is looked for before it takes new tasks.

Until every credential's list was compared with the tasks here, submits wait and reads go on. Tasks
that were unfinished when the backup was made are followed as ever; those that were being submitted
become unknown. What is listed and belongs to no task may be one that was paid for and lost by the
restore: it is recorded as an orphan.
"""

from typing import Final

from gateway.ports import Runtime
from gateway.services.reconciling import compare_all
from gateway.services.sweeping import sweep_lost_submissions
from gateway.storage import accounts, meta

NO_LIST: Final = "The upstream has no list: what was lost there can't be found."


async def close_if_restored(runtime: Runtime) -> None:
    """Take no submits if the database was restored and not compared yet: before any is let in."""
    restored_at_ms = await runtime.db.read(meta.find_restored)
    runtime.lifecycle.is_reconciling = restored_at_ms is not None


async def compare_restored(runtime: Runtime) -> bool:
    """Compare a restored database with the upstreams, and take submits again; False if it waits.

    Nothing is read unless the process is closed for it. While an upstream does not answer it stays
    closed. Raises: UpstreamFault.
    """
    if not runtime.lifecycle.is_reconciling:
        return True
    restored_at_ms = await runtime.db.read(meta.find_restored)
    if restored_at_ms is not None:
        await sweep_lost_submissions(runtime)
        lost_since_ms = await runtime.db.read(accounts.find_last_admission, restored_at_ms)
        for upstream in runtime.upstreams.values():
            for credential in upstream.credentials:
                await _compare(runtime, upstream.name, credential, lost_since_ms)
        if not await runtime.db.write(meta.clear_restored, restored_at_ms):
            return False  # restored again meanwhile, or another process was first
    runtime.lifecycle.is_reconciling = False
    return True


async def _compare(runtime: Runtime, name: str, credential: str, lost_since_ms: int) -> None:
    upstream = runtime.upstreams[name]
    if not upstream.supports_list:
        runtime.log.warning(
            "reconciler.restore_compared", upstream=name, credential=credential, reason=NO_LIST
        )
        return
    compared = await compare_all(runtime, upstream, credential, lost_since_ms)
    runtime.log.warning(
        "reconciler.restore_compared",
        upstream=name,
        credential=credential,
        listed_count=compared.listed_count,
        adopted_count=compared.adopted_count,
        orphans_count=compared.orphans_count,
        is_complete=compared.is_complete,
    )
