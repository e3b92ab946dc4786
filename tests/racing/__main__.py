"""Carries out one race: `python -m tests.racing '{"act": "submit", ...}'`.

The racers are forks of this process, which has loaded everything and has no threads. They start
together, and meet at a barrier wherever their act says so. What each tells is printed as JSON.
"""

import asyncio
import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Final

from tests.racing.admitting import churn, submit, submit_naively
from tests.racing.race import JsonObject, Race, Racer, find_principals, open_gateway, race_from_json
from tests.racing.settling import settle

ACTS: Final[Mapping[str, Callable[[Racer], Coroutine[None, None, JsonObject]]]] = {
    "churn": churn,
    "settle": settle,
    "submit": submit,
    "submit_naively": submit_naively,
}


def load_drivers() -> None:
    """Load what racers would each load for themselves."""
    with suppress(ImportError):  # then PostgreSQL is not raced on
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

        create_async_engine("postgresql+asyncpg://")


def run(race: Race) -> Sequence[JsonObject]:
    """Fork the racers, and return what each of them tells. RuntimeError if one failed."""
    load_drivers()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(race.racers_count)
    results: SimpleQueue[JsonObject | None] = context.SimpleQueue()
    racers = [
        context.Process(target=_run_racer, args=(race, number, barrier, results), daemon=True)
        for number in range(race.racers_count)
    ]
    for racer in racers:
        racer.start()
    told = [results.get() for _ in racers]
    for racer in racers:
        racer.join()
    if None in told:
        raise RuntimeError("a racer failed")
    return [each for each in told if each is not None]


def _run_racer(
    race: Race, number: int, barrier: Barrier, results: "SimpleQueue[JsonObject | None]"
) -> None:
    told = None
    try:
        told = asyncio.run(_race(race, number, barrier))
    except* BrokenBarrierError:
        pass  # another one failed, and tells why
    except* BaseException:  # noqa: BLE001 - printed, and told by an empty answer
        traceback.print_exc()
        barrier.abort()  # the others wait for nobody any more
    finally:
        results.put(told)


async def _race(race: Race, number: int, barrier: Barrier) -> JsonObject:
    async with open_gateway(race, f"racer{number}") as runtime:
        principals = await find_principals(runtime, race)
        return await ACTS[race.act](Racer(runtime, race, number, barrier, principals))


if __name__ == "__main__":
    print(json.dumps(run(race_from_json(sys.argv[1]))))
