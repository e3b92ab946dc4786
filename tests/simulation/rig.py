"""One simulated deployment: a disk, a world around it, and whichever process lives.

Who drives it, a plan drawn from a seed or a state machine, lets time pass and things happen; the
rig keeps the judge informed.
"""

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from gateway.errors import GatewayError
from gateway.ports import Runtime
from tests.simulation.clients import Clients, Temper
from tests.simulation.clock import EPOCH_MS, SimulatedClock
from tests.simulation.database import SimulatedStore, StoreWeather
from tests.simulation.gateway import Connection, CutOffError, Process, Reply, Site
from tests.simulation.journal import JournalDisk, JournalWeather
from tests.simulation.log import LogBook
from tests.simulation.loop import Owner, SimulatedLoop
from tests.simulation.machine import Machine, Settings
from tests.simulation.oracle import Oracle
from tests.simulation.receivers import Receivers
from tests.simulation.world import World, WorldWeather

_IDLE_SHARE: Final = 1.5
_REST_S_MAX: Final = 90.0
_QUIET_SHARE: Final = 1 / 2
_QUIET_REST_S_MAX: Final = 12 * 3600.0
_START_AGAIN_S: Final = 2.0
_CLEARINGS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Conditions:
    """The circumstances of a deployment."""

    settings: Settings = field(default_factory=Settings)
    world: WorldWeather = field(default_factory=WorldWeather)
    store: StoreWeather = field(default_factory=StoreWeather)
    journal: JournalWeather = field(default_factory=JournalWeather)
    temper: Temper = field(default_factory=Temper)
    epoch_ms: int = EPOCH_MS


class Rig:
    """The clients' door to whichever process lives, and the means to end it."""

    def __init__(
        self,
        machine: Machine,
        seed: int,
        conditions: Conditions,
        *,
        is_traced: bool = False,
    ) -> None:
        self.seed = seed
        self.loop = loop = SimulatedLoop(seed, conditions.epoch_ms)
        self.clock = SimulatedClock(loop)
        self.store = SimulatedStore(
            loop, machine.foundry, conditions.store, Random(f"{seed}:store")
        )
        self.journal = JournalDisk(loop, conditions.journal, Random(f"{seed}:journal"))
        self.world = World(loop, conditions.world, Random(f"{seed}:world"))
        latency_s_max = conditions.world.latency_s_max
        self.receivers = Receivers(loop, Random(f"{seed}:receivers"), latency_s_max)
        self.clients = Clients(
            loop, self, machine.keys, conditions.temper, Random(f"{seed}:clients")
        )
        self.trace_lines: list[str] = []
        self._is_traced = is_traced
        self.log = LogBook(self._add_line if is_traced else None)
        self._hash = hashlib.blake2b(digest_size=16)
        self.site = Site(
            machine,
            conditions.settings,
            loop,
            self.clock,
            self.store,
            self.journal,
            self.world,
            self.receivers,
            self.log,
        )
        self.oracle = Oracle(self.site, self.clients)
        self.process: Process | None = None
        self.kill_count = self.stop_count = self.jump_count = 0
        self.quiet_from_s: float | None = None
        """Since when nobody does anything any more."""
        self._processes: list[Process] = []
        self._operator_count = 0
        self._kill_at_step = sys.maxsize
        self._connect()

    def _connect(self) -> None:
        self.store.on_commit = self.oracle.see_commit
        self.world.on_received = self.oracle.see_received
        self.world.trace = self.clients.trace = self.trace
        self.world.deliver = self._deliver
        self.oracle.on_violation = lambda violation: self.trace(f"VIOLATION {violation}")
        self.loop.on_step = self._count_step

    # --- processes -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start a process; again and again, if it can't."""
        while True:
            process = Process(self.site, self.pace, f"{self.seed}:{len(self._processes)}")
            self.trace(f"process {len(self._processes)} starts")
            self._processes.append(process)
            await process.ready.wait()
            if process.is_serving:
                break
            self.trace("the process can't start")
            await asyncio.sleep(_START_AGAIN_S)
        self.process = process
        self.oracle.truth.loop_names = process.loop_names

    async def kill(self, after_steps: int) -> None:
        """End the process after so many more steps of the loop, whatever it does then."""
        process = self.process
        assert process is not None
        self.oracle.truth.has_died = True
        self._kill_at_step = self.loop.step_count + after_steps
        await process.died.wait()
        await process.bury()
        self.kill_count += 1

    async def stop(self) -> None:
        """Have the process end as after SIGTERM."""
        process = self.process
        assert process is not None
        self.oracle.truth.has_died = True
        self.trace("process is told to stop")
        await process.stop()
        self.stop_count += 1

    async def operate(self, act: Callable[[Runtime], Awaitable[object]]) -> object:
        """Have an operator's command done, by a process of its own. None if it could not be."""
        owner = Owner()
        self._operator_count += 1
        async with self.site.machine.backgrounds() as (background, chores, reads):
            runtime = self.site.build(
                f"{self.seed}:operator:{self._operator_count}",
                owner,
                background=background,
                chores=chores,
                reads=reads,
            )
            try:
                return await act(runtime)
            except GatewayError as error:
                self.trace(f"the operator was refused: {error.message}")
                return None

    async def request(self, connection: Connection) -> Reply:
        """Pass a client's request on to the process that lives now."""
        if self.process is None:
            raise CutOffError
        return await self.process.request(connection)

    def jump(self, skew_ms: int) -> None:
        """Have the gateway's clock wrong by so much from now on."""
        self.trace(f"the gateway's clock is wrong by {skew_ms} ms from now on")
        self.clock.skew_ms = skew_ms
        self.oracle.truth.jumps_s.append(self.loop.time())
        self.jump_count += 1

    def pace(self, least_s: float) -> float:
        """Return how long a loop rests: the longer, the longer nothing has moved any more.

        A slow machine does the same; and days must not take millions of steps.
        """
        idle_s = self.loop.time() - self.store.moved_at_s
        rest_s = max(least_s, min(idle_s * _IDLE_SHARE, _REST_S_MAX))
        if self.quiet_from_s is not None:
            quiet_s = self.loop.time() - self.quiet_from_s
            rest_s = max(rest_s, min(quiet_s * _QUIET_SHARE, _QUIET_REST_S_MAX))
        return rest_s

    def _count_step(self, step_count: int) -> None:
        if step_count >= self._kill_at_step and self.process is not None:
            self._kill_at_step = sys.maxsize
            self.trace("process is killed")
            self.process.kill()

    async def _deliver(self, url: str, body: bytes) -> bool:
        return self.process is not None and await self.process.call_back(url, body)

    # --- what came of it -------------------------------------------------------------------------

    def trace(self, fact: str) -> None:
        self._hash.update(f"{self.loop.time():.3f} {fact}".encode())
        if self._is_traced:
            self._add_line(fact)

    def _add_line(self, fact: str) -> None:
        self.trace_lines.append(f"{self.loop.time():12.3f} {fact}")

    def digest(self) -> str:
        """Return a checksum of all that has happened, and in which order."""
        digest = self._hash.copy()
        digest.update(b"%d %d" % (self.loop.order, self.loop.step_count))
        return digest.hexdigest()

    def faults(self) -> dict[str, int]:
        """Return how often what went wrong, by kind."""
        counts: dict[str, int] = {}
        for each in (self.world, self.store, self.journal, self.receivers):
            counts |= each.fault_counts
        counts |= {"kill": self.kill_count, "graceful stop": self.stop_count}
        counts |= {"clock jump": self.jump_count}
        return {name: count for name, count in counts.items() if count}

    def complaints(self) -> Iterator[str]:
        """Yield what was never caught, and what no process may do."""
        for context in self.loop.errors:
            yield f"uncaught: {context.get('message')}: {context.get('exception')!r}"
        yield from (f"logged: {defect}" for defect in self.log.defects)
        for process in self._processes:
            for defect in process.defects:
                yield f"defect: {defect}"

    def clear(self) -> None:
        """End everything that still runs, and forget it."""
        self.store.on_commit = self.loop.on_step = _ignore
        if self.process is not None:
            self.process.kill()
        for _ in range(_CLEARINGS_MAX):
            left = self.loop.all_tasks()
            if not left:
                break
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(left, timeout=1))
        self.store.close()
        self.loop.close()


def _ignore(*_arguments: object) -> None:
    pass
