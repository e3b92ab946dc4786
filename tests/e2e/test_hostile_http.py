"""Hostile HTTP in bytes, against the real program: each request is one message, or none."""

import json
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway
from tests.support.hostile import BARE, CASES, HIDDEN, HIDDEN_ID, HOST, PATH, Case, fill_in
from tests.support.raw_http import (
    LogReader,
    RawConnection,
    Reply,
    Talk,
    converse,
    ids_of,
)

BODY_BYTES_MAX = 1024 * 1024
LIMITS = {
    "GATEWAY_SERVER__ALLOWED_HOSTS": json.dumps([HOST.decode(), "127.0.0.1"]),
    "GATEWAY_SERVER__BODY_BYTES_MAX": str(BODY_BYTES_MAX),
}
FENCE_ID = "fence"
FENCE = fill_in(HIDDEN.replace(HIDDEN_ID.encode(), b"<ID>"), FENCE_ID, "")
ONE_BYTE_MORE = "one byte more than its length"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    """A gateway of its own: its log must hold what these tests sent and nothing else."""
    folder = tmp_path_factory.mktemp("hostile")
    with run_gateway(folder, captured, environ=LIMITS) as gateway:
        yield gateway
        assert gateway.process.poll() is None
        assert 'status="5' not in gateway.read_metrics()
        lines = LogReader(gateway.log_path).read()
    assert HIDDEN_ID not in ids_of(lines)
    assert "http.request_failed" not in {line["event"] for line in lines}


@pytest.fixture
def log(gateway: Gateway) -> LogReader:
    log = LogReader(gateway.log_path)
    log.skip()
    return log


def fence(gateway: Gateway, log: LogReader, replies: Sequence[Reply]) -> list[str]:
    """Return the ids of the requests that the application saw until now, by its own log.

    `replies` are those of the application; the gateway answers one more request, so it lives.
    """
    assert converse(gateway.url, FENCE, quiet_s=0).statuses == [200]
    awaited = [reply.request_id for reply in replies if reply.request_id]
    return [one for one in ids_of(log.read_until([FENCE_ID, *awaited])) if one != FENCE_ID]


def check_bare(talk: Talk) -> None:
    """Before the application nothing is answered, or an empty refusal; and the connection ends."""
    assert talk.is_closed
    assert [reply.body for reply in talk.replies] in ([], [b""])
    assert set(talk.statuses) <= {400, 431}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_one_request_or_none(gateway: Gateway, log: LogReader, case: Case) -> None:
    assert gateway.key is not None

    talk = converse(gateway.url, fill_in(case.sent, "case", gateway.key))

    answered = [reply for reply in talk.replies if reply.request_id]
    seen = fence(gateway, log, answered)
    assert seen == [reply.request_id for reply in answered]
    bare = Talk(tuple(reply for reply in talk.replies if not reply.request_id), talk.is_closed)
    if not answered:
        assert BARE in case.allowed
        check_bare(bare)
        return
    (reply,) = answered
    assert reply.status in case.allowed
    if reply.status >= 400:
        assert reply.error_code
    assert len(bare.replies) == (case.name == ONE_BYTE_MORE)
    if bare.replies:
        check_bare(bare)


def test_a_second_request_that_is_one_is_seen(gateway: Gateway, log: LogReader) -> None:
    """Shows that the table would see what it looks for."""
    first = fill_in(HIDDEN.replace(HIDDEN_ID.encode(), b"<ID>"), "first", "")
    second = first.replace(b"first", b"second")

    talk = converse(gateway.url, first + second)

    assert [reply.request_id for reply in talk.replies] == ["first", "second"]
    assert fence(gateway, log, talk.replies) == ["first", "second"]


def test_the_refusal_of_a_head_closes_the_connection(gateway: Gateway, log: LogReader) -> None:
    wrong = fill_in(HIDDEN.replace(b"Host: ", b"Host: a\r\nHost: "), "", "")

    talk = converse(gateway.url, wrong.replace(HIDDEN_ID.encode(), b"wrong") + HIDDEN)

    assert talk.is_closed
    (reply,) = talk.replies
    assert (reply.status, reply.request_id) == (400, "wrong")
    assert reply.headers["connection"] == "close"
    assert fence(gateway, log, talk.replies) == ["wrong"]


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> list[str]:
    """One key in each of two projects."""
    made = gateway.run_cli("projects", "create", "other")
    assert made.returncode == 0, made.stderr
    return [gateway.create_key(), gateway.create_key("--project", "other")]


def test_pipelined_requests_of_two_keys_are_never_mixed(
    gateway: Gateway, log: LogReader, keys: list[str]
) -> None:
    ids = [f"pipelined-{number}" for number in range(24)]
    sent = b""
    for number, request_id in enumerate(ids):
        body = json.dumps({"model": f"canary-{number}", "content": []}).encode()
        framing = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        if number % 3 == 0:
            framing = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        sent += b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (PATH, HOST)
        sent += fill_in(
            b"X-Request-Id: <ID>\r\nAuthorization: Bearer <KEY>\r\n",
            request_id,
            keys[number % 2],
        )
        sent += framing

    with RawConnection(gateway.url) as connection:
        assert connection.send(sent)
        replies = connection.read_replies(len(ids))

    assert [reply.request_id for reply in replies] == ids
    for number, reply in enumerate(replies):
        assert reply.error_code == "InvalidEndpointOrModel.NotFound"
        assert re.findall(rb"canary-[0-9]+", reply.body) == [b"canary-%d" % number]
    assert fence(gateway, log, replies) == ids
    own = {
        line["request_id"]: line
        for line in LogReader(gateway.log_path).read()
        if line["event"] == "http.request_finished"
    }
    for number, request_id in enumerate(ids):
        assert own[request_id]["key_id"] == keys[number % 2][8:20]
    assert own[ids[0]]["project"] != own[ids[1]]["project"]


def head(method: bytes, key: str | None, request_id: str, *lines: bytes) -> bytes:
    """Return the head of a request to the tasks, with further header lines."""
    given = [b"Host: " + HOST, b"X-Request-Id: " + request_id.encode()]
    if key is not None:
        given.append(b"Authorization: Bearer " + key.encode())
    return b"\r\n".join([method + b" " + PATH + b" HTTP/1.1", *given, *lines, b"", b""])


def test_a_body_that_is_announced_is_asked_for(gateway: Gateway, log: LogReader) -> None:
    lines = (b"Expect: 100-continue", b"Content-Length: 2")
    with RawConnection(gateway.url) as connection:
        connection.send(head(b"POST", gateway.key, "expected", *lines))
        while not connection.received.endswith(b"\r\n\r\n"):
            connection.read_for(0.05)
        assert connection.received.startswith(b"HTTP/1.1 100 ")
        connection.send(b"{}")
        (reply,) = connection.read_replies(1)

    assert reply.error_code == "MissingParameter"
    assert fence(gateway, log, [reply]) == ["expected"]


def test_no_body_is_asked_of_a_stranger(gateway: Gateway, log: LogReader) -> None:
    lines = (b"Expect: 100-continue", b"Content-Length: 1000000")
    with RawConnection(gateway.url) as connection:
        connection.send(head(b"POST", None, "stranger", *lines))
        connection.wait_for_close()

    assert b" 100 " not in connection.received
    (reply,) = connection.replies()
    assert (reply.status, reply.error_code) == (401, "AuthenticationError")
    assert fence(gateway, log, [reply]) == ["stranger"]


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"POST"])
def test_a_body_that_nobody_wants_is_not_waited_for(
    gateway: Gateway, log: LogReader, method: bytes
) -> None:
    key = None if method == b"POST" else gateway.key
    with RawConnection(gateway.url) as connection:
        connection.send(head(method, key, "unwanted", b"Content-Length: 1000000") + b"{")
        connection.wait_for_close()

    (reply,) = connection.replies()
    assert reply.status == {b"GET": 200, b"DELETE": 405, b"POST": 401}[method]
    assert fence(gateway, log, [reply]) == ["unwanted"]


def test_a_claim_over_the_cap_is_refused_before_a_byte_is_read(
    gateway: Gateway, log: LogReader
) -> None:
    for claim in (BODY_BYTES_MAX + 1, 10**18, 10**19):
        sent = head(b"POST", gateway.key, "claim", b"Content-Length: %d" % claim)
        with RawConnection(gateway.url) as connection:
            connection.send(sent)
            connection.wait_for_close()
        (reply,) = connection.replies()

        assert (reply.status, reply.error_code) == (413, "RequestTooLarge")
        assert fence(gateway, log, [reply]) == ["claim"]


def test_chunks_without_end_are_cut_off_at_the_cap(gateway: Gateway, log: LogReader) -> None:
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    taken = 0
    with RawConnection(gateway.url) as connection:
        connection.send(head(b"POST", gateway.key, "endless", b"Transfer-Encoding: chunked"))
        while connection.send(chunk * 16) and not connection.received:
            taken += 16 * 0x1000
            connection.read_for(0.0)
            assert taken < 64 * BODY_BYTES_MAX
        connection.wait_for_close()

    assert fence(gateway, log, []) == ["endless"]
    # The rest of the body is on its way when the connection closes: that may cost the answer.
    assert [reply.status for reply in connection.replies()] in ([413], [])
    (line,) = [
        line for line in LogReader(gateway.log_path).read() if line.get("request_id") == "endless"
    ]
    assert line["http.response.status_code"] == 413


def test_chunks_of_one_byte_are_a_body_like_any_other(gateway: Gateway, log: LogReader) -> None:
    body = json.dumps({"model": "canary", "content": [], "note": "x" * 10_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    lines = (b"Transfer-Encoding: chunked",)

    talk = converse(
        gateway.url, head(b"POST", gateway.key, "bytes", *lines) + chunks + b"0\r\n\r\n"
    )

    (reply,) = talk.replies
    assert reply.error_code == "InvalidEndpointOrModel.NotFound"
    assert fence(gateway, log, [reply]) == ["bytes"]


def test_a_head_is_answered_without_a_body(gateway: Gateway, log: LogReader) -> None:
    sent = head(b"HEAD", gateway.key, "head-1") + head(b"HEAD", gateway.key, "head-2")

    talk = converse(gateway.url, sent, is_head=True)

    assert [reply.request_id for reply in talk.replies] == ["head-1", "head-2"]
    assert all(int(reply.headers["content-length"]) > 0 for reply in talk.replies)
    assert fence(gateway, log, talk.replies) == ["head-1", "head-2"]
