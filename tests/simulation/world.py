"""The upstream of a simulation: what really happens, and what of it anybody is told.

The world goes on whether or not a gateway lives: a request that left creates its task, at once or
much later, though nobody waits for the answer any more. Its own record is the truth that the books
are compared with.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Final

from tests.simulation.loop import SimulatedLoop

UPSTREAM: Final = "world"
CREDENTIAL: Final = "main"
QUIET_S: Final = 15 * 60
"""How long after its deadline an attempt may still show up without anybody having erred."""
LATE_S_MAX: Final = 2 * QUIET_S
LISTED_S: Final = 7 * 86_400
_EXPIRY_S: Final = 172_800
_FRAMES: Final = {
    ("480p", "16:9"): (864, 480),
    ("480p", "1:1"): (640, 640),
    ("720p", "16:9"): (1248, 704),
    ("720p", "1:1"): (960, 960),
}
_CALLBACK_TRIES: Final = 3
_CALLBACK_PAUSE_S: Final = 5.0


class Fate(StrEnum):
    """What becomes of a submission."""

    TAKEN = "taken"
    SLOW = "slow"
    NOT_SENT = "not sent"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    ACCOUNT = "account"
    LOST_BEFORE = "lost before create"
    LOST_AFTER = "lost after create"
    LATE = "late create"
    VERY_LATE = "very late create"


CREATES: Final = frozenset({Fate.TAKEN, Fate.SLOW, Fate.LOST_AFTER, Fate.LATE, Fate.VERY_LATE})


class Echo(StrEnum):
    """When a list shows the fields that a task was made with."""

    ALWAYS = "always"
    PARTLY = "partly"
    WHEN_ENDED = "when ended"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class WorldWeather:
    """How often the upstream does what, as shares of calls."""

    fates: Mapping[Fate, float] = field(default_factory=dict)
    """Shares; the rest is taken."""
    echo: Echo = Echo.ALWAYS
    list_lag_s_max: float = 0.0
    list_failed: float = 0.0
    page_shifted: float = 0.0
    entry_unreadable: float = 0.0
    tells_total: bool = True
    read_failed: float = 0.0
    read_missing: float = 0.0
    read_stale: float = 0.0
    read_odd: float = 0.0
    cancel_lost: float = 0.0
    callback_lost: float = 0.0
    callback_repeated: float = 0.0
    callbacks_forged: int = 0
    foreign_count: int = 0
    stuck: float = 0.0
    uncounted: float = 0.0
    """Successes that report no tokens."""
    latency_s_max: float = 0.5


@dataclass(eq=False, slots=True)
class WorldTask:
    """One task of the upstream, as it really is. Times are the loop's."""

    id: str
    prompt: str
    attempt_id: str | None
    """None for a task of other software on the same account."""
    deployment: str
    created_s: float
    started_s: float
    ended_s: float
    end: str
    tokens: int
    is_counted: bool
    seed: int
    resolution: str
    ratio: str
    duration_s: int
    lag_s: float
    is_shown_whole: bool
    expires_after_s: int = _EXPIRY_S
    safety_identifier: str | None = None
    callback_url: str | None = None
    cancelled_s: float | None = None
    is_deleted: bool = False
    """Its record is gone: a DELETE came when it had ended."""

    def status_at(self, at_s: float) -> str:
        if self.cancelled_s is not None and at_s >= self.cancelled_s:
            return "cancelled"
        if at_s >= self.ended_s:
            return self.end
        return "running" if at_s >= self.started_s else "queued"

    @property
    def final(self) -> str:
        """How it ends, or has ended."""
        return "cancelled" if self.cancelled_s is not None else self.end

    @property
    def billed_tokens(self) -> int:
        """Only successes are billed."""
        return self.tokens if self.final == "succeeded" else 0


@dataclass(frozen=True, slots=True)
class Received:
    """A paid POST whose first byte left."""

    at_s: float
    attempt_id: str
    prompt: str
    fate: Fate
    cause: object
    """The request of a client in whose course it was sent."""


class World:
    """The upstream's account, shared with other software, and all that happens there."""

    def __init__(self, loop: SimulatedLoop, weather: WorldWeather, draws: Random) -> None:
        self.loop = loop
        self.weather = weather
        self.draws = draws
        self.tasks: dict[str, WorldTask] = {}
        self.received: list[Received] = []
        self.next_fates: list[Fate] = []
        self.pending_count = 0
        """Tasks that will be created though nobody may wait for them."""
        self.on_received: Callable[[Received], None] = _ignore
        self.deliver: Callable[[str, bytes], Awaitable[bool]] | None = None
        self.trace: Callable[[str], None] = _ignore
        self.fault_counts: dict[str, int] = {}
        self.forged: set[tuple[str | None, str]] = set()
        """(attempt, task that it was called for) of forged calls to an attempt's own address."""
        for _ in range(weather.foreign_count):
            loop.call_later(draws.uniform(0, 1800), self._create_foreign)
        for _ in range(weather.callbacks_forged):
            loop.call_later(draws.uniform(0, 900), self.forge)

    def own_tasks(self) -> list[WorldTask]:
        """Return the tasks that came of the gateway's submissions."""
        return [task for task in self.tasks.values() if task.attempt_id is not None]

    def is_struck(self, share: float, fault: str) -> bool:
        """Draw whether a fault of this share happens; count it if it does."""
        is_struck = bool(share) and self.draws.random() < share
        if is_struck:
            self.fault_counts[fault] = self.fault_counts.get(fault, 0) + 1
        return is_struck

    def draw_fate(self) -> Fate:
        """Return what becomes of the next submission: as was said beforehand, or as it is drawn."""
        if self.next_fates:
            return self._count_fate(self.next_fates.pop(0))
        left = self.draws.random()
        for fate, share in self.weather.fates.items():
            left -= share
            if left < 0:
                return self._count_fate(fate)
        return Fate.TAKEN

    def _count_fate(self, fate: Fate) -> Fate:
        if fate is not Fate.TAKEN:
            self.fault_counts[fate.value] = self.fault_counts.get(fate.value, 0) + 1
        return fate

    def expect(self, after_s: float, task: WorldTask) -> None:
        """Create the task once `after_s` has passed, whoever lives then."""
        self.pending_count += 1
        self.loop.call_later(after_s, self._create, task)

    def plan(self, prompt: str, deployment: str) -> WorldTask:
        """Return a task with a life of its own, to be created."""
        draws, weather = self.draws, self.weather
        queued_s = draws.choice((1.0, 5.0, 20.0, 90.0)) * draws.uniform(0.5, 1.5)
        run_s = draws.uniform(20, 240)
        end = draws.choices(("succeeded", "failed", "expired"), (0.8, 0.15, 0.05))[0]
        if self.is_struck(weather.stuck, "stuck"):
            end, run_s = "expired", float(_EXPIRY_S)
        resolution, ratio = draws.choice(sorted(_FRAMES))
        is_whole = weather.echo is not Echo.PARTLY or draws.random() < 0.5
        return WorldTask(
            id="",
            prompt=prompt,
            attempt_id=None,
            deployment=deployment,
            created_s=0.0,
            started_s=queued_s,
            ended_s=queued_s + run_s,
            end=end,
            tokens=0,
            is_counted=not self.is_struck(weather.uncounted, "uncounted"),
            seed=draws.randrange(1, 2**31),
            resolution=resolution,
            ratio=ratio,
            duration_s=draws.choice((5, 10)),
            lag_s=draws.uniform(0, weather.list_lag_s_max),
            is_shown_whole=is_whole,
        )

    def _create(self, task: WorldTask) -> None:
        now_s = self.loop.time()
        task.id = self._new_id()
        task.created_s = now_s
        task.started_s += now_s
        task.ended_s += now_s
        width, height = _FRAMES[task.resolution, task.ratio]
        task.tokens = width * height * (24 * task.duration_s + 1) // 1024
        self.tasks[task.id] = task
        self.pending_count -= 1
        self.trace(f"created {task.id} for {task.attempt_id or 'others'}: {task.end}")
        if task.callback_url is not None:
            for at_s in (now_s, task.started_s, task.ended_s):
                self.loop.call_at(at_s + 0.01, self.call_back, task)

    def _create_foreign(self) -> None:
        self.expect(0, self.plan("somebody else's", "ep-of-others"))

    def _new_id(self) -> str:
        made = datetime.fromtimestamp(self.loop.date_ms() / 1000, UTC) + timedelta(hours=8)
        while True:
            chars = "".join(self.draws.choices("23456789bcdfghjklmnpqrstvwxz", k=5))
            upstream_task_id = f"cgt-{made:%Y%m%d%H%M%S}-{chars}"
            if upstream_task_id not in self.tasks:
                return upstream_task_id

    def call_back(self, task: WorldTask) -> None:
        if task.callback_url is None or self.deliver is None:
            return
        body = {"id": task.id, "status": task.status_at(self.loop.time()), "model": task.deployment}
        times = 2 if self.is_struck(self.weather.callback_repeated, "callback repeated") else 1
        for _ in range(times):
            self.loop.start(self._deliver(task.callback_url, json.dumps(body).encode()))

    async def _deliver(self, url: str, body: bytes) -> None:
        for _ in range(_CALLBACK_TRIES):
            await asyncio.sleep(self.draws.uniform(0, self.weather.latency_s_max))
            if self.is_struck(self.weather.callback_lost, "callback lost"):
                continue
            assert self.deliver is not None
            if await self.deliver(url, body):
                return
            await asyncio.sleep(_CALLBACK_PAUSE_S)

    def forge(self) -> None:
        """Call somebody's address with another task's id, or nobody's with anything."""
        known = [task for task in self.tasks.values() if task.callback_url is not None]
        if self.deliver is None or not known:
            return
        claimed, victim = self.draws.choice(list(self.tasks.values())), self.draws.choice(known)
        url = victim.callback_url or ""
        if self.draws.random() < 0.5:
            url = url[:-8] + "aaaaaaaa"
        else:
            self.forged.add((victim.attempt_id, claimed.id))
        self.trace(f"forged a callback for {claimed.id}")
        body = json.dumps({"id": claimed.id, "status": "succeeded"}).encode()
        self.loop.start(self._deliver(url, body))


def _ignore(_fact: object) -> None:
    pass
