"""What is certain after a call that went wrong: all the ways of a peer to break a connection."""

import asyncio
import gzip
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from gateway.config import CredentialConfig, UpstreamConfig
from gateway.errors import (
    ConfigurationError,
    GatewayError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.client import UpstreamClient
from tests.support.raw_upstream import (
    RawConnection,
    RawUpstream,
    Script,
    always,
    answer_bytes,
    json_answer,
)
from tests.support.tls import make_self_signed

CANARY = "canary-8d1c3f0ab7"
BODY = b'{"model":"m","content":[]}'
TASK_ID = "cgt-20260101000000-abcde"
ACCEPTED = json_answer({"id": TASK_ID})
SHORT_S = 0.3
PATH = "/api/v3/contents/generations/tasks"


def config_for(base_url: str, **settings: object) -> UpstreamConfig:
    return UpstreamConfig.model_validate(
        {
            "name": "one",
            "base_url": base_url,
            "credentials": [CredentialConfig(name="main", env="UNUSED")],
            "connect_timeout_s": 20,
            "write_timeout_s": 20,
            "answer_timeout_s": 20,
            "read_timeout_s": 20,
            **settings,
        }
    )


@asynccontextmanager
async def client_of(base_url: str, **settings: object) -> AsyncIterator[UpstreamClient]:
    tasks_url = f"{base_url}/contents/generations/tasks"
    client = UpstreamClient(
        config_for(base_url, **settings), tasks_url, {"main": SecretStr(CANARY)}
    )
    try:
        yield client
    finally:
        await client.close()


def assert_no_canary(error: BaseException) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert CANARY not in told


async def submit_to(upstream: RawUpstream, body: bytes = BODY, **settings: object) -> GatewayError:
    """Submit and return the fault, after checking that it is told without the credential."""
    async with client_of(upstream.base_url, **settings) as client:
        with pytest.raises(GatewayError) as caught:
            await client.submit("main", body, "attempt-1")
    assert_no_canary(caught.value)
    return caught.value


# --- a byte left: nobody can know ----------------------------------------------------------------


async def closes_after_reading_all(connection: RawConnection) -> None:
    await connection.read_request()


async def resets_after_reading_all(connection: RawConnection) -> None:
    await connection.read_request()
    connection.reset()


async def resets_after_the_head(connection: RawConnection) -> None:
    await connection.read_head()
    connection.reset()


async def resets_at_once(connection: RawConnection) -> None:
    connection.reset()


async def closes_at_once(connection: RawConnection) -> None:
    """Return, which closes."""


async def never_answers(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.wait_until_left()


def says(data: bytes) -> Script:
    async def script(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(data)

    return script


def says_and_stalls(data: bytes) -> Script:
    async def script(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(data)
        await connection.wait_until_left()

    return script


async def trickles(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await connection.send(b" ")
        await asyncio.sleep(0.05)


async def endless_head(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await connection.send(b"X-Filler: " + b"a" * 1000 + b"\r\n")


async def endless_header_line(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    while True:
        await connection.send(b"a" * 10_000)


async def endless_body(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")


HALF_AN_ANSWER = ACCEPTED[: -len(b'abcde"}')]
BOMB = gzip.compress(b" " * 20_000_000)
stalls_in_the_head = says_and_stalls(b"HTTP/1.1 200 OK\r\nContent-Len")
stalls_in_the_body = says_and_stalls(HALF_AN_ANSWER)
SILENT = {never_answers, trickles, stalls_in_the_head, stalls_in_the_body}
AMBIGUOUS: dict[str, Script] = {
    "closes after reading all": closes_after_reading_all,
    "resets after reading all": resets_after_reading_all,
    "resets after the head": resets_after_the_head,
    "resets right after accept": resets_at_once,
    "closes right after accept": closes_at_once,
    "never answers": never_answers,
    "partial head": says(b"HTTP/1.1 200 OK\r\nContent-Len"),
    "partial head, then silence": stalls_in_the_head,
    "garbage": says(b"\x00\xff\x16\x03 garbage\r\n\r\n"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "100, then close": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100, then garbage": says(b"HTTP/1.1 100 Continue\r\n\r\n\x00\x00\r\n\r\n"),
    "200, truncated": says(HALF_AN_ANSWER),
    "200, stalled": stalls_in_the_body,
    "200, trickled past the deadline": trickles,
    "200, truncated chunks": says(
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\n'
    ),
    "200, two lengths": says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}\n"
    ),
    "200, impossible length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "switches protocols": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "compressed": says(answer_bytes(BOMB, headers=("Content-Encoding: gzip",))),
    "compressed twice": says(answer_bytes(BOMB, headers=("Content-Encoding: gzip, gzip",))),
    "compressed in transfer": says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    ),
    "announced as too large": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}"),
    "too large": endless_body,
    "too large, by one byte": says(answer_bytes(b" " * 65537)),
    "endless head": endless_head,
    "endless header line": endless_header_line,
}


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_a_submit_whose_bytes_left_is_ambiguous_and_never_repeated(case: str) -> None:
    answer_timeout_s = SHORT_S if AMBIGUOUS[case] in SILENT else 20
    async with RawUpstream(AMBIGUOUS[case]) as upstream:
        fault = await submit_to(upstream, answer_bytes_max=65536, answer_timeout_s=answer_timeout_s)

        assert type(fault) is UpstreamAmbiguous
        assert upstream.connection_count == 1
        assert len(upstream.requests) <= 1


async def test_a_submit_that_the_peer_does_not_read_is_ambiguous() -> None:
    async def reads_nothing(_: RawConnection) -> None:
        await asyncio.Event().wait()

    async with RawUpstream(reads_nothing) as upstream:
        fault = await submit_to(upstream, body=b" " * 50_000_000, write_timeout_s=SHORT_S)

        assert type(fault) is UpstreamAmbiguous
        assert "WriteTimeout" in fault.message
        assert upstream.connection_count == 1


async def test_a_slow_reader_is_waited_for_while_it_makes_progress() -> None:
    """The write time-out counts from the last progress, not from the first byte."""
    body = b" " * 32_000_000

    async def reads_slowly(connection: RawConnection) -> None:
        await connection.read_head()
        left = len(body)
        while left > 0:
            left -= len(await connection._reader.read(1_000_000))
            await asyncio.sleep(0.02)
        await connection.send(ACCEPTED)

    async with (
        RawUpstream(reads_slowly) as upstream,
        client_of(upstream.base_url, write_timeout_s=1.0) as client,
    ):
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        answer = await client.submit("main", body, "attempt-1")

        assert answer.status == 200
        assert loop.time() - started_s > 1.0, "too quick to have shown anything"


# --- no byte left: it may go again ----------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def submit_in_vain(base_url: str, **settings: object) -> GatewayError:
    async with client_of(base_url, **settings) as client:
        with pytest.raises(GatewayError) as caught:
            await client.submit("main", BODY, "attempt-1")
    assert_no_canary(caught.value)
    return caught.value


async def test_a_refused_connection_proves_that_nothing_was_sent() -> None:
    fault = await submit_in_vain(f"http://127.0.0.1:{closed_port()}")

    assert type(fault) is UpstreamUnavailable


async def test_an_unknown_host_proves_that_nothing_was_sent() -> None:
    fault = await submit_in_vain("http://no-such-host.invalid/api/v3", connect_timeout_s=10)

    assert type(fault) is UpstreamUnavailable


async def test_a_host_name_that_no_resolver_takes_proves_that_nothing_was_sent() -> None:
    fault = await submit_in_vain(f"http://{'a' * 64}.example/api/v3")

    assert type(fault) is UpstreamUnavailable


async def test_a_connect_time_out_proves_that_nothing_was_sent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # a full backlog leaves every further SYN unanswered
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))

            fault = await submit_in_vain(f"http://127.0.0.1:{port}", connect_timeout_s=SHORT_S)
        finally:
            for filler in fillers:
                filler.close()

    assert type(fault) is UpstreamUnavailable


async def test_a_failed_tls_handshake_proves_that_nothing_was_sent() -> None:
    async def speaks_plain(connection: RawConnection) -> None:
        await connection.send(answer_bytes(b"{}", status=400))

    async with RawUpstream(speaks_plain) as upstream:
        fault = await submit_in_vain(upstream.base_url.replace("http:", "https:"))

        assert type(fault) is UpstreamUnavailable
        assert upstream.connection_count == 1


async def test_a_silent_tls_handshake_proves_that_nothing_was_sent() -> None:
    async with RawUpstream(RawConnection.wait_until_left) as upstream:
        base_url = upstream.base_url.replace("http:", "https:")
        fault = await submit_in_vain(base_url, connect_timeout_s=SHORT_S)

    assert type(fault) is UpstreamUnavailable


async def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    ours = make_self_signed(tmp_path)

    async with RawUpstream(always(ACCEPTED), tls=ours.context) as upstream:
        fault = await submit_in_vain(upstream.base_url)

        assert type(fault) is UpstreamUnavailable
        assert upstream.requests == []


async def test_a_certificate_for_another_address_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    other = make_self_signed(tmp_path, "127.0.0.2")

    async with RawUpstream(always(ACCEPTED), tls=other.context) as upstream:
        fault = await submit_in_vain(upstream.base_url, ca_file=other.ca_file)

        assert type(fault) is UpstreamUnavailable
        assert upstream.requests == []


async def test_a_configured_authority_is_trusted(tmp_path: Path) -> None:
    ours = make_self_signed(tmp_path)

    async with (
        RawUpstream(always(ACCEPTED), tls=ours.context) as upstream,
        client_of(upstream.base_url, ca_file=ours.ca_file) as client,
    ):
        answer = await client.submit("main", BODY, "attempt-1")

    assert answer.status == 200


async def test_waiting_in_vain_for_a_free_connection_proves_that_nothing_was_sent() -> None:
    released = asyncio.Event()

    async def answers_when_released(connection: RawConnection) -> None:
        await connection.read_request()
        await released.wait()
        await connection.send(ACCEPTED)

    async with (
        RawUpstream(answers_when_released) as upstream,
        client_of(upstream.base_url, connections_max=1, connect_timeout_s=SHORT_S) as client,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(client.submit("main", BODY, "attempt-1"))
        await upstream.wait_for_requests(1)

        fault = await _fault_of(client.submit("main", BODY, "attempt-2"))

        assert type(fault) is UpstreamUnavailable
        assert upstream.connection_count == 1
        released.set()
        assert (await first).status == 200
        assert (await client.submit("main", BODY, "attempt-3")).status == 200


async def _fault_of(call: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await call
    return caught.value


# --- proxies --------------------------------------------------------------------------------------


async def refuses_the_tunnel(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(answer_bytes(b"no", status=403))


@pytest.mark.parametrize(
    "script", [refuses_the_tunnel, closes_after_reading_all, never_answers, resets_at_once]
)
async def test_a_proxy_that_opens_no_tunnel_proves_that_nothing_was_sent(script: Script) -> None:
    async with RawUpstream(script) as proxy:
        address = f"http://user:{CANARY}@127.0.0.1:{proxy.port}"
        connect_timeout_s = SHORT_S if script is never_answers else 20
        fault = await submit_in_vain(
            "https://ark.example/api/v3", proxy=address, connect_timeout_s=connect_timeout_s
        )

        assert type(fault) is UpstreamUnavailable
        assert [request.method for request in proxy.requests] in ([], ["CONNECT"])
        assert proxy.connection_count == 1


async def test_a_failed_handshake_behind_a_tunnel_proves_that_nothing_was_sent() -> None:
    async def opens_a_tunnel_to_nowhere(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async with RawUpstream(opens_a_tunnel_to_nowhere) as proxy:
        fault = await submit_in_vain(
            "https://ark.example/api/v3", proxy=f"http://127.0.0.1:{proxy.port}"
        )

        assert type(fault) is UpstreamUnavailable
        assert all(CANARY not in str(request) for request in proxy.requests)


async def test_a_proxy_that_loses_a_forwarded_submit_leaves_it_ambiguous() -> None:
    async with RawUpstream(closes_after_reading_all) as proxy:
        fault = await submit_in_vain(
            "http://ark.example/api/v3", proxy=f"http://127.0.0.1:{proxy.port}"
        )

        assert type(fault) is UpstreamAmbiguous
        assert [request.target for request in proxy.requests] == [f"http://ark.example{PATH}"]


async def test_a_configured_proxy_carries_the_call() -> None:
    async with (
        RawUpstream(always(ACCEPTED)) as proxy,
        client_of("http://ark.example/api/v3", proxy=f"http://127.0.0.1:{proxy.port}") as client,
    ):
        answer = await client.submit("main", BODY, "attempt-1")

        assert answer.status == 200
        assert proxy.requests[0].header("host") == "ark.example"


async def test_the_environment_is_never_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with (
        RawUpstream(always(ACCEPTED)) as sink,
        RawUpstream(always(ACCEPTED)) as upstream,
    ):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{sink.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of(upstream.base_url) as client:
            await client.submit("main", BODY, "attempt-1")
            await client.get("main", TASK_ID)

        assert sink.connection_count == 0
        assert len(upstream.requests) == 2


# --- answers --------------------------------------------------------------------------------------


async def test_a_submit_is_one_plain_request_built_from_nothing() -> None:
    async with (
        RawUpstream(always(ACCEPTED)) as upstream,
        client_of(upstream.base_url) as client,
    ):
        answer = await client.submit("main", BODY, "attempt-1")

        assert (answer.status, answer.body) == (200, b'{"id": "cgt-20260101000000-abcde"}')
        (request,) = upstream.requests
        assert (request.method, request.target, request.body) == ("POST", PATH, BODY)
        assert dict(request.headers) == {
            "Host": f"127.0.0.1:{upstream.port}",
            "User-Agent": "seedance-gateway",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {CANARY}",
            "Content-Type": "application/json",
            "Content-Length": str(len(BODY)),
            "X-Client-Request-Id": "attempt-1",
        }


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000

    async with (
        RawUpstream(always(ACCEPTED)) as upstream,
        client_of(upstream.base_url) as client,
    ):
        await client.submit("main", body, "attempt-1")

        assert upstream.requests[0].body == body
        assert upstream.requests[0].header("transfer-encoding") is None


async def test_each_submit_has_a_connection_of_its_own() -> None:
    async with (
        RawUpstream(always(ACCEPTED)) as upstream,
        client_of(upstream.base_url) as client,
    ):
        for number in range(3):
            await client.submit("main", BODY, f"attempt-{number}")

        assert (upstream.connection_count, len(upstream.requests)) == (3, 3)


async def test_reads_share_a_connection() -> None:
    async with (
        RawUpstream(always(ACCEPTED)) as upstream,
        client_of(upstream.base_url) as client,
    ):
        await client.get("main", TASK_ID)
        await client.list("main", [("filter.task_ids", "a"), ("filter.task_ids", "b/c")])
        await client.delete("main", TASK_ID)

        assert upstream.connection_count == 1
        assert [(request.method, request.target) for request in upstream.requests] == [
            ("GET", f"{PATH}/{TASK_ID}"),
            ("GET", f"{PATH}?filter.task_ids=a&filter.task_ids=b%2Fc"),
            ("DELETE", f"{PATH}/{TASK_ID}"),
        ]
        assert all(request.body == b"" for request in upstream.requests)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_answers_and_never_followed(status: int) -> None:
    async with RawUpstream(always(ACCEPTED)) as sink:
        answer = answer_bytes(b"", status=status, headers=(f"Location: {sink.base_url}",))
        async with RawUpstream(always(answer)) as upstream, client_of(upstream.base_url) as client:
            submitted = await client.submit("main", BODY, "attempt-1")
            read = await client.get("main", TASK_ID)

            assert (submitted.status, read.status) == (status, status)
            assert sink.connection_count == 0


async def test_an_answer_that_ends_with_the_connection_is_complete() -> None:
    script = says(b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"id":"x-1"}')

    async with RawUpstream(script) as upstream, client_of(upstream.base_url) as client:
        answer = await client.submit("main", BODY, "attempt-1")

    assert answer.body == b'{"id":"x-1"}'


async def test_an_answer_given_before_the_body_was_read_is_taken() -> None:
    async def refuses_early(connection: RawConnection) -> None:
        await connection.read_head()
        await connection.send_json({"error": {"code": "TooLarge", "message": "no"}}, status=413)
        await connection.wait_until_left()

    async with (
        RawUpstream(refuses_early) as upstream,
        client_of(upstream.base_url) as client,
    ):
        answer = await client.submit("main", b" " * 5_000_000, "attempt-1")

    assert answer.status == 413


async def test_an_answer_may_take_longer_than_connecting() -> None:
    async def thinks(connection: RawConnection) -> None:
        await connection.read_request()
        await asyncio.sleep(3 * SHORT_S)
        await connection.send(ACCEPTED)

    async with (
        RawUpstream(thinks) as upstream,
        client_of(upstream.base_url, connect_timeout_s=SHORT_S) as client,
    ):
        answer = await client.submit("main", BODY, "attempt-1")

    assert answer.status == 200


async def test_cookies_and_other_headers_do_not_come_back() -> None:
    answer = answer_bytes(
        b"{}", headers=("Set-Cookie: a=b", "Retry-After: 3", "X-Request-Id: r-1", "Server: x")
    )

    async with RawUpstream(always(answer)) as upstream, client_of(upstream.base_url) as client:
        first = await client.get("main", TASK_ID)
        await client.get("main", TASK_ID)

        assert first.headers == {"retry-after": "3", "x-request-id": "r-1"}
        assert upstream.requests[1].header("cookie") is None


async def test_an_upstream_that_echoes_the_credential_does_not_spread_it() -> None:
    answer = answer_bytes(
        f'{{"id":"x-1","seen":"Bearer {CANARY}"}}'.encode(), headers=(f"X-Request-Id: {CANARY}",)
    )

    async with RawUpstream(always(answer)) as upstream, client_of(upstream.base_url) as client:
        submitted = await client.submit("main", BODY, "attempt-1")
        read = await client.get("main", TASK_ID)

    for got in (submitted, read):
        assert got.body == b'{"id":"x-1","seen":"Bearer [secret]"}'
        assert CANARY not in str(got.headers)


async def test_a_cancelled_submit_closes_its_connection_and_frees_its_slot() -> None:
    left = asyncio.Event()

    async def waits_for_the_end(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()
        left.set()

    async with (
        RawUpstream(waits_for_the_end) as upstream,
        client_of(upstream.base_url, connections_max=1) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(2):
            left.clear()
            call = group.create_task(client.submit("main", BODY, f"attempt-{number}"))
            await upstream.wait_for_requests(number + 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await left.wait()


# --- other transports behind the same seam --------------------------------------------------------


class OddTransport(httpx.AsyncBaseTransport):
    """A transport that traces nothing, fails with `error`, or answers and then fails to close."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.error is not None:
            raise self.error
        return httpx.Response(200, stream=httpx.ByteStream(b'{"id":"x-1"}'), request=request)

    async def aclose(self) -> None:
        if self.error is None:
            raise RuntimeError("the handler is closed")


def client_over(transport: httpx.AsyncBaseTransport) -> UpstreamClient:
    config = config_for("http://127.0.0.1:9/api/v3")
    credentials = {"main": SecretStr(CANARY)}
    return UpstreamClient(config, config.base_url, credentials, lambda: transport)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("no"), UpstreamUnavailable),
        (httpx.ConnectTimeout("no"), UpstreamUnavailable),
        (httpx.PoolTimeout("no"), UpstreamUnavailable),
        (httpx.ReadError("no"), UpstreamAmbiguous),
        (httpx.ReadTimeout("no"), UpstreamAmbiguous),
        (httpx.RemoteProtocolError("no"), UpstreamAmbiguous),
        (httpx.LocalProtocolError(f"Illegal header value b'Bearer {CANARY}'"), UpstreamAmbiguous),
        (RuntimeError("the handler is closed"), UpstreamAmbiguous),
        (OSError("odd"), UpstreamAmbiguous),
    ],
)
async def test_silence_of_a_transport_proves_nothing(
    error: Exception, expected: type[GatewayError]
) -> None:
    fault = await _fault_of(client_over(OddTransport(error)).submit("main", BODY, "attempt-1"))

    assert type(fault) is expected
    assert_no_canary(fault)


async def test_a_complete_answer_outlives_a_failed_close() -> None:
    answer = await client_over(OddTransport(None)).submit("main", BODY, "attempt-1")

    assert answer.body == b'{"id":"x-1"}'


# --- reads ----------------------------------------------------------------------------------------


BROKEN_READS: dict[str, tuple[Script, type[GatewayError]]] = {
    "never answers": (never_answers, UpstreamTimeout),
    "trickles": (trickles, UpstreamTimeout),
    **{
        case: (AMBIGUOUS[case], UpstreamUnavailable)
        for case in (
            "closes after reading all",
            "resets right after accept",
            "garbage",
            "200, truncated",
            "switches protocols",
            "compressed",
            "too large",
            "endless head",
        )
    },
}


@pytest.mark.parametrize("case", BROKEN_READS)
@pytest.mark.parametrize("operation", ["get", "list", "delete"])
async def test_a_read_that_breaks_is_not_repeated(case: str, operation: str) -> None:
    script, expected = BROKEN_READS[case]
    calls: dict[str, Callable[[UpstreamClient], Awaitable[object]]] = {
        "get": lambda client: client.get("main", TASK_ID),
        "list": lambda client: client.list("main", []),
        "delete": lambda client: client.delete("main", TASK_ID),
    }

    async with (
        RawUpstream(script) as upstream,
        client_of(
            upstream.base_url,
            answer_bytes_max=65536,
            read_timeout_s=SHORT_S if expected is UpstreamTimeout else 20,
        ) as client,
    ):
        fault = await _fault_of(calls[operation](client))

        assert type(fault) is expected
        assert_no_canary(fault)
        assert upstream.connection_count == 1
        assert len(upstream.requests) <= 1


async def test_an_idle_connection_that_the_peer_closed_is_replaced() -> None:
    closed = asyncio.Event()

    async def answers_once(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(ACCEPTED)
        closed.set()

    async with RawUpstream(answers_once) as upstream, client_of(upstream.base_url) as client:
        await client.get("main", TASK_ID)
        await closed.wait()
        await client.get("main", TASK_ID)

        assert (upstream.connection_count, len(upstream.requests)) == (2, 2)


async def test_a_connection_reset_on_reuse_is_a_fault_and_no_second_read() -> None:
    async def resets_the_second(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(ACCEPTED)
        await connection.read_request()
        connection.reset()

    async with RawUpstream(resets_the_second) as upstream, client_of(upstream.base_url) as client:
        await client.get("main", TASK_ID)
        fault = await _fault_of(client.get("main", TASK_ID))

        assert type(fault) is UpstreamUnavailable
        assert (upstream.connection_count, len(upstream.requests)) == (1, 2)


# --- values that can't go on the wire -------------------------------------------------------------


BAD_IDS = [
    "", ".", "..", "../files", "a/b", "a\\b", "a%2fb", "a?b=c", "a#b", "a b", "a\r\nX: y", "ä",
    "a..b", "-a", "a" * 201,
]  # fmt: skip


@pytest.mark.parametrize("bad_id", BAD_IDS)
async def test_an_id_that_could_leave_its_place_in_the_path_goes_nowhere(bad_id: str) -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        for call in (client.get, client.delete):
            assert type(await _fault_of(call("main", bad_id))) is UpstreamUnavailable

        assert upstream.connection_count == 0


@pytest.mark.parametrize("attempt_id", ["", "a\r\nX: y", "ä", "a" * 129])
async def test_an_attempt_id_that_is_no_header_goes_nowhere(attempt_id: str) -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        fault = await _fault_of(client.submit("main", BODY, attempt_id))

        assert type(fault) is UpstreamUnavailable
        assert upstream.connection_count == 0


async def test_a_credential_that_is_no_longer_configured_goes_nowhere() -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        for call in (client.submit("gone", BODY, "a-1"), client.get("gone", TASK_ID)):
            assert type(await _fault_of(call)) is UpstreamAccount

        assert upstream.connection_count == 0


@pytest.mark.parametrize(
    "secret", [f"{CANARY}\r\nX: y", f"{CANARY}\n", f" {CANARY}", f"{CANARY}ä", f"{CANARY}\x00", ""]
)
def test_a_credential_that_is_no_header_is_refused_without_being_told(secret: str) -> None:
    config = config_for("http://127.0.0.1:9/api/v3")

    with pytest.raises(ConfigurationError) as caught:
        UpstreamClient(config, config.base_url, {"main": SecretStr(secret)})

    assert "upstreams.one.credentials.main" in str(caught.value)
    assert_no_canary(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://host:99999999"}, "base_url"),
        ({"base_url": "http://host/a#b"}, "base_url"),
        ({"proxy": f"socks5://u:{CANARY}@host:1"}, "proxy"),
        ({"proxy": f"http://u:{CANARY}@host:x"}, "proxy"),
        ({"proxy": "host"}, "proxy"),
        ({"ca_file": "/no/such/file"}, "ca_file"),
        ({"ca_file": "/dev/null"}, "ca_file"),
    ],
)
def test_settings_of_no_use_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    config = config_for(**{"base_url": "http://127.0.0.1:9", **settings})  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=rf"upstreams\.one\.{named}") as caught:
        UpstreamClient(config, config.base_url, {"main": SecretStr(CANARY)})

    assert_no_canary(caught.value)


def test_nothing_that_holds_a_credential_shows_it() -> None:
    config = config_for("http://127.0.0.1:9")
    client = UpstreamClient(config, config.base_url, {"main": SecretStr(CANARY)})
    request = client._request("GET", client._tasks_url, "main")

    assert CANARY not in repr(client) + repr(vars(client)) + repr(request) + repr(request.headers)
