"""Periodic repair: what crashed processes and passing days leave behind."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.domain.stored import hash_texts
from gateway.domain.tasks import Event, advance
from gateway.ports import Runtime
from gateway.services.moves import dump_request, record_move
from gateway.steadiness import TRUSTED_S
from gateway.storage import idempotency, notifications, presence, requests, tasks
from gateway.storage.requests import StoredRequest

if TYPE_CHECKING:
    from sqlalchemy import Connection

ALIVE_S: Final = 10.0
"""How long a process is believed to live since it last said so, several times in that."""
_ANNOUNCED_S_MAX: Final = ALIVE_S / 2
"""By then a process that can say that it lives has said so again."""
_ROWS_PER_BATCH: Final = 200
_FORGOTTEN_S: Final = 3600.0
_DAY_MS: Final = 86_400_000


async def sweep_lost_submissions(runtime: Runtime) -> int:
    """Move reserved tasks past their submit deadline to `unknown`; return how many.

    Their process died, or could not write the outcome: bytes may have left, so nothing is assumed.
    Of a process that is dead, the deadlines are not waited for. While the database was away nobody
    could say that it lives: others are taken for dead only by one that could for long enough.
    """
    now_ms = runtime.clock.now_ms()
    alive_for_ms = int(ALIVE_S * 1000) if _can_tell_the_dead(runtime) else None
    count = 0
    while lost := await runtime.db.read(
        tasks.find_lost,
        now_ms,
        _ROWS_PER_BATCH,
        owner=runtime.process_id,
        alive_for_ms=alive_for_ms,
    ):
        for task in lost:
            runtime.log.warning(
                "task.submission_lost", task_id=task.id, upstream=task.route.upstream
            )
            await record_move(runtime, task, advance(task, Event.LOST, now_ms), Event.LOST)
        count += len(lost)
    return count


async def sweep_requests(runtime: Runtime) -> int:
    """Replace stored requests past their retention by their hashes; return how many."""
    count = 0
    while expired := await runtime.db.read(
        requests.find_expired, runtime.clock.now_ms(), _ROWS_PER_BATCH
    ):
        await hash_requests(runtime, expired)
        count += len(expired)
    return count


async def hash_requests(runtime: Runtime, stored: Sequence[StoredRequest]) -> None:
    """Replace requests by their hashes, for good."""
    hashed = [
        replace(row, body=dump_request(hash_texts(json.loads(row.body))), expires_at_ms=None)
        for row in stored
    ]
    await runtime.db.write(_hash_requests, hashed)
    for row in hashed:
        runtime.status_cache.drop(row.task_id)


def _hash_requests(conn: "Connection", hashed: Sequence[StoredRequest]) -> None:
    """One transaction: what callbacks told of the requests goes with them."""
    requests.replace_bodies(conn, hashed)
    notifications.erase(conn, [row.task_id for row in hashed])


async def announce(runtime: Runtime) -> None:
    """Note that this process lives: others take its submissions for lost once it does not.

    The one server of a SQLite database forgets what ran before it as soon as it starts, also if the
    clock says that it is yet to run.
    """
    lifecycle = runtime.lifecycle
    last_s, lifecycle.announced_at_s = lifecycle.announced_at_s, None
    is_first = runtime.db.name == "sqlite" and not lifecycle.is_announced
    forget_after_ms = None if is_first else int(_FORGOTTEN_S * 1000)
    now_ms = runtime.clock.now_ms()
    await runtime.db.write(presence.see_process, runtime.process_id, now_ms, forget_after_ms)
    now_s = runtime.clock.monotonic_s()
    if last_s is None or now_s - last_s > _ANNOUNCED_S_MAX:
        lifecycle.announced_since_s = now_s
    lifecycle.announced_at_s = now_s
    lifecycle.is_announced = True


def _can_tell_the_dead(runtime: Runtime) -> bool:
    """Whether all others that live have had the time to say so, too."""
    if runtime.db.name == "sqlite":  # there is one server only
        return True
    lifecycle, now_s = runtime.lifecycle, runtime.clock.monotonic_s()
    last_s = lifecycle.announced_at_s
    if last_s is None or now_s - last_s > _ANNOUNCED_S_MAX:
        return False
    return now_s - lifecycle.announced_since_s >= ALIVE_S


def keys_since_ms(runtime: Runtime, now_ms: int) -> int:
    """Return which idempotency keys are too old to count; none is while the clock may be wrong."""
    if runtime.steadiness.steady_s() < TRUSTED_S:
        return 0
    return now_ms - runtime.config.submit.idempotency_days * _DAY_MS


async def sweep_idempotency_keys(runtime: Runtime) -> int:
    """Forget keys older than they are kept; return how many."""
    before_ms = keys_since_ms(runtime, runtime.clock.now_ms())
    count = 0
    while purged := await runtime.db.write(idempotency.purge, before_ms, _ROWS_PER_BATCH):
        count += purged
    return count


async def measure_tasks(runtime: Runtime) -> None:
    """Bring the gauges of unfinished tasks up to date."""
    counts = await runtime.db.read(tasks.count_unfinished)
    runtime.metrics.tasks.values = {(state.value,): count for state, count in counts.items()}
    unknown = [count for state, count in counts.items() if state.value == "unknown"]
    runtime.metrics.unknown_tasks.set(sum(unknown))
