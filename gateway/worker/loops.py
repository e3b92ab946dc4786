"""The table of loops: which function, how often. No leader is needed: leases decide."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from gateway.domain.webhooks import NotificationKind
from gateway.ports import Change, ChangeKind, Runtime, Upstream
from gateway.services import (
    auditing,
    calling_back,
    measuring,
    notifying,
    observing,
    reconciling,
    replaying,
    restoring,
    sweeping,
)
from gateway.worker.supervisor import Loop

_SWEEP_S: Final = 5.0
_RETENTION_S: Final = 600.0
_GAUGES_S: Final = 5.0
_WATCH_AGAIN_S: Final = 1.0
_ANNOUNCE_S: Final = 3.0
_JOURNAL_S: Final = 5.0
_CLAIMS_S: Final = 1.0
_RESTORE_S: Final = 2.0
_DELIVER_S: Final = 0.5


def build_loops(runtime: Runtime) -> Sequence[Loop]:
    """Return the loops: observers and reconcilers by credential, deliveries by kind, sweepers."""
    tick_s = runtime.config.observer.tick_s
    observers = [
        Loop(f"observe:{upstream.name}:{credential}", _observer(upstream, credential), tick_s)
        for upstream in runtime.upstreams.values()
        for credential in upstream.credentials
    ]
    reconcilers = [
        Loop(
            f"reconcile:{upstream.name}:{credential}",
            partial(reconciling.reconcile_due, upstream=upstream, credential=credential),
            runtime.config.reconciler.tick_s,
        )
        for upstream in runtime.upstreams.values()
        for credential in upstream.credentials
    ]
    deliveries = [
        Loop(notifying.loop_name(kind), partial(notifying.deliver_due, kind=kind), _DELIVER_S)
        for kind in NotificationKind
    ]
    return [
        *observers,
        *reconcilers,
        *deliveries,
        Loop("announce", sweeping.announce, _ANNOUNCE_S, backs_off=False),
        Loop("journal", replaying.replay_old, _JOURNAL_S),
        Loop("callbacks", calling_back.verify_claims, _CLAIMS_S),
        Loop("restore", restoring.compare_restored, _RESTORE_S),
        Loop("sweep", sweeping.sweep_lost_submissions, _SWEEP_S),
        Loop("retention", sweeping.sweep_requests, _RETENTION_S),
        Loop("idempotency", sweeping.sweep_idempotency_keys, _RETENTION_S),
        Loop("notifications", notifying.sweep_notifications, _RETENTION_S),
        Loop("gauges", sweeping.measure_tasks, _GAUGES_S),
        Loop("gauges:notifications", notifying.measure_notifications, _GAUGES_S),
        Loop("gauges:money", measuring.measure_money, _GAUGES_S),
        Loop("audit", auditing.audit_when_due, runtime.config.ledger.audit_interval_s),
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
