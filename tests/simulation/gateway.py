"""A whole gateway inside the simulation: the real application and its loops, on simulated ports.

A process lives from its start to `kill` or `stop`. A kill comes between two steps: from then on the
process writes nothing, sends nothing and answers nobody; what it had sent is on its way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

from gateway.app import create_app
from gateway.cli.serve import _begin_drain, _prepare
from gateway.domain.webhooks import NotificationKind
from gateway.errors import GatewayError
from gateway.ports import Runtime
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import Loop, run_loops
from tests.simulation.clock import SimulatedClock
from tests.simulation.database import SimulatedStore
from tests.simulation.journal import JournalDisk
from tests.simulation.log import LogBook, SimulatedLog
from tests.simulation.loop import Owner, SimulatedLoop
from tests.simulation.machine import PUBLIC_URL, Machine, Settings
from tests.simulation.receivers import Receivers
from tests.simulation.upstream import SimulatedUpstream
from tests.simulation.world import UPSTREAM, World

_HEAD: Final = ((b"host", b"gateway.example"), (b"content-type", b"application/json"))
_CANCELS_MAX: Final = 50
_LOOK_S: Final = 0.05
_URGENT: Final = ("observe", "reconcile", "deliver", "callbacks")
"""Beginnings of the names of loops on which clients wait."""
_REPAIRS: Final = ("sweep", "journal", "restore")
_REPAIRS_REST_S: Final = 15.0
_OTHERS_REST_S: Final = 600.0

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, as a client gets it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(eq=False, slots=True)
class Connection:
    """One request on its way. `left` is set when its client hangs up."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    is_answered: bool = False
    """Whether the gateway has written its answer, also if the client was gone by then."""


class CutOffError(Exception):
    """The connection broke before an answer came."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where processes run: what outlives them all."""

    machine: Machine
    settings: Settings
    loop: SimulatedLoop
    clock: SimulatedClock
    store: SimulatedStore
    journal: JournalDisk
    world: World
    receivers: Receivers
    log: LogBook

    def build(self, seed: str, owner: Owner, **ports: Any) -> Runtime:
        """Return the runtime of a new process."""
        return self.machine.build(
            self.settings,
            seed,
            self.clock,
            SimulatedLog(self.log, owner),
            db=self.store.open(owner),
            upstreams={UPSTREAM: SimulatedUpstream(self.world, owner)},
            journal=self.journal.open(owner),
            webhooks=dict.fromkeys(NotificationKind, self.receivers.open(owner)),
            **ports,
        )


class Process(Owner):
    """One life of the gateway."""

    def __init__(self, site: Site, pace: Callable[[float], float], seed: str) -> None:
        super().__init__()
        self._site, self._pace, self._seed = site, pace, seed
        self._app: Any = None
        self._is_stopping = asyncio.Event()
        self._answering_count = 0
        self.is_serving = False
        self.ready = asyncio.Event()
        """Set when it serves, or has given up before."""
        self.died = asyncio.Event()
        self.defects: list[str] = []
        self.loop_names: Sequence[str] = ()
        self._life = site.loop.start(self._live(), self)
        self._life.add_done_callback(self._end)

    def kill(self) -> None:
        """End here and now, as `kill -9` does."""
        if self.is_dead:
            return
        self.is_dead, self.is_serving = True, False
        self._site.journal.tear(self)
        for task in self._site.loop.tasks_of(self):
            task.cancel()
        self.ready.set()
        self.died.set()

    async def stop(self) -> None:
        """End as after SIGTERM: what was begun is finished."""
        self._is_stopping.set()
        await self.died.wait()

    async def bury(self) -> None:
        """Wait until the last of the dead process's coroutines is gone."""
        left: Sequence[asyncio.Task[Any]] = ()
        for _ in range(_CANCELS_MAX):
            left = self._site.loop.tasks_of(self)
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1)
        self.defects += [f"{task.get_coro()} can't be cancelled" for task in left]

    async def request(self, connection: Connection) -> Reply:
        """Carry one request to the application and back. Raises CutOffError."""
        if not self.is_serving:
            raise CutOffError
        answering = self._site.loop.start(self._answer(connection), self, connection)
        self._answering_count += 1
        await asyncio.wait([answering])
        self._answering_count -= 1
        reply = None if answering.cancelled() else answering.result()
        if self.is_dead or reply is None:
            raise CutOffError
        return reply

    async def call_back(self, url: str, body: bytes) -> bool:
        """Deliver an upstream's callback; False if nobody took it."""
        connection = Connection("POST", url.removeprefix(PUBLIC_URL), body=body)
        try:
            reply = await self.request(connection)
        except CutOffError:
            return False
        return reply.status < 300

    async def _answer(self, connection: Connection) -> Reply | None:
        sent: list[Message] = []
        inbox = [{"type": "http.request", "body": connection.body, "more_body": False}]

        async def receive() -> Message:
            if inbox:
                return inbox.pop()
            await connection.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if connection.left.is_set():
                raise OSError("the client is gone")
            sent.append(message)
            connection.is_answered = len(sent) > 1

        await self._app(_scope_of(connection), receive, send)
        if len(sent) < 2:
            return None
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], headers, sent[1]["body"])

    async def _live(self) -> None:
        """Do what `serve` does, between its listeners."""
        async with self._site.machine.backgrounds() as (background, chores, reads):
            runtime = self._site.build(
                self._seed, self, background=background, chores=chores, reads=reads
            )
            await _prepare(runtime, is_simulated=False)
            app = self._app = create_app(runtime)
            loops = list(self._paced(build_loops(runtime)))
            self.loop_names = [loop.name for loop in loops]
            async with asyncio.TaskGroup() as group:
                running = group.create_task(run_loops(runtime, loops))
                self.is_serving = True
                self.ready.set()
                await self._is_stopping.wait()
                await _begin_drain(runtime, app.in_flight_count)
                while self._answering_count:  # noqa: ASYNC110 - it only counts
                    await asyncio.sleep(_LOOK_S)
                self.is_serving = False
                await runtime.background.drain()
                running.cancel()

    def _end(self, life: "asyncio.Task[None]") -> None:
        """Note how the process ended, if it did by itself."""
        error = None if life.cancelled() else life.exception()
        if not self.is_dead and error is not None and not _is_weather(error):
            self._note_defect(f"the process died of {error!r}")
        self.is_dead, self.is_serving = True, False
        self.ready.set()
        self.died.set()

    def _note_defect(self, defect: str) -> None:
        if defect not in self.defects:
            self.defects.append(defect)

    def _paced(self, loops: Iterable[Loop]) -> Iterable[Loop]:
        """Return the loops, slowed down as time goes by: days must not take millions of steps."""
        for loop in loops:
            yield replace(loop, run=self._slowed(loop))

    def _slowed(self, loop: Loop) -> Callable[[Runtime], Awaitable[object]]:
        least_s = _OTHERS_REST_S
        if loop.name.startswith(_URGENT):
            least_s = loop.interval_s
        elif loop.name.startswith(_REPAIRS):
            least_s = _REPAIRS_REST_S
        runs = count()

        async def run(runtime: Runtime) -> object:
            rest_s = self._pace(least_s) if next(runs) else 0.0
            await asyncio.sleep(max(0.0, rest_s - loop.interval_s))
            try:
                return await loop.run(runtime)
            except Exception as error:
                if not self.is_dead and not _is_weather(error):
                    self._note_defect(f"loop {loop.name}: {error!r}")
                raise

        return run


def _is_weather(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(GatewayError)[1] is None
    return isinstance(error, GatewayError)


def _scope_of(connection: Connection) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": connection.method,
        "path": connection.path,
        "raw_path": connection.path.encode(),
        "query_string": connection.query,
        "headers": [*_HEAD, *connection.headers],
        "client": ("192.0.2.1", 50_000),
        "scheme": "http",
    }
