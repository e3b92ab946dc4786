"""Clients that hang up: whenever they do, money goes the way that it would have gone."""

import asyncio
import json
from collections.abc import Sequence

import httpx
import pytest

from gateway.domain.limits import Account, Metric
from gateway.domain.tasks import TaskState
from gateway.ports import Runtime
from gateway.storage import tasks
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import MODEL, SURFACES, Keys
from tests.support.spending import HOLD, find_accounts, set_limits, used_of

PATH = SURFACES[0]
CLIENTS_COUNT = 40
STEP_S = 0.0005


@pytest.fixture
async def accounts(runtime: Runtime, keys: Keys) -> Sequence[Account]:
    return await find_accounts(runtime, keys)


async def submit_and_leave(port: int, authorization: str, number: int) -> None:
    """Send a request, each another one, and hang up without a word some time later."""
    content = [{"type": "text", "text": f"A fox {number} --resolution 480p --duration 5"}]
    body = json.dumps({"model": MODEL, "content": content}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: {authorization}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    await asyncio.sleep(number * STEP_S)
    writer.transport.abort()


async def test_whenever_a_client_hangs_up_what_was_sent_is_held_and_nothing_else_is(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    accounts: Sequence[Account],
    port: int,
) -> None:
    await set_limits(runtime, accounts, {Metric.MONEY: 10**12})
    for number in range(CLIENTS_COUNT):
        await submit_and_leave(port, client.headers["authorization"], number)
    for _ in range(3):  # what was received before is begun by then
        await client.get("/seedance/limits")
        await runtime.background.drain()

    sent = [each.attempt_id for each in upstream.submits]
    stored = await runtime.db.read(tasks.list_all, 100)
    assert len(set(sent)) == len(sent) > 0
    assert {task.id for task in stored} == set(sent)
    assert {task.state for task in stored} == {TaskState.QUEUED}
    assert await used_of(client) == [(0, len(sent) * HOLD)] * 3
