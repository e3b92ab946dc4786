"""Clients that submit at once, and repeat each request with its key until it is answered."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import httpx

from tests.chaos.flows import MODEL
from tests.chaos.serving import Server

SURFACES: Final = ("/seedance/generations", "/api/v3/contents/generations/tasks")
_ANSWER_S_MAX: Final = 20.0
_AGAIN_S: Final = 0.1
_AGAIN_S_MAX: Final = 1.0
_MORE_S_MAX: Final = 60.0
_LOOK_S: Final = 0.01
_REPEATED_SHARE: Final = 0.1


@dataclass(slots=True)
class Crowd:
    """What all clients have asked for and were told. Made by `open_crowd`."""

    servers: Sequence[Server]
    http: httpx.AsyncClient
    keys: Sequence[str]
    source: random.Random
    pause_s: float
    task_ids: dict[str, str] = field(default_factory=dict)
    """Idempotency key to the id that was answered."""
    complaints: list[str] = field(default_factory=list)
    asked_count: int = 0
    broken_count: int = 0
    put_off_count: int = 0
    wishes: set[str] = field(default_factory=set)
    is_over: bool = False
    _numbers: "count[int]" = field(default_factory=count)

    async def run(self, count: int) -> None:
        """Let that many clients submit one request after the other until `is_over`."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._submit_until_over(self.keys[number % len(self.keys)]))

    async def _submit_until_over(self, key: str) -> None:
        while not self.is_over:
            wish = f"wish-{next(self._numbers):06d}"
            await self.submit(key, wish)
            if self.source.random() < _REPEATED_SHARE:  # as a client that has lost its answer
                await self.submit(key, wish)
            await asyncio.sleep(self.pause_s * self.source.random())

    async def wait_for_answers(self, count: int) -> None:
        """Return once so many more requests than now have led to a task."""
        await self._wait_for(count, lambda: len(self.task_ids))

    async def wait_for_asking(self, count: int) -> None:
        """Return once so many more requests than now were sent."""
        await self._wait_for(count, lambda: self.asked_count)

    async def _wait_for(self, count: int, look: Callable[[], int]) -> None:
        wanted = look() + count
        async with asyncio.timeout(_MORE_S_MAX):
            while look() < wanted:  # noqa: ASYNC110 - it only counts
                await asyncio.sleep(_LOOK_S)

    async def submit(self, key: str, wish: str) -> None:
        """Ask for a task until there is an answer that counts."""
        self.wishes.add(wish)
        surface = self.source.choice(SURFACES)
        while True:
            answer = await self.ask(key, wish, surface)
            if answer is None:
                await asyncio.sleep(_AGAIN_S)
            elif answer.status_code in {429, 503}:
                self.put_off_count += 1
                asked_s = float(answer.headers.get("retry-after", 0))
                await asyncio.sleep(min(max(asked_s, _AGAIN_S), _AGAIN_S_MAX))
            else:
                break
        if answer.status_code != 200:
            self.complaints.append(f"{wish}: {answer.status_code} {answer.text}")
            return
        task_id = answer.json()["id"]
        known_id = self.task_ids.setdefault(wish, task_id)
        if known_id != task_id:
            self.complaints.append(f"{wish}: first {known_id}, then {task_id}")

    async def ask(self, key: str, wish: str, surface: str = SURFACES[0]) -> httpx.Response | None:
        """Ask for a task once and return the answer; None if none came."""
        urls = [server.url for server in self.servers if server.url]
        if not urls:
            return None
        self.asked_count += 1
        text = f"A paper boat drifts, {wish} --resolution 480p --duration 5"
        try:
            return await self.http.post(
                self.source.choice(urls) + surface,
                json={"model": MODEL, "content": [{"type": "text", "text": text}]},
                headers={"Authorization": f"Bearer {key}", "Idempotency-Key": wish},
            )
        except httpx.TransportError:
            self.broken_count += 1
            return None

    async def read(self, key: str, task_id: str) -> httpx.Response:
        """Ask how a task is."""
        return await self.http.get(
            f"{self.servers[0].url}{SURFACES[0]}/{task_id}",
            headers={"Authorization": f"Bearer {key}"},
        )


@asynccontextmanager
async def open_crowd(
    servers: Sequence[Server], keys: Sequence[str], source: random.Random, pause_s: float = 0.2
) -> AsyncIterator[Crowd]:
    """Give the clients of these servers; each waits up to `pause_s` between two requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(trust_env=False, timeout=_ANSWER_S_MAX, limits=limits) as http:
        yield Crowd(servers, http, keys, source, pause_s)
