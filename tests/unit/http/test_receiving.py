import asyncio
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from starlette.types import Message, Receive

from gateway.config import ServerConfig
from gateway.errors import Overloaded, RequestTimeout, RequestTooLarge, UnsupportedMediaType
from gateway.http.exchange import ClientDisconnected, Exchange
from gateway.http.receiving import BodyGate, check_media_type, read_body, receive_object
from tests.support.asgi import no_send


def a_receive(chunks: Iterable[bytes], *, ends: bool = True, leaves: bool = False) -> Receive:
    """A server that hands over `chunks`, then ends the body, or never says anything again."""

    def tell() -> Iterator[Message]:
        for chunk in chunks:
            yield {"type": "http.request", "body": chunk, "more_body": True}
        if ends:
            yield {"type": "http.request", "body": b"", "more_body": False}
        if leaves:
            yield {"type": "http.disconnect"}

    waiting = tell()

    async def receive() -> Message:
        for message in waiting:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def read(receive: Receive, server: ServerConfig | None = None, claimed: bytes = b"") -> bytes:
    gate = BodyGate(server or ServerConfig())
    headers = {b"content-length": claimed} if claimed else {}
    with gate.enter("proj") as hold:
        body = await read_body(receive, headers, gate.server, hold)
        assert gate.held_bytes == len(body)
        assert gate.receiving_count == 1
    assert (gate.held_bytes, gate.receiving_count) == (0, 0)
    return body


async def test_a_body_is_put_together_from_its_chunks() -> None:
    assert await read(a_receive([])) == b""
    assert await read(a_receive([b"a"])) == b"a"
    assert await read(a_receive([b"a", b"", b"bc"])) == b"abc"
    assert await read(a_receive([b"a"] * 10_000)) == b"a" * 10_000


async def test_one_byte_too_many_is_too_large_whatever_was_claimed() -> None:
    server = ServerConfig(body_bytes_max=10)

    assert await read(a_receive([b"a" * 10]), server, b"10") == b"a" * 10
    for chunks, claimed in (([b"a" * 11], b""), ([b"a"] * 11, b"3"), ([], b"11"), ([], b"9" * 99)):
        with pytest.raises(RequestTooLarge, match="10 bytes"):
            await read(a_receive(chunks, ends=False), server, claimed)


async def test_a_silent_body_is_given_up() -> None:
    server = ServerConfig(body_deadline_s=0.05)

    with pytest.raises(RequestTimeout):
        await read(a_receive([b"{"], ends=False), server)


async def test_bytes_that_came_buy_time() -> None:
    server = ServerConfig(body_deadline_s=0.05, body_rate_bytes_s_min=1000)
    receive = a_receive([b"a" * 10_000], ends=False)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await read(receive, server)


async def test_a_client_that_left_is_no_error_of_the_body() -> None:
    with pytest.raises(ClientDisconnected):
        await read(a_receive([b"{"], ends=False, leaves=True))


async def test_only_so_many_bodies_are_received_at_once() -> None:
    gate = BodyGate(ServerConfig(body_concurrency_max=2))
    with gate.enter("one"), gate.enter("other") as second:
        with pytest.raises(Overloaded) as caught:
            gate.enter("proj")
        second.arrived()
        second.arrived()
        with gate.enter("proj"):
            assert gate.receiving_count == 2

    assert caught.value.retry_after_s
    assert gate.receiving_count == 0


async def test_all_bodies_together_hold_only_so_many_bytes() -> None:
    gate = BodyGate(ServerConfig(body_bytes_max=100, bodies_bytes_max=100))
    with gate.enter("proj") as first:
        first.take(60)
        first.arrived()
        with pytest.raises(Overloaded), gate.enter("proj") as second:
            second.take(41)
        assert gate.held_bytes == 60

    assert (gate.held_bytes, gate.receiving_count) == (0, 0)


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"; x=y',
        b"application/json; boundary=x",
    ],
)
def test_plain_json_in_utf8_is_taken(given: bytes | None) -> None:
    check_media_type({} if given is None else {b"content-type": given})


@pytest.mark.parametrize(
    "headers",
    [
        {b"content-type": b"text/plain"},
        {b"content-type": b"application/jsonx"},
        {b"content-type": b"application/json, text/plain"},
        {b"content-type": b"multipart/form-data; boundary=application/json"},
        {b"content-type": b"application/json; charset=utf-16"},
        {b"content-type": b"application/json; charset="},
        {b"content-encoding": b"gzip"},
        {b"content-encoding": b"identity"},
    ],
)
def test_any_other_form_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(UnsupportedMediaType):
        check_media_type(headers)


async def test_a_large_body_is_never_held_three_times() -> None:
    size = 30 * 1024 * 1024
    start, end = b'{"image":"data:image/png;base64,', b'"}'
    chunk = b"A" * 65_536

    def chunks() -> Iterator[bytes]:
        yield start
        for _ in range(size // len(chunk)):
            yield chunk
        yield end

    gate = BodyGate(ServerConfig())
    exchange = Exchange(
        {"method": "POST", "query_string": b""}, a_receive(chunks()), no_send, {}, "req", 0.0
    )
    tracemalloc.start()
    try:
        with gate.enter("proj") as hold:
            parsed = await receive_object(exchange, gate, hold)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(str(parsed["image"])) == size + len(start) - len(b'{"image":"')
    assert peak < 2.5 * size


async def test_a_large_body_is_parsed_like_a_small_one() -> None:
    gate = BodyGate(ServerConfig(body_inline_bytes_max=10))
    for body in (b'{"a":1}', b'{"a":1}' + b" " * 100):
        scope = {"method": "POST", "query_string": b""}
        exchange = Exchange(scope, a_receive([body]), no_send, {}, "req", 0.0)
        with gate.enter("proj") as hold:
            assert await receive_object(exchange, gate, hold) == {"a": 1}
        assert exchange.received_bytes == len(body)


async def test_a_project_gets_half_of_the_places_and_leaves_the_others_theirs() -> None:
    gate = BodyGate(ServerConfig(body_concurrency_max=4))
    with gate.enter("greedy"), gate.enter("greedy"):
        with pytest.raises(Overloaded):
            gate.enter("greedy")
        with gate.enter("other"), gate.enter("third"), pytest.raises(Overloaded):
            gate.enter("fourth")

    assert not gate.receiving_by_project


async def test_a_project_holds_half_of_the_bytes() -> None:
    gate = BodyGate(ServerConfig(body_bytes_max=10, bodies_bytes_max=100))
    with gate.enter("greedy") as first, gate.enter("other") as second:
        first.take(50)
        second.take(40)
        with pytest.raises(Overloaded):
            first.take(1)

    assert not gate.held_by_project
