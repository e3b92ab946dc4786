"""Periodic repair: what crashed processes and passing days leave behind."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.domain.stored import hash_texts
from gateway.domain.tasks import Event, advance
from gateway.ports import Runtime
from gateway.services.moves import dump_request, record_move
from gateway.storage import attempts, idempotency, requests, tasks
from gateway.storage.requests import StoredRequest

ALIVE_S: Final = 10.0
"""How long a process is believed to live since it last said so, several times in that."""
_ROWS_PER_BATCH: Final = 200
_FORGOTTEN_S: Final = 3600.0
_DAY_MS: Final = 86_400_000


async def sweep_lost_submissions(runtime: Runtime) -> int:
    """Move reserved tasks past their submit deadline to `unknown`; return how many.

    Their process died, or could not write the outcome: bytes may have left, so nothing is assumed.
    Of a process that is dead, the deadlines are not waited for.
    """
    now_ms = runtime.clock.now_ms()
    count = 0
    while lost := await runtime.db.read(
        tasks.find_lost,
        now_ms,
        _ROWS_PER_BATCH,
        owner=runtime.process_id,
        alive_ms=now_ms - int(ALIVE_S * 1000),
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
    await runtime.db.write(requests.replace_bodies, hashed)
    for row in hashed:
        runtime.status_cache.drop(row.task_id)


async def announce(runtime: Runtime) -> None:
    """Note that this process lives: others take its submissions for lost once it does not.

    The one server of a SQLite database forgets what ran before it as soon as it starts, also if the
    clock says that it is yet to run.
    """
    now_ms = runtime.clock.now_ms()
    is_first = runtime.db.name == "sqlite" and not runtime.lifecycle.is_announced
    before_ms = None if is_first else now_ms - int(_FORGOTTEN_S * 1000)
    await runtime.db.write(attempts.see_process, runtime.process_id, now_ms, before_ms)
    runtime.lifecycle.is_announced = True


async def sweep_idempotency_keys(runtime: Runtime) -> int:
    """Forget keys older than they are kept; return how many."""
    before_ms = runtime.clock.now_ms() - runtime.config.submit.idempotency_days * _DAY_MS
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
