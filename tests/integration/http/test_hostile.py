"""Hostile HTTP in bytes against real servers: one message a request, bounded time and memory."""

import asyncio
import json
import re
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from gateway.app import create_app
from gateway.config import Config
from gateway.ports import Runtime
from gateway.services import admin
from tests.support.listening import SERVERS, exchange_bytes, listening
from tests.support.waiting import eventually

PATH = b"/seedance/generations"
GET = b"GET " + PATH + b" HTTP/1.1\r\n"
POST = b"POST " + PATH + b" HTTP/1.1\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")


@pytest.fixture
def config(config: Config) -> Config:
    """Small limits, so that a test passes them in no time."""
    server = config.server.model_copy(
        update={
            "allowed_hosts": ("gateway.example", "127.0.0.1"),
            "body_bytes_max": 200_000,
            "body_deadline_s": 0.3,
            "body_rate_bytes_s_min": 10_000,
            "body_inline_bytes_max": 1_000,
        }
    )
    return config.model_copy(update={"server": server})


@pytest.fixture
async def head(runtime: Runtime) -> bytes:
    """The headers of a good request."""
    created = await admin.create_key(runtime, "test", "default")
    return b"Host: gateway.example\r\nAuthorization: Bearer " + created.key.encode() + b"\r\n"


@pytest.fixture(params=SERVERS)
async def port(runtime: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with listening(create_app(runtime), request.param) as number:
        yield number


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in STATUS_LINE.findall(received)]


async def test_no_head_is_read_in_two_ways(port: int, head: bytes) -> None:
    authorization = head.partition(b"\r\n")[2]
    cases: dict[str, tuple[bytes, set[int]]] = {
        "good": (GET + head, {200}),
        "host with a port, upper case": (
            GET + b"Host: GATEWAY.example:8080\r\n" + authorization,
            {200},
        ),
        "no host": (GET + authorization, {400}),
        "two hosts": (GET + b"Host: gateway.example\r\n" + head, {400}),
        "host of somebody else": (GET + b"Host: other.example\r\n" + authorization, {400}),
        "two keys": (GET + head + authorization, {400}),
        "key in another case, twice": (GET + head + b"AUTHORIZATION: x\r\n", {400}),
        "key outside ascii": (GET + b"Host: gateway.example\r\nAuthorization: \xff\r\n", {400}),
        "underscores": (GET + head + b"content_length: 5\r\n", {400}),
        "two request ids": (GET + head + b"X-Request-Id: a\r\nX-Request-Id: b\r\n", {400}),
        "101 headers": (GET + head + b"a: b\r\n" * 101, {400, 431}),
        "long header that is read": (GET + head + b"Prefer: " + b"a" * 9_000 + b"\r\n", {400}),
        "header of 100 KB": (GET + head + b"a: " + b"b" * 100_000 + b"\r\n", {200, 400, 431}),
        "encoded slash": (b"GET /seedance%2fgenerations HTTP/1.1\r\n" + head, {400}),
        "encoded dots": (b"GET /%2e%2e/admin HTTP/1.1\r\n" + head, {400}),
        "dot segments": (b"GET /seedance/../seedance/generations HTTP/1.1\r\n" + head, {400}),
        "double slash": (b"GET //seedance/generations HTTP/1.1\r\n" + head, {400}),
        "backslash": (b"GET /seedance\\generations HTTP/1.1\r\n" + head, {400}),
        "encoded nul": (b"GET /seedance%00 HTTP/1.1\r\n" + head, {400}),
        "raw utf-8": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + head, {400}),
        "long path": (b"GET /" + b"a" * 2_000 + b" HTTP/1.1\r\n" + head, {400}),
        "long query": (GET[:-11] + b"?a=" + b"b" * 31_000 + b" HTTP/1.1\r\n" + head, {400, 431}),
        "absolute form": (b"GET http://gateway.example/livez HTTP/1.1\r\n" + head, {200, 400}),
        "options of the server": (b"OPTIONS * HTTP/1.1\r\n" + head, {400, 405}),
        "trace": (b"TRACE " + PATH + b" HTTP/1.1\r\n" + head, {400, 405}),
        "upgrade": (
            GET + head + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
            {200},
        ),
        "websocket": (
            GET
            + head
            + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            {200, 403},
        ),
        "space before the colon": (GET + head + b"Prefer : x\r\n", {400}),
        "folded header": (GET + head + b"X-Y: a\r\n b\r\n", {400}),
        "bare line feeds": (GET.replace(b"\r\n", b"\n") + head + b"X: y\n", {200, 400}),
        "http/9.9": (b"GET /livez HTTP/9.9\r\n" + head, {400, 505}),
    }
    for name, (sent, allowed) in cases.items():
        received, is_closed = await exchange_bytes(port, sent + b"\r\n", quiet_s=0.3)
        got = statuses(received)

        assert len(got) == 1, (name, received)
        assert got[0] in allowed, (name, received)
        if got[0] == 400:
            assert is_closed, name


async def test_a_refusal_by_the_guard_is_in_the_vendors_envelope(port: int, head: bytes) -> None:
    received, _ = await exchange_bytes(port, GET + head + b"Host: b\r\n\r\n", quiet_s=0.3)

    error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "InvalidParameter"
    assert "host is given more than once" in error["message"]


async def test_no_request_hides_in_a_body(port: int, head: bytes) -> None:
    hidden = b"GET /livez HTTP/1.1\r\nHost: gateway.example\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(hidden)
    cases = {
        "content-length and chunked": POST
        + head
        + length
        + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + hidden,
        "different lengths": POST + head + b"Content-Length: 0\r\n" + length + b"\r\n" + hidden,
        "length with a sign": POST + head + b"Content-Length: +0\r\n\r\n" + hidden,
        "chunked twice": POST
        + head
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
        + hidden,
        "unread body of a refused request": POST
        + head
        + b"X: y\r\nHost: b\r\n"
        + length
        + b"\r\n"
        + hidden,
        "unread body of a read": GET + head + length + b"\r\n" + hidden,
        "chunk size with a bare line feed": POST
        + head
        + b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n"
        + hidden,
    }
    for name, sent in cases.items():
        received, _ = await exchange_bytes(port, sent, quiet_s=0.3)

        assert len(statuses(received)) <= 1, (name, received)
        assert b'{"status":"ok"}' not in received, name


async def test_pipelined_answers_keep_their_order(port: int, head: bytes) -> None:
    sent = b"".join(GET + head + b"X-Request-Id: id-%d\r\n\r\n" % number for number in range(20))

    received, _ = await exchange_bytes(port, sent, quiet_s=0.5)

    assert statuses(received) == [200] * 20
    ids = re.findall(rb"x-request-id: id-(\d+)", received, re.IGNORECASE)
    assert ids == [b"%d" % number for number in range(20)]


async def test_a_claimed_length_over_the_cap_is_refused_at_once(port: int, head: bytes) -> None:
    for claimed in (b"200001", b"9" * 18):
        received, is_closed = await exchange_bytes(
            port, POST + head + b"Content-Length: " + claimed + b"\r\n\r\n"
        )

        assert statuses(received) == [413]
        assert is_closed


async def test_received_bytes_over_the_cap_are_refused_whatever_was_claimed(
    port: int, head: bytes
) -> None:
    chunk = b"2000\r\n" + b"a" * 0x2000 + b"\r\n"

    received, is_closed = await exchange_bytes(
        port, POST + head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 40
    )

    assert statuses(received) == [413]
    assert is_closed


async def test_a_body_that_stops_coming_is_given_up(port: int, head: bytes) -> None:
    received, is_closed = await exchange_bytes(
        port, POST + head + b"Content-Length: 1000\r\n\r\n{", quiet_s=20
    )

    assert statuses(received) == [408]
    assert is_closed


async def test_a_steady_body_may_take_longer_than_a_silent_one(port: int, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    writer.write(POST + head + b"Content-Length: 200000\r\n\r\n")
    for _ in range(16):
        writer.write(b" " * 12_500)
        await writer.drain()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        received = await reader.readuntil(b"\r\n")
    writer.close()

    assert loop.time() - started_s > 0.3
    assert statuses(received) == [400]


async def test_a_flood_of_one_byte_chunks_costs_no_more_than_its_bytes(
    port: int, head: bytes, runtime: Runtime
) -> None:
    del runtime
    sent = (
        POST
        + head
        + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 20_000
    )
    tracemalloc.start()
    try:
        async with asyncio.timeout(30):
            received, _ = await exchange_bytes(port, sent + b"0\r\n\r\n", quiet_s=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert statuses(received) in ([400], [408])
    assert peak < 8 * 1024 * 1024


async def test_a_client_that_leaves_in_the_middle_of_its_body_changes_nothing(
    port: int, head: bytes, runtime: Runtime
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + head + b"Content-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    counts = runtime.metrics.http_requests.values
    await eventually(lambda: counts.get(("/seedance/generations", "POST", "499")))

    received, _ = await exchange_bytes(port, GET + head + b"\r\n", quiet_s=0.3)
    assert statuses(received) == [200]


async def test_a_large_body_is_parsed_beside_the_loop(port: int, head: bytes) -> None:
    body = json.dumps({"model": "x", "content": [{"type": "text", "text": "a" * 15_000}]}).encode()

    received, _ = await exchange_bytes(
        port, POST + head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    assert statuses(received) == [404]
    assert b"InvalidEndpointOrModel.NotFound" in received


async def test_a_stranger_is_refused_before_a_byte_of_the_body_is_asked_for(port: int) -> None:
    received, _ = await exchange_bytes(
        port,
        POST + b"Host: gateway.example\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n",
        quiet_s=0.3,
    )

    assert statuses(received) == [401]
