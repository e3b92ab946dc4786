"""Callbacks: the task object is posted to its `callback_url` at each change of state.

Success means any 2xx within five seconds. `succeeded` and `failed` are tried three times more,
other states once only, and `cancelled` is never told, as the vendor does it.
"""

import asyncio
import heapq
import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.sandbox.clock import SandboxClock
from gateway.sandbox.exchange import dump
from gateway.sandbox.faults import Action, Faults, Operation, Point, Rule
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.store import Store
from gateway.sandbox.tasks import Status, Task

RETRIES: Final = 3
IN_FLIGHT_MAX: Final = 32
ANSWER_LINE_MAX: Final = 1024
STATES_TOLD: Final = 3
_RETRIED: Final = (Status.SUCCEEDED, Status.FAILED)


class Callbacks:
    """What is due when, and its delivery. Each task has three moments: made, started, ended."""

    def __init__(
        self,
        settings: SandboxSettings,
        store: Store,
        clock: SandboxClock,
        faults: Faults,
        render: Callable[[Task, int], dict[str, object]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._faults = faults
        self._render = render
        self._due: list[tuple[int, str, int]] = []
        self._planned: set[tuple[int, str, int]] = set()
        self._changed = asyncio.Event()
        self._free = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._delivered_count = 0
        self._failed_count = 0

    def describe(self) -> dict[str, int]:
        """Return how many states were told, and how many could not be."""
        return {"delivered": self._delivered_count, "failed": self._failed_count}

    def expect(self, task: Task) -> None:
        """Plan the callbacks of a new task."""
        if task.spec.callback_url:
            self._push(task, 0)

    def expect_again(self, task_ids: Iterable[str]) -> None:
        """Plan anew for tasks whose times have changed."""
        for task_id in task_ids:
            task = self._store.find(task_id)
            if task is not None and task.spec.callback_url:
                self._push(task, 1)

    def restore(self) -> None:
        """Plan what an earlier process did not get to."""
        for task_id, told in self._store.load_unnotified():
            task = self._store.find(task_id)
            if task is not None:
                self._push(task, told)

    def wake(self) -> None:
        self._changed.set()

    def stop(self) -> None:
        for delivery in self._deliveries:
            delivery.cancel()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Deliver what is due, each callback in a task of its own in `group`."""
        while True:
            self._changed.clear()
            wait_s = self._clock.real_s_until(self._due[0][0]) if self._due else None
            if wait_s is None or wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                continue
            due = heapq.heappop(self._due)
            self._planned.discard(due)
            await self._free.acquire()
            delivery = group.create_task(self._tell(*due))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._finish)

    def _finish(self, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        self._free.release()

    def _push(self, task: Task, first: int) -> None:
        moments = (task.created_at, task.start_at, task.end_at)
        for moment in range(first, STATES_TOLD):
            due = (moments[moment], task.id, moment)
            if due not in self._planned:
                self._planned.add(due)
                heapq.heappush(self._due, due)
        self.wake()

    async def _tell(self, due_at: int, task_id: str, moment: int) -> None:
        task = self._store.find(task_id)
        if task is None or task.cancelled_ms is not None:
            return
        at = (task.created_at, task.start_at, task.end_at)[moment]
        is_skipped = moment == 1 and task.start_at == task.end_at
        # A task that was planned anew stands in the line again, at its new times.
        if due_at != at or is_skipped:
            return
        body = dump(self._render(task, at))
        retries = RETRIES if task.status(at) in _RETRIED else 0
        is_told = await self._deliver(task.spec.callback_url, body, retries)
        self._delivered_count += is_told
        self._failed_count += not is_told
        await self._store.write(
            ("UPDATE tasks SET notified = max(notified, ?) WHERE id = ?", (moment + 1, task_id))
        )

    async def _deliver(self, url: str, body: bytes, retries: int) -> bool:
        for attempt in range(retries + 1):
            if attempt:
                await asyncio.sleep(self._settings.callback_retry_wait_s)
            rule = self._faults.pick(Operation.CALLBACK, None)
            if await self._attempt(url, body, rule):
                return True
        return False

    async def _attempt(self, url: str, body: bytes, rule: Rule | None) -> bool:
        """Send once, as the rule has it, and return whether it was acknowledged."""
        action = None if rule is None else rule.action
        is_after = rule is not None and rule.at is Point.AFTER_ANSWER
        if rule is not None and action is Action.DELAY:
            await asyncio.sleep(rule.ms / 1000)
        if action in {Action.DROP, Action.ERROR} and not is_after:
            return False
        is_cut = action is Action.RESET and not is_after
        is_told = await self._post(url, body, is_cut=is_cut)
        if action is Action.DUPLICATE:
            await self._post(url, body, is_cut=False)
        return is_told and action not in {Action.DROP, Action.ERROR, Action.RESET}

    async def _post(self, url: str, body: bytes, *, is_cut: bool) -> bool:
        is_anywhere = self._settings.callbacks_anywhere
        try:
            async with asyncio.timeout(self._settings.callback_timeout_s):
                return await post_json(url, body, is_anywhere=is_anywhere, is_cut=is_cut)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            return False


async def post_json(url: str, body: bytes, *, is_anywhere: bool, is_cut: bool = False) -> bool:
    """Post JSON on a connection of its own and return whether the answer is a 2xx.

    `is_cut` sends half and resets the connection.

    Raises:
        OSError: the host can't be reached, or is not the loopback and must be.
        ValueError: the URL has no host or a bad port, or the answer's line is too long.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = await _resolve(parts.hostname or "", port, is_anywhere=is_anywhere)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        address,
        port,
        ssl=context,
        server_hostname=parts.hostname if context else None,
        limit=ANSWER_LINE_MAX,
    )
    try:
        request = _request(parts, body)
        if is_cut:
            writer.write(request[: len(request) // 2])
            await writer.drain()
            make_reset(writer)
            return False
        writer.write(request)
        await writer.drain()
        fields = (await reader.readline()).split(b" ", 2)
        return len(fields) >= 2 and fields[0].startswith(b"HTTP/1.") and fields[1][:1] == b"2"
    finally:
        writer.transport.abort()


def make_reset(writer: asyncio.StreamWriter) -> None:
    """Let the connection end with a TCP reset when it is closed now."""
    linger = struct.pack("ii", 1, 0)
    # A duplicate of the descriptor, because uvloop's socket object can't set options.
    with socket.fromfd(
        writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
    ) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _resolve(host: str, port: int, *, is_anywhere: bool) -> str:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    if not is_anywhere and not ipaddress.ip_address(address).is_loopback:
        raise OSError(f"callbacks go to the loopback only, not to {host}")
    return address


def _request(parts: SplitResult, body: bytes) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    if any(character in target + host for character in "\r\n \t"):
        raise ValueError("the URL holds white space")
    return head.encode("ascii", "strict") + body
