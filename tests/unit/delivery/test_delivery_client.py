"""The wire to receivers, on real sockets: whatever they are or do, a delivery ends in one word."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.delivery.client import DeliverySettings, WebhookClient
from gateway.domain.webhooks import RETRY_AFTER_S_MAX, DeliveryError, DeliveryResult
from gateway.errors import ConfigurationError
from tests.support.raw_upstream import RawConnection, RawUpstream, Script
from tests.support.receiver import ACCEPTED, Receiver, answer
from tests.support.tls import make_self_signed

LOOPBACK = ("127.0.0.0/8",)
BODY = b'{"id":"cgt-1"}'
HEADERS = {"content-type": "application/json", "webhook-id": "msg_1"}


def client(
    *,
    timeout_s: float = 5.0,
    allow_private: tuple[str, ...] = LOOPBACK,
    allow_http: bool = True,
    ca_file: Path | None = None,
    connections_max: int = 32,
    addresses: Sequence[str] = ("127.0.0.1",),
) -> WebhookClient:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return WebhookClient(
        DeliverySettings(timeout_s, connections_max, allow_private, allow_http, ca_file), resolve
    )


async def post(url: str, to: WebhookClient | None = None) -> DeliveryResult:
    return await (to or client()).post(url, BODY, HEADERS)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[RawUpstream]:
    async with RawUpstream(script) as server:
        yield server


def url_of(server: RawUpstream) -> str:
    return f"http://127.0.0.1:{server.port}/hook"


async def test_what_is_sent_is_ours_and_little() -> None:
    async with Receiver() as receiver:
        result = await post(receiver.url)
        authority = f"127.0.0.1:{receiver.port}"

    assert result == DeliveryResult(204)
    (delivery,) = receiver.deliveries
    assert (delivery.method, delivery.target) == ("POST", "/hooks?token=canary-query")
    assert delivery.body == BODY
    assert {name.lower() for name, _ in delivery.headers} == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "webhook-id",
    }
    assert delivery.header("host") == authority


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_delivery(status: int) -> None:
    async with Receiver([answer(status)]) as receiver:
        assert await post(receiver.url) == DeliveryResult(status)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, DeliveryError.REDIRECTED),
        (302, DeliveryError.REDIRECTED),
        (304, DeliveryError.REDIRECTED),
        (307, DeliveryError.REDIRECTED),
        (308, DeliveryError.REDIRECTED),
        (400, DeliveryError.REFUSED),
        (401, DeliveryError.REFUSED),
        (404, DeliveryError.REFUSED),
        (410, DeliveryError.GONE),
        (500, DeliveryError.REFUSED),
    ],
)
async def test_other_answers_are_failures(status: int, error: DeliveryError) -> None:
    async with Receiver([answer(status)]) as receiver:
        assert await post(receiver.url) == DeliveryResult(status, error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    async with Receiver() as inside:
        there = answer(status, f"Location: http://127.0.0.1:{inside.port}/secret")
        async with Receiver([there]) as receiver:
            result = await post(receiver.url)

    assert result.error is DeliveryError.REDIRECTED
    assert inside.connection_count == 0


@pytest.mark.parametrize(
    ("asked", "taken_s"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999", RETRY_AFTER_S_MAX),
        ("9999999999", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("Sun, 22 Nov 2026 08:00:00 GMT", None),
    ],
)
async def test_a_wait_that_is_asked_for_is_bounded(asked: str, taken_s: int | None) -> None:
    async with Receiver([answer(503, f"Retry-After: {asked}")]) as receiver:
        result = await post(receiver.url)

    assert result == DeliveryResult(503, DeliveryError.REFUSED, taken_s)


@pytest.mark.parametrize(
    "allow_private", [(), ("10.0.0.0/8",), ("::1/128",)], ids=["none", "another", "ipv6"]
)
async def test_a_private_address_is_not_connected_to_unless_it_is_allowed(
    allow_private: tuple[str, ...],
) -> None:
    async with Receiver() as receiver:
        result = await post(receiver.url, client(allow_private=allow_private))

    assert result == DeliveryResult(None, DeliveryError.URL_REFUSED)
    assert receiver.connection_count == 0


@pytest.mark.parametrize(
    "addresses",
    [
        ("8.8.4.4", "127.0.0.1"),
        ("127.0.0.1", "8.8.4.4"),
        ("2001:4860:4860::8844", "::1"),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::7f00:1",),
        ("::ffff:10.0.0.1", "8.8.4.4"),
        ("fe80::1%lo",),
        ("0.0.0.0",),
    ],
)
async def test_one_address_inside_spoils_all_answers_of_a_name(addresses: tuple[str, ...]) -> None:
    async with Receiver() as receiver:
        url = f"http://receiver.example:{receiver.port}/hook"
        result = await post(url, client(allow_private=(), addresses=addresses))

    assert result == DeliveryResult(None, DeliveryError.ADDRESS_REFUSED)
    assert receiver.connection_count == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_an_allowed_address_is_connected_to_and_told_the_name(address: str) -> None:
    async with Receiver() as receiver:
        authority = f"receiver.example:{receiver.port}"
        result = await post(f"http://{authority}/hook", client(addresses=(address,)))

    assert result == DeliveryResult(204)
    (delivery,) = receiver.deliveries
    assert delivery.header("host") == authority


async def test_a_name_is_looked_up_once_and_never_again() -> None:
    asked = 0

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"] if asked == 1 else ["127.0.0.2"]

    async with Receiver() as receiver:
        to = WebhookClient(DeliverySettings(5.0, 32, ("127.0.0.1/32",)), resolve)
        result = await to.post(f"http://receiver.example:{receiver.port}/", BODY, HEADERS)

    assert (result, asked) == (DeliveryResult(204), 1)


async def test_a_second_address_is_tried_where_nothing_listens_on_the_first() -> None:
    async with Receiver() as receiver:
        to = client(allow_private=("::1/128", *LOOPBACK), addresses=("::1", "127.0.0.1"))
        result = await post(f"http://receiver.example:{receiver.port}/", to)

    assert result == DeliveryResult(204)
    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://127.0.0.1/", DeliveryError.URL_INVALID),
        ("http://user:pass@127.0.0.1/", DeliveryError.URL_INVALID),
        ("http://2130706433/", DeliveryError.URL_INVALID),
        ("not a url", DeliveryError.URL_INVALID),
    ],
)
async def test_an_address_that_is_not_plain_goes_nowhere(url: str, error: DeliveryError) -> None:
    assert await post(url) == DeliveryResult(None, error)


async def test_http_can_be_forbidden() -> None:
    async with Receiver() as receiver:
        result = await post(receiver.url, client(allow_http=False))

    assert result == DeliveryResult(None, DeliveryError.SCHEME_REFUSED)
    assert receiver.connection_count == 0


async def test_an_unknown_name_is_told() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    to = WebhookClient(DeliverySettings(), resolve)

    assert await post("http://nowhere.example/", to) == DeliveryResult(
        None, DeliveryError.NAME_UNKNOWN
    )


async def test_a_name_server_that_keeps_silent_takes_a_part_of_the_time_only() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    to = WebhookClient(DeliverySettings(timeout_s=0.3), resolve)

    assert await post("http://slow.example/", to) == DeliveryResult(None, DeliveryError.TIMED_OUT)


async def test_nobody_there_is_told() -> None:
    async with Receiver() as receiver:
        url = receiver.url

    assert await post(url) == DeliveryResult(None, DeliveryError.CONNECT_FAILED)


async def test_a_receiver_that_never_answers_is_left_in_time() -> None:
    async def silent(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()

    async with scripted(silent) as server:
        result = await post(url_of(server), client(timeout_s=0.3))

    assert result == DeliveryResult(None, DeliveryError.TIMED_OUT)


async def test_an_answer_that_drips_is_left_in_time() -> None:
    async def drip(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            await connection.send(f"X-{number}: y\r\n".encode())
            await asyncio.sleep(0.02)

    async with scripted(drip) as server:
        result = await post(url_of(server), client(timeout_s=0.4))

    assert result == DeliveryResult(None, DeliveryError.TIMED_OUT)


async def test_endless_interim_answers_are_left_in_time() -> None:
    async def interim(connection: RawConnection) -> None:
        await connection.read_request()
        while True:
            await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.02)

    async with scripted(interim) as server:
        result = await post(url_of(server), client(timeout_s=0.4))

    assert result == DeliveryResult(None, DeliveryError.TIMED_OUT)


async def test_of_an_endless_body_next_to_nothing_is_read() -> None:
    sent_bytes = 0

    async def flood(connection: RawConnection) -> None:
        nonlocal sent_bytes
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            await connection.send(b"x" * 65536)
            sent_bytes += 65536

    async with scripted(flood) as server:
        result = await post(url_of(server))
        # What is in flight is the sockets' buffers, not what we have read.
        assert sent_bytes < 32 * 1024 * 1024

    assert result == DeliveryResult(200)


async def test_a_body_that_never_comes_does_not_undo_the_delivery() -> None:
    async def headless(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await connection.wait_until_left()

    async with scripted(headless) as server:
        assert await post(url_of(server), client(timeout_s=0.5)) == DeliveryResult(200)


async def test_a_compressed_body_is_not_unpacked() -> None:
    async def bomb(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
        )

    async with scripted(bomb) as server:
        assert await post(url_of(server)) == DeliveryResult(200)


async def test_a_connection_that_is_closed_or_reset_is_told() -> None:
    async def close(connection: RawConnection) -> None:
        await connection.read_request()

    async def reset(connection: RawConnection) -> None:
        await connection.read_request()
        connection.reset()

    for script in (close, reset):
        async with scripted(script) as server:
            result = await post(url_of(server))
        assert result == DeliveryResult(None, DeliveryError.CONNECTION_LOST)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 300_000 + b"\r\n\r\n",
    ],
    ids=["ssh", "status", "header", "flood"],
)
async def test_an_answer_that_is_no_http_is_told(garbage: bytes) -> None:
    async def babble(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(garbage)
        await connection.wait_until_left()

    async with scripted(babble) as server:
        result = await post(url_of(server))

    assert result == DeliveryResult(None, DeliveryError.ANSWER_UNREADABLE)


async def test_tls_is_verified_for_the_name_though_the_connection_is_the_addresss(
    tmp_path: Path,
) -> None:
    right = make_self_signed(tmp_path, "receiver.example")
    async with Receiver(tls=right.context) as receiver:
        url = f"https://receiver.example:{receiver.port}/hook"
        result = await post(url, client(ca_file=right.ca_file))

    assert result == DeliveryResult(204)
    assert len(receiver.deliveries) == 1


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    wrong = make_self_signed(tmp_path, "other.example")
    async with Receiver(tls=wrong.context) as receiver:
        url = f"https://receiver.example:{receiver.port}/hook"
        result = await post(url, client(ca_file=wrong.ca_file))

    assert result == DeliveryResult(None, DeliveryError.TLS_FAILED)
    assert receiver.deliveries == []


async def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    unknown = make_self_signed(tmp_path, "receiver.example")
    async with Receiver(tls=unknown.context) as receiver:
        url = f"https://receiver.example:{receiver.port}/hook"
        result = await post(url)

    assert result == DeliveryResult(None, DeliveryError.TLS_FAILED)
    assert receiver.deliveries == []


async def test_a_certificate_of_the_address_does_not_serve_a_name(tmp_path: Path) -> None:
    address = make_self_signed(tmp_path, "127.0.0.1")
    async with Receiver(tls=address.context) as receiver:
        to = client(ca_file=address.ca_file)
        named = await post(f"https://receiver.example:{receiver.port}/", to)
        plain = await post(receiver.url, to)

    assert named == DeliveryResult(None, DeliveryError.TLS_FAILED)
    assert plain == DeliveryResult(204)


async def test_a_plain_server_behind_https_is_told(tmp_path: Path) -> None:
    trusted = make_self_signed(tmp_path)

    async def babble(connection: RawConnection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.wait_until_left()

    async with scripted(babble) as server:
        url = f"https://127.0.0.1:{server.port}/"
        result = await post(url, client(ca_file=trusted.ca_file))

    assert result == DeliveryResult(None, DeliveryError.TLS_FAILED)


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        result = await post(receiver.url)

    assert result == DeliveryResult(204)
    assert proxy.connection_count == 0


async def test_no_more_connections_than_allowed_are_open_at_once() -> None:
    open_count = most = 0
    go = asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        nonlocal open_count, most
        open_count += 1
        most = max(most, open_count)
        await connection.read_request()
        await go.wait()
        open_count -= 1
        await connection.send(ACCEPTED)

    async with scripted(hold) as server:
        to = client(connections_max=3)
        async with asyncio.TaskGroup() as group:
            posts = [group.create_task(post(url_of(server), to)) for _ in range(10)]
            await server.wait_for_requests(3)
            go.set()

    assert [each.result() for each in posts] == [DeliveryResult(204)] * 10
    assert most <= 3


async def test_a_cancelled_delivery_closes_its_connection() -> None:
    left = asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()
        left.set()

    async with scripted(hold) as server:
        delivery = asyncio.ensure_future(post(url_of(server)))
        await server.wait_for_requests(1)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        await asyncio.wait_for(left.wait(), 5)


def test_an_authority_that_is_no_file_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"webhooks\.ca_file"):
        client(ca_file=tmp_path / "missing.pem")
