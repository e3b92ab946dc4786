"""What a client makes of answers, of broken reads, and of values that can't go on the wire."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from pydantic import SecretStr

from gateway.errors import (
    ConfigurationError,
    GatewayError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.client import UpstreamClient
from tests.support.raw_upstream import RawConnection, RawUpstream, Script, always, answer_bytes
from tests.support.wire import (
    ACCEPTED,
    AMBIGUOUS,
    BODY,
    CANARY,
    PATH,
    SHORT_S,
    TASK_ID,
    assert_no_canary,
    client_of,
    config_for,
    fault_of,
    never_answers,
    says,
    says_and_stalls,
    trickles,
)


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


@pytest.mark.parametrize("connections_max", [1, 3])
async def test_reads_have_no_more_connections_than_are_configured(connections_max: int) -> None:
    reads_count = 9
    async with (
        RawUpstream(always(ACCEPTED)) as upstream,
        client_of(upstream.base_url, read_connections_max=connections_max) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(reads_count):
            group.create_task(client.get("main", TASK_ID))
        await upstream.wait_for_requests(reads_count)

        assert upstream.connection_count == connections_max


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
    fault = await fault_of(client_over(OddTransport(error)).submit("main", BODY, "attempt-1"))

    assert type(fault) is expected
    assert_no_canary(fault)


async def test_a_complete_answer_outlives_a_failed_close() -> None:
    answer = await client_over(OddTransport(None)).submit("main", BODY, "attempt-1")

    assert answer.body == b'{"id":"x-1"}'


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
        fault = await fault_of(calls[operation](client))

        assert type(fault) is expected
        assert_no_canary(fault)
        assert upstream.connection_count == 1
        assert len(upstream.requests) <= 1


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("Content-Length: 65537", "announced as too large"),
        (
            "Content-Length: 9\r\nContent-Encoding: gzip",
            "compressed, though that was not asked for",
        ),
    ],
)
async def test_an_unfit_answer_is_refused_by_its_head(head: str, reason: str) -> None:
    script = says_and_stalls(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())

    async with (
        RawUpstream(script) as upstream,
        client_of(upstream.base_url, answer_bytes_max=65536) as client,
    ):
        fault = await fault_of(client.get("main", TASK_ID))
        submit_fault = await fault_of(client.submit("main", BODY, "attempt-1"))

    assert fault.message == f"The upstream's answer is {reason}."
    assert "UnfitAnswerError" in submit_fault.message


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
        fault = await fault_of(client.get("main", TASK_ID))

        assert type(fault) is UpstreamUnavailable
        assert (upstream.connection_count, len(upstream.requests)) == (1, 2)


BAD_IDS = [
    "", ".", "..", "../files", "a/b", "a\\b", "a%2fb", "a?b=c", "a#b", "a b", "a\r\nX: y", "ä",
    "a..b", "-a", "a" * 201,
]  # fmt: skip


@pytest.mark.parametrize("bad_id", BAD_IDS)
async def test_an_id_that_could_leave_its_place_in_the_path_goes_nowhere(bad_id: str) -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        for call in (client.get, client.delete):
            assert type(await fault_of(call("main", bad_id))) is UpstreamUnavailable

        assert upstream.connection_count == 0


@pytest.mark.parametrize("attempt_id", ["", "a\r\nX: y", "ä", "a" * 129])
async def test_an_attempt_id_that_is_no_header_goes_nowhere(attempt_id: str) -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        fault = await fault_of(client.submit("main", BODY, attempt_id))

        assert type(fault) is UpstreamUnavailable
        assert upstream.connection_count == 0


async def test_a_credential_that_is_no_longer_configured_goes_nowhere() -> None:
    async with RawUpstream(always(ACCEPTED)) as upstream, client_of(upstream.base_url) as client:
        for call in (client.submit("gone", BODY, "a-1"), client.get("gone", TASK_ID)):
            assert type(await fault_of(call)) is UpstreamAccount

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
        ({"base_url": "http://ho\tst"}, "base_url"),
        ({"base_url": "http://256.256.256.256"}, "base_url"),
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
