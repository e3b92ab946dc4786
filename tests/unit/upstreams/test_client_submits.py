"""What is certain after a submit that went wrong: all the ways of a peer to break a connection."""

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.errors import GatewayError, UpstreamAmbiguous, UpstreamUnavailable
from tests.support.raw_upstream import RawConnection, RawUpstream, Script, always, answer_bytes
from tests.support.tls import make_self_signed
from tests.support.wire import (
    ACCEPTED,
    AMBIGUOUS,
    BODY,
    CANARY,
    PATH,
    SHORT_S,
    SILENT,
    TASK_ID,
    assert_no_canary,
    client_of,
    closes_after_reading_all,
    fault_of,
    never_answers,
    resets_at_once,
)


async def submit_to(upstream: RawUpstream, body: bytes = BODY, **settings: object) -> GatewayError:
    """Submit and return the fault, after checking that it is told without the credential."""
    async with client_of(upstream.base_url, **settings) as client:
        with pytest.raises(GatewayError) as caught:
            await client.submit("main", body, "attempt-1")
    assert_no_canary(caught.value)
    return caught.value


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

        fault = await fault_of(client.submit("main", BODY, "attempt-2"))

        assert type(fault) is UpstreamUnavailable
        assert upstream.connection_count == 1
        released.set()
        assert (await first).status == 200
        assert (await client.submit("main", BODY, "attempt-3")).status == 200


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
