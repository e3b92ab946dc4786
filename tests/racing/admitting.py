"""Races of admissions: for room in a budget, and of tasks that begin and end at once."""

import asyncio
import random
from collections import Counter

from gateway.domain.tasks import Observation
from gateway.errors import GatewayError
from gateway.services import admitting
from gateway.services.cancelling import cancel_unfinished
from gateway.services.observing import look_at
from gateway.services.submission import normalize_request, submit_task
from gateway.storage import admission as admissions
from tests.racing.race import JsonObject, Racer, a_body, succeeded

_AT_ONCE = 4


async def submit(racer: Racer) -> JsonObject:
    """Submit so many, a few at once, and count what became of them."""
    gate = asyncio.Semaphore(_AT_ONCE)
    outcomes: Counter[str] = Counter()

    async def one(number: int) -> None:
        async with gate:
            body = a_body(f"{racer.number}-{number}")
            try:
                await submit_task(racer.runtime, racer.principals[0], body, "req")
            except GatewayError as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes["granted"] += 1

    racer.barrier.wait()
    await asyncio.gather(*(one(number) for number in range(racer.race.attempts_count)))
    return {"outcomes": outcomes, "sent": len(racer.upstream.submits)}


async def submit_naively(racer: Racer) -> JsonObject:
    """The wrong way: what is left is read in one transaction, and taken in the next."""
    runtime, principal = racer.runtime, racer.principals[0]
    request = await normalize_request(runtime, principal, a_body(str(racer.number)))
    admission, _ = await admitting.prepare(
        runtime, principal, request, idempotency_key=None, is_retry=False
    )
    bounds = admitting.bounds_of(runtime, runtime.clock.now_ms())
    refusal = await runtime.db.read(
        admissions.check,
        admission.task,
        admission.reservation,
        admitting.chooser(runtime.config),
        bounds,
    )
    # Nobody takes before everybody has looked: that it takes too much is no matter of luck.
    racer.barrier.wait()
    if refusal is None:
        await runtime.db.write(admissions._write, admission, bounds)
    return {"outcomes": {"granted" if refusal is None else type(refusal).__name__: 1}, "sent": 0}


async def churn(racer: Racer) -> JsonObject:
    """Submit, look and cancel at random, for all accounts."""
    source = random.Random(f"{racer.race.seed}/{racer.number}")
    outcomes: Counter[str] = Counter()

    async def one(number: int) -> None:
        principal = source.choice(racer.principals)
        body = a_body(f"{racer.number}-{number}")
        task = (await submit_task(racer.runtime, principal, body, "req")).task
        assert task.upstream_task_id is not None
        end = source.choice(["succeeded", "failed", "cancelled", "none"])
        if end == "succeeded":
            racer.upstream.shown[task.upstream_task_id] = succeeded()
        elif end == "failed":
            racer.upstream.shown[task.upstream_task_id] = Observation("failed", {})
        if end == "cancelled":
            await cancel_unfinished(racer.runtime, task)
        elif end != "none":
            await look_at(racer.runtime, task)
        outcomes.update({"granted": 1, end: 1})

    racer.barrier.wait()
    for start in range(0, racer.race.attempts_count, _AT_ONCE):
        end = min(start + _AT_ONCE, racer.race.attempts_count)
        await asyncio.gather(*(one(number) for number in range(start, end)))
    return {"outcomes": outcomes, "sent": len(racer.upstream.submits)}
