"""Callbacks, received by a real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.sandbox.callbacks import post_json
from tests.sandbox.conftest import Opener
from tests.sandbox.support import Upstream

SECOND_STATE = 2


@dataclass
class Receiver:
    """Keeps what it is told. `answers` are the statuses to give, 0 for silence, 200 at the end."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    resets: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.bodies.append(json.loads(await reader.readexactly(length)))
            status = self.answers.pop(0) if self.answers else 200
            if status == 0:
                await reader.read()
            else:
                writer.write(f"HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (ConnectionResetError, asyncio.IncompleteReadError):
            self.resets += 1
        finally:
            self.news.set()
            writer.transport.abort()

    async def until(self, *, count: int, resets: int = 0) -> list[str]:
        """Return the statuses told, once there are `count` of them."""
        async with asyncio.timeout(10):
            while len(self.bodies) < count or self.resets < resets:
                self.news.clear()
                await self.news.wait()
        return [str(body["status"]) for body in self.bodies]


@asynccontextmanager
async def receiving(*answers: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers=list(answers))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/told?by=sandbox"
    try:
        yield receiver
    finally:
        server.close()


@pytest.fixture
async def impatient(open_upstream: Opener) -> AsyncIterator[Upstream]:
    async with open_upstream(callback_timeout_s=0.2, callback_retry_wait_s=0.01) as upstream:
        yield upstream


async def counts(upstream: Upstream, *, delivered: int, failed: int) -> None:
    """Wait until the sandbox has counted so many callbacks."""
    shown: object = None
    for _ in range(500):
        shown = (await upstream.truth())["callbacks"]
        if shown == {"delivered": delivered, "failed": failed}:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(shown)


async def test_tells_each_change_of_state(impatient: Upstream) -> None:
    async with receiving() as receiver:
        task_id = await impatient.create(callback_url=receiver.url)
        first = await receiver.until(count=1)
        await impatient.advance(60)
        await receiver.until(count=2)
        await impatient.advance(3000)
        statuses = await receiver.until(count=3)

        assert first == ["queued"]
        assert statuses == ["queued", "running", "succeeded"]
        assert receiver.bodies[2] == await impatient.get(task_id)
        assert set(receiver.bodies[1]) == {
            "id",
            "model",
            "status",
            "created_at",
            "updated_at",
            "service_tier",
            "execution_expires_after",
        }
        await counts(impatient, delivered=3, failed=0)


@pytest.mark.parametrize(("words", "last"), [("sandbox:fail", "failed"), ("a", "succeeded")])
async def test_tries_an_end_four_times(impatient: Upstream, words: str, last: str) -> None:
    async with receiving(200, 200, 500, 302, 404, 500, 200) as receiver:
        await impatient.create(words, callback_url=receiver.url)
        await receiver.until(count=1)
        await impatient.advance(60)
        await receiver.until(count=2)
        await impatient.advance(3000)
        statuses = await receiver.until(count=6)
        await counts(impatient, delivered=2, failed=1)

    assert statuses == ["queued", "running", last, last, last, last]
    assert len(receiver.bodies) == 6


async def test_tries_other_states_once(impatient: Upstream) -> None:
    async with receiving(500, 500, 500) as receiver:
        await impatient.create("sandbox:expire", callback_url=receiver.url)
        await impatient.advance(60)
        await receiver.until(count=2)
        await impatient.advance(3000)
        statuses = await receiver.until(count=3)
        await counts(impatient, delivered=0, failed=3)

    assert sorted(statuses) == ["expired", "queued", "running"]


async def test_silence_is_a_failure_after_a_while(impatient: Upstream) -> None:
    async with receiving(200, 200, 0, 200) as receiver:
        await impatient.create(callback_url=receiver.url)
        await impatient.advance(60)
        await receiver.until(count=2)
        await impatient.advance(3000)
        statuses = await receiver.until(count=4)
        await counts(impatient, delivered=3, failed=0)

    assert statuses[2:] == ["succeeded", "succeeded"]


async def test_a_cancelled_task_is_not_told_of(impatient: Upstream) -> None:
    async with receiving() as receiver:
        task_id = await impatient.create(callback_url=receiver.url)
        await receiver.until(count=1)
        await impatient.delete(task_id)
        other = await impatient.create(callback_url=receiver.url)
        await impatient.advance(3000)
        await receiver.until(count=4)

    assert [each["status"] for each in receiver.bodies if each["id"] == task_id] == ["queued"]
    assert {each["status"] for each in receiver.bodies if each["id"] == other} == {
        "queued",
        "running",
        "succeeded",
    }


async def test_follows_a_task_that_moves_up_in_the_queue(open_upstream: Opener) -> None:
    from gateway.sandbox.settings import SandboxLimits  # noqa: PLC0415

    async with open_upstream(limits=SandboxLimits(concurrency=1)) as upstream, receiving() as told:
        first = await upstream.create("sandbox:run=1000")
        await upstream.create("sandbox:run=10", callback_url=told.url)
        await told.until(count=1)
        await upstream.delete(first)
        await upstream.advance(60)
        statuses = await told.until(count=3)
        await upstream.advance(3000)
        await counts(upstream, delivered=3, failed=0)

    assert sorted(statuses) == ["queued", "running", "succeeded"]
    assert len(told.bodies) == 3


async def test_goes_on_after_a_restart(open_upstream: Opener) -> None:
    async with receiving() as receiver:
        async with open_upstream() as upstream:
            await upstream.create(callback_url=receiver.url)
            await receiver.until(count=1)
            await counts(upstream, delivered=1, failed=0)
        async with open_upstream() as upstream:
            await upstream.advance(3000)
            statuses = await receiver.until(count=3)

    assert statuses[0] == "queued"
    assert sorted(statuses[1:]) == ["running", "succeeded"]


@pytest.mark.parametrize(
    ("fault", "told", "resets", "failed"),
    [
        ({"action": "drop", "at": "before_read"}, 0, 0, 1),
        ({"action": "error", "at": "before_read"}, 0, 0, 1),
        ({"action": "reset", "at": "mid_body"}, 0, 1, 1),
        ({"action": "drop", "at": "after_answer"}, 1, 0, 1),
        ({"action": "duplicate", "at": "after_create"}, 2, 0, 0),
        ({"action": "delay", "at": "before_read", "ms": 50}, 1, 0, 0),
    ],
)
async def test_faults_act_on_callbacks(
    impatient: Upstream, fault: dict[str, object], told: int, resets: int, failed: int
) -> None:
    await impatient.set_faults({"operation": "callback", "times": 1, **fault})
    async with receiving() as receiver:
        await impatient.create(callback_url=receiver.url)
        await receiver.until(count=told, resets=resets)
        await counts(impatient, delivered=1 - failed, failed=failed)

    assert [each["status"] for each in receiver.bodies] == ["queued"] * told


async def test_a_receiver_that_is_not_there_costs_nothing(impatient: Upstream) -> None:
    await impatient.create(callback_url="http://127.0.0.1:1/nobody")
    await counts(impatient, delivered=0, failed=1)

    await impatient.create()


async def test_stays_on_the_loopback() -> None:
    with pytest.raises(OSError, match="loopback"):
        await post_json("http://192.0.2.1/", b"{}", is_anywhere=False)


@pytest.mark.parametrize("url", ["http:///x", "http://127.0.0.1:99999/", "http://127.0.0.1/a b"])
async def test_an_odd_url_is_a_failed_callback(impatient: Upstream, url: str) -> None:
    await impatient.create(callback_url=url)

    await counts(impatient, delivered=0, failed=1)
