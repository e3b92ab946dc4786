"""The sandbox's own server: strict framing, bounded everything, keep-alive."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn

from gateway.sandbox.app import create_app
from gateway.sandbox.settings import SandboxSettings
from tests.sandbox.conftest import Opener
from tests.sandbox.support import ARK, Upstream, body, raw_request, send_raw

GET = b"GET /_sandbox/health HTTP/1.1\r\n"
HOST = b"Host: x\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://x/_sandbox/health HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (GET + b"\r\n", 400),
        (GET + HOST + HOST + b"\r\n", 400),
        (GET + HOST + b"X: a\r\n b\r\n\r\n", 400),
        (GET + HOST + b"X : a\r\n\r\n", 400),
        (GET + HOST + b"X: a\nY: b\r\n\r\n", 400),
        (GET + HOST + b"X: \x00\r\n\r\n", 400),
        (GET + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (GET + HOST + b"Content-Length: +3\r\n\r\nabc", 400),
        (GET + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (GET + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400),
        (GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0\r\n\r\n", 400),
        (GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
        (GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 40_000, 400),
        (GET + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (GET + HOST + b"X: a\r\n" * 101 + b"\r\n", 431),
    ],
)
async def test_refuses_what_two_parsers_might_read_in_two_ways(
    upstream: Upstream, request_bytes: bytes, status: int
) -> None:
    answer = await send_raw(upstream.url, request_bytes + raw_request("GET", "/_sandbox/health"))

    assert answer.status == status
    assert answer.received.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.received


async def test_takes_chunks(upstream: Upstream) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"model":'
        yield b'"doubao-seedance-1-0-pro-250528",'
        yield b'"content":[{"type":"text","text":"a"}]}'

    answer = await upstream.http.post(ARK, content=chunks())

    assert answer.status_code == 200


async def test_serves_many_requests_on_one_connection(upstream: Upstream) -> None:
    first = raw_request("POST", ARK, body(), close=False)
    last = raw_request("GET", "/_sandbox/health")

    answer = await send_raw(upstream.url, first + first + last)

    assert answer.received.count(b"HTTP/1.1 200 OK") == 3
    assert (await upstream.truth())["creates"] == 2


async def test_a_half_sent_request_makes_nothing(upstream: Upstream) -> None:
    request = raw_request("POST", ARK, body())

    await send_raw(upstream.url, request[:-10], then_wait=False)

    assert (await upstream.truth())["creates"] == 0


async def test_says_that_it_awaits_the_body(upstream: Upstream) -> None:
    request = raw_request("POST", ARK, body()).replace(
        b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"
    )

    answer = await send_raw(upstream.url, request)

    assert answer.received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_refuses_a_body_above_64_mib(upstream: Upstream) -> None:
    answer = await upstream.http.post(ARK, content=bytes(64 * 1024 * 1024 + 1))

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "InvalidParameter"


async def test_answers_early_without_reading_a_body(upstream: Upstream) -> None:
    answer = await upstream.http.post("/nowhere", content=b"x" * 5_000_000)

    assert answer.status_code == 404


async def test_drops_in_good_order_though_the_body_is_unread(upstream: Upstream) -> None:
    await upstream.set_faults({"operation": "create", "at": "before_read", "action": "drop"})
    request = raw_request("POST", ARK, body("x" * 500_000))

    answer = await send_raw(upstream.url, request)

    assert (answer.received, answer.was_reset) == (b"", False)


async def test_survives_text_that_no_encoding_has(upstream: Upstream) -> None:
    odd = "\ud800 \x00 \U0001f30a"
    task_id = await upstream.create(odd, safety_identifier=odd, callback_url=f"http://{odd}/")
    await upstream.post(body(odd), "/seedance/generations")
    await upstream.refuse(body(model=odd))
    listed = await upstream.http.get(f"{ARK}?filter.model=%ff%00&filter.task_ids=%ed%a0%80")

    assert (await upstream.get(task_id))["safety_identifier"] == odd
    assert (listed.status_code, listed.json()["total"]) == (200, 0)
    assert (await upstream.http.get(f"{ARK}/%ff%00")).status_code == 404
    assert (await upstream.truth())["creates"] == 2


async def test_accepts_no_more_connections_than_it_may(open_upstream: Opener) -> None:
    async with open_upstream(connections_max=1) as upstream:
        await upstream.create()
        answer = await send_raw(upstream.url, raw_request("GET", "/_sandbox/health"))

        assert answer.received == b""
        assert (await upstream.truth())["creates"] == 1


async def test_is_a_plain_asgi_application_too(settings: SandboxSettings) -> None:
    config = uvicorn.Config(create_app(settings), port=0, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    served = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": "Bearer k"},
            trust_env=False,
        ) as http:
            upstream = Upstream(f"http://127.0.0.1:{port}", http)
            done = await upstream.finish()
            await upstream.set_faults({"operation": "create", "at": "mid_answer", "action": "drop"})
            with pytest.raises(httpx.RemoteProtocolError):
                await upstream.post(body())
            assert (await upstream.truth())["creates"] == 2
    finally:
        server.should_exit = True
        await served

    assert done["status"] == "succeeded"
