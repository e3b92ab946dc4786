"""Clients with a will of their own: they submit, lose patience, come again, poll, cancel and list.

Each wish is for one video, told apart by its prompt. What a client was answered is kept; the oracle
judges by that and by what really happened upstream, never by what the gateway believes.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Protocol

from tests.simulation.gateway import Connection, CutOffError, Reply
from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import PROJECTS
from tests.simulation.receivers import Receiver, address_of

MODEL: Final = "doubao-seedance-1-0-pro-250528"
ARK: Final = "/api/v3/contents/generations/tasks"
SEEDANCE: Final = "/seedance/generations"
ENDED: Final = ("succeeded", "failed", "cancelled", "expired")
_TRIES_MAX: Final = 4
_ORDER: Final = {"queued": 0, "running": 1}


class Door(Protocol):
    """Where clients knock: whichever process lives."""

    async def request(self, connection: Connection) -> Reply: ...


@dataclass(slots=True)
class Sent:
    """One submit of a wish and what its client got to know of it."""

    at_s: float
    ended_s: float | None = None
    """None while its client waits."""
    status: int = 0
    """0: no answer came, or nobody waited for it."""
    has_left: bool = False
    task_id: str | None = None
    code: str = ""
    says_no_retry: bool = False
    is_counted_retry: bool = False
    """Whether the client said that it repeats itself."""
    connection: Connection | None = None


@dataclass(slots=True)
class Wish:
    """A video that somebody wants."""

    number: int
    project: str
    key: str | None
    """The Idempotency-Key."""
    prompt: str
    body: Mapping[str, object]
    path: str
    sends: list[Sent] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)
    """By task id, the statuses that were shown, one after the other."""
    other_prompts: list[str] = field(default_factory=list)
    """Those of other requests that were sent under the same key."""


@dataclass(frozen=True, slots=True)
class Temper:
    """What clients tend to do, as shares."""

    keyed: float = 0.6
    impatient: float = 0.3
    polls_max: int = 4
    cancels: float = 0.2
    replays: float = 0.3
    cheats: float = 0.1
    calls_back: float = 0.3
    seeds: float = 0.2
    twins: float = 0.15
    """How often somebody wants one more of what was wished for before."""
    receivers: tuple[Receiver, ...] = (Receiver.GOOD,)


class Clients:
    """All clients of one run."""

    def __init__(
        self,
        loop: SimulatedLoop,
        door: Door,
        keys: Mapping[str, str],
        temper: Temper,
        draws: Random,
    ) -> None:
        self._loop, self._door, self._keys = loop, door, keys
        self._temper, self._draws = temper, draws
        self.trace: Callable[[str], None] = _ignore
        self.wishes: list[Wish] = []
        self.complaints: list[str] = []
        """Answers that no client may ever get."""
        self._deleted_ids: set[str] = set()

    async def run(self, count: int, within_s: float) -> None:
        """Let `count` wishes come up within a time, and each client go through with its own."""
        for _ in range(count):
            self.make_wish()
        async with asyncio.TaskGroup() as group:
            for wish in self.wishes:
                group.create_task(self._pursue(wish, self._draws.uniform(0, within_s)))

    def make_wish(self) -> Wish:
        """Return a new wish, or one more of the last one."""
        last = self.wishes[-1] if self.wishes else None
        if last is not None and last.key is None and self._draws.random() < self._temper.twins:
            wish = replace(last, number=len(self.wishes), sends=[], seen={}, other_prompts=[])
        else:
            wish = self._draw_wish(len(self.wishes))
        self.wishes.append(wish)
        return wish

    def _draw_wish(self, number: int) -> Wish:
        draws, temper = self._draws, self._temper
        key = f"wish-{number}" if draws.random() < temper.keyed else None
        prompt = f"A paper boat drifts, number {number}"
        body: dict[str, object] = {
            "model": MODEL,
            "content": [{"type": "text", "text": prompt}],
            "resolution": draws.choice(("480p", "720p")),
            "ratio": draws.choice(("16:9", "1:1")),
            "duration": draws.choice((5, 10)),
        }
        if draws.random() < temper.seeds:
            body["seed"] = 7  # the same for all: no seed that a client gives tells tasks apart
        if draws.random() < temper.calls_back:
            body["callback_url"] = address_of(draws.choice(temper.receivers), f"/hooks/{number}")
        path = draws.choice((ARK, SEEDANCE))
        return Wish(number, draws.choice(PROJECTS), key, prompt, body, path)

    async def _pursue(self, wish: Wish, start_s: float) -> None:
        draws, temper = self._draws, self._temper
        await asyncio.sleep(start_s)
        task_id = await self._submit_until_told(wish)
        if wish.key is not None and draws.random() < temper.cheats:
            await self.cheat(wish)
        if task_id is None:
            return
        for _ in range(draws.randrange(temper.polls_max + 1)):
            await asyncio.sleep(draws.uniform(0, 60))
            await self.poll(wish, task_id)
        if draws.random() < temper.cancels:
            await asyncio.sleep(draws.choice((0.5, 20.0, 120.0)) * draws.random())
            await self.cancel(wish, task_id)
        if wish.key is not None and draws.random() < temper.replays:
            await asyncio.sleep(draws.uniform(0, 120))
            await self.submit(wish, None)
        await self.list_own(wish)

    async def _submit_until_told(self, wish: Wish) -> str | None:
        """Send the wish until its id is known, or it was refused for good, or hope is lost."""
        draws = self._draws
        for number in range(_TRIES_MAX):
            is_impatient = draws.random() < self._temper.impatient
            patience_s = draws.choice((0.02, 1.0, 40.0)) * draws.random() if is_impatient else None
            sent = await self.submit(wish, patience_s, repeat_count=number)
            if sent.task_id is not None:
                return sent.task_id
            is_refused = 400 <= sent.status < 500 and sent.status not in {409, 429}
            if is_refused or sent.says_no_retry:
                return None
            await asyncio.sleep(draws.choice((0.5, 5.0, 60.0)) * draws.uniform(0.5, 1.5))
        return None

    async def submit(self, wish: Wish, patience_s: float | None, *, repeat_count: int = 0) -> Sent:
        headers: list[tuple[bytes, bytes]] = []
        is_counted = False
        if wish.key is not None:
            headers.append((b"idempotency-key", wish.key.encode()))
        elif repeat_count and self._draws.random() < 0.5:
            headers.append((b"x-stainless-retry-count", b"%d" % repeat_count))
            is_counted = True
        sent = Sent(self._loop.time(), is_counted_retry=is_counted)
        wish.sends.append(sent)
        body = json.dumps(wish.body).encode()
        reply = await self._ask(
            wish, "POST", wish.path, body=body, headers=headers, patience_s=patience_s, sent=sent
        )
        sent.ended_s = self._loop.time()
        sent.has_left = reply is None
        if reply is not None:
            sent.status = reply.status
            sent.says_no_retry = reply.headers.get("x-should-retry") == "false"
            told = json.loads(reply.body)
            if reply.status == 200:
                sent.task_id = told["id"]
            else:
                sent.code = told["error"]["code"]
        self.trace(f"wish {wish.number} was told {sent.status} {sent.task_id or sent.code}")
        return sent

    async def cheat(self, wish: Wish) -> None:
        """Use the key for another request: that must be refused, or the key was free."""
        prompt = f"{wish.prompt}, cheated"
        wish.other_prompts.append(prompt)
        other = {**wish.body, "content": [{"type": "text", "text": prompt}]}
        headers = [(b"idempotency-key", (wish.key or "").encode())]
        reply = await self._ask(
            wish, "POST", wish.path, body=json.dumps(other).encode(), headers=headers
        )
        was_told = any(sent.task_id is not None for sent in wish.sends)
        if reply is not None and reply.status == 200 and was_told:
            self.complaints.append(f"wish {wish.number}: its key was taken for another request")

    async def poll(self, wish: Wish, task_id: str) -> None:
        query = b"wait=30" if self._draws.random() < 0.3 else b""
        reply = await self._ask(wish, "GET", f"{wish.path}/{task_id}", query=query)
        self._see(wish, task_id, reply)
        if self._draws.random() < 0.2:
            stranger = next(name for name in PROJECTS if name != wish.project)
            path = f"{wish.path}/{task_id}"
            foreign = await self._ask(wish, "GET", path, project=stranger)
            if foreign is not None and foreign.status == 200:
                self.complaints.append(f"wish {wish.number}: {task_id} was shown to {stranger}")

    def _see(self, wish: Wish, task_id: str, reply: Reply | None) -> None:
        """Note a status that was shown. Statuses go forward, and no known task is unknown."""
        if reply is None or reply.status in {503, 504}:
            return
        if reply.status == 404 and task_id in self._deleted_ids:
            return  # one that had ended is out of view
        if reply.status != 200:
            self.complaints.append(f"wish {wish.number}: {task_id} reads {reply.status}")
            return
        status = json.loads(reply.body)["status"]
        seen = wish.seen.setdefault(task_id, [])
        if seen and _ORDER.get(status, 2) < _ORDER.get(seen[-1], 2):
            self.complaints.append(f"wish {wish.number}: {task_id} went {seen[-1]} to {status}")
        if seen and seen[-1] in ENDED and status != seen[-1]:
            self.complaints.append(f"wish {wish.number}: {task_id} ended {seen[-1]}, then {status}")
        seen.append(status)

    async def cancel(self, wish: Wish, task_id: str) -> None:
        self._deleted_ids.add(task_id)
        reply = await self._ask(wish, "DELETE", f"{wish.path}/{task_id}")
        if reply is not None and reply.status not in {200, 404, 409, 429, 503, 504}:
            self.complaints.append(f"wish {wish.number}: cancel answered {reply.status}")

    async def list_own(self, wish: Wish) -> None:
        reply = await self._ask(wish, "GET", wish.path, query=b"page_size=100")
        if reply is None or reply.status != 200:
            return
        listed = {item["id"] for item in json.loads(reply.body)["items"]}
        mine = {s.task_id for w in self.wishes if w.project == wish.project for s in w.sends}
        others = {s.task_id for w in self.wishes if w.project != wish.project for s in w.sends}
        if listed & (others - mine - {None}):
            self.complaints.append(f"wish {wish.number}: another project's tasks are listed")

    async def _ask(
        self,
        wish: Wish,
        method: str,
        path: str,
        *,
        query: bytes = b"",
        body: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        patience_s: float | None = None,
        project: str | None = None,
        sent: Sent | None = None,
    ) -> Reply | None:
        """Return the answer; None if the client hung up before, or the connection broke."""
        key = self._keys[project or wish.project]
        authorization = (b"authorization", b"Bearer " + key.encode())
        connection = Connection(method, path, query, (authorization, *headers), body)
        if sent is not None:
            sent.connection = connection
        if patience_s is not None:
            self._loop.call_later(patience_s, connection.left.set)
        asking = asyncio.ensure_future(self._door.request(connection))
        leaving = asyncio.ensure_future(connection.left.wait())
        await asyncio.wait([asking, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if connection.left.is_set():
            asking.add_done_callback(_see_outcome)
            return None
        try:
            return asking.result()
        except CutOffError:
            return None


def _see_outcome(done: "asyncio.Future[Reply]") -> None:
    """Nobody is left to be told."""
    if not done.cancelled():
        done.exception()


def _ignore(_fact: str) -> None:
    pass
