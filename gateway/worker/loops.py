"""The table of loops: which function, how often. No leader is needed: leases decide."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from gateway.ports import Change, ChangeKind, Runtime, Upstream
from gateway.services import observing, replaying, sweeping
from gateway.worker.supervisor import Loop

_SWEEP_S: Final = 5.0
_RETENTION_S: Final = 600.0
_GAUGES_S: Final = 5.0
_WATCH_AGAIN_S: Final = 1.0
_ANNOUNCE_S: Final = 3.0
_JOURNAL_S: Final = 5.0


def build_loops(runtime: Runtime) -> Sequence[Loop]:
    """Return the loops of one process: an observer for each credential, and the sweepers."""
    tick_s = runtime.config.observer.tick_s
    observers = [
        Loop(f"observe:{upstream.name}:{credential}", _observer(upstream, credential), tick_s)
        for upstream in runtime.upstreams.values()
        for credential in upstream.credentials
    ]
    return [
        *observers,
        Loop("announce", sweeping.announce, _ANNOUNCE_S),
        Loop("journal", replaying.replay_old, _JOURNAL_S),
        Loop("sweep", sweeping.sweep_lost_submissions, _SWEEP_S),
        Loop("retention", sweeping.sweep_requests, _RETENTION_S),
        Loop("idempotency", sweeping.sweep_idempotency_keys, _RETENTION_S),
        Loop("gauges", sweeping.measure_tasks, _GAUGES_S),
        Loop("watch", _watch, _WATCH_AGAIN_S),
    ]


def _observer(upstream: Upstream, credential: str) -> Callable[[Runtime], Awaitable[object]]:
    return partial(observing.observe_due, upstream=upstream, credential=credential)


async def _watch(runtime: Runtime) -> None:
    """Forget what other processes changed; returns only when the watch fails."""
    await runtime.db.watch(partial(_forget, runtime))


def _forget(runtime: Runtime, change: Change) -> None:
    if change.kind is ChangeKind.TASK:
        runtime.status_cache.drop(change.task_id, change.version)
        return
    runtime.limit_cache.clear()
    if change.kind is ChangeKind.LIMITS:
        return
    runtime.key_cache.clear()
    if change.kind is ChangeKind.ALL:
        runtime.status_cache.clear()
