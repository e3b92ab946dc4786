"""Clients that hold on to what they were given: each is let go in bounded time, others go on."""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway
from tests.support.published import FOREVER_QUEUED, make_body
from tests.support.raw_http import RawConnection

PATH = "/seedance/generations"
DEADLINE_S = 0.6
LET_GO_S_MAX = 10.0
"""Far more than the deadline, for a busy machine; far less than for ever."""
CONNECTIONS_MAX = 12
WAITERS_MAX = 4
BODIES_MAX = 3
"""Of one project: half of all."""
LIMITS = {
    "GATEWAY_SERVER__HEAD_TIMEOUT_S": str(DEADLINE_S),
    "GATEWAY_SERVER__BODY_DEADLINE_S": str(DEADLINE_S),
    "GATEWAY_SERVER__CONNECTIONS_MAX": str(CONNECTIONS_MAX),
    "GATEWAY_SERVER__BODY_CONCURRENCY_MAX": str(2 * BODIES_MAX),
    "GATEWAY_STATUS__WAITERS_MAX": str(WAITERS_MAX),
}
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    """A gateway with little patience and few places."""
    folder = tmp_path_factory.mktemp("slow")
    with run_gateway(folder, captured, environ=LIMITS) as gateway:
        yield gateway


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def request(gateway: Gateway, line: str, *lines: str) -> bytes:
    given = (f"{line} HTTP/1.1", "Host: a", f"Authorization: Bearer {gateway.key}", *lines)
    return "\r\n".join([*given, "", ""]).encode()


def starts_of(gateway: Gateway) -> Mapping[str, bytes]:
    """Return the beginnings of requests that never get on."""
    post = f"POST {PATH}"
    return {
        "silence": b"",
        "empty lines": b"\r\n\r\n",
        "half a head": b"GET /livez HTTP/1.1\r\nHos",
        "idle after an answer": LIVEZ,
        "half a head after an answer": LIVEZ + b"GET /livez HTTP/1.1\r\nHos",
        "half a body": request(gateway, post, "Content-Length: 100") + b"{",
        "half a chunk": request(gateway, post, "Transfer-Encoding: chunked") + b"9\r\n{",
    }


def connect(gateway: Gateway, stack: ExitStack, *, count: int = 1) -> list[RawConnection]:
    return [stack.enter_context(RawConnection(gateway.url)) for _ in range(count)]


def test_who_stops_in_the_middle_is_let_go(gateway: Gateway, stack: ExitStack) -> None:
    opened = {}
    for name, start in starts_of(gateway).items():
        (opened[name],) = connect(gateway, stack)
        opened[name].send(start)
    waited_s = {name: each.wait_for_close(LET_GO_S_MAX) for name, each in opened.items()}

    statuses = {name: [r.status for r in each.replies()] for name, each in opened.items()}
    assert statuses == {
        "silence": [],
        "empty lines": [],
        "half a head": [],
        "idle after an answer": [200],
        "half a head after an answer": [200],
        "half a body": [408],
        "half a chunk": [408],
    }
    print(f"let go within {max(waited_s.values()):.2f} s of {DEADLINE_S} s")


def test_a_byte_now_and_then_does_not_help(gateway: Gateway, stack: ExitStack) -> None:
    head, body = connect(gateway, stack, count=2)
    head.send(b"GET /livez HTTP/1.1\r\nX: ")
    body.send(request(gateway, f"POST {PATH}", "Content-Length: 1000"))
    started_s = time.monotonic()
    while not (head.is_closed and body.is_closed):
        assert time.monotonic() - started_s < LET_GO_S_MAX
        for each in (head, body):
            each.send(b" ")
            each.read_for(0.05)

    assert head.replies() == []
    assert [reply.status for reply in body.replies()] == [408]


@pytest.mark.parametrize("name", ["silence", "half a head", "idle after an answer"])
def test_those_who_hold_every_connection_do_not_hold_them_for_ever(
    gateway: Gateway, stack: ExitStack, name: str
) -> None:
    for each in connect(gateway, stack, count=CONNECTIONS_MAX):
        each.send(starts_of(gateway)[name])

    (late,) = connect(gateway, stack)
    late.send(LIVEZ)

    (reply,) = late.read_replies(1, LET_GO_S_MAX)
    assert reply.status == 200


@pytest.fixture(scope="module")
def stranger(gateway: Gateway) -> str:
    """A key of another project."""
    made = gateway.run_cli("projects", "create", "other")
    assert made.returncode == 0, made.stderr
    return gateway.create_key("--project", "other")


def leave_unread(gateway: Gateway, stack: ExitStack) -> None:
    """Ask for more than any buffer holds, without a key, and read nothing of it."""
    where = urlsplit(gateway.url)
    silent = stack.enter_context(socket.socket())
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    silent.connect((where.hostname, where.port))
    silent.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n" * 8)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_answers_that_nobody_reads_do_not_hold_connections_for_ever(
    gateway: Gateway, stack: ExitStack
) -> None:
    for _ in range(CONNECTIONS_MAX):
        leave_unread(gateway, stack)

    (late,) = connect(gateway, stack)
    late.send(LIVEZ)

    (reply,) = late.read_replies(1, LET_GO_S_MAX)
    assert reply.status == 200


def test_who_holds_on_to_a_connection_does_not_hold_up_a_stop(
    start_gateway: StartGateway, stack: ExitStack
) -> None:
    gateway = start_gateway(name="held")
    leave_unread(gateway, stack)
    for name in ("silence", "half a head", "idle after an answer", "half a head after an answer"):
        (each,) = connect(gateway, stack)
        each.send(starts_of(gateway)[name])
    assert gateway.count("gateway_http_requests_total", route="/docs/{asset}") > 0

    gateway.process.terminate()

    assert gateway.process.wait(LET_GO_S_MAX) == 0


def test_a_body_too_many_is_turned_away_and_may_come_back(
    gateway: Gateway, stack: ExitStack, stranger: str
) -> None:
    body = json.dumps(make_body("--duration never")).encode()
    whole = request(gateway, f"POST {PATH}", f"Content-Length: {len(body)}") + body
    assert gateway.key is not None
    late, other = connect(gateway, stack, count=2)
    slow: list[RawConnection] = []
    statuses: list[int] = []
    started_s = time.monotonic()
    while statuses[-1:] != [503]:
        assert time.monotonic() - started_s < LET_GO_S_MAX
        slow = [each for each in slow if not each.is_closed]
        for each in connect(gateway, stack, count=BODIES_MAX - len(slow)):
            each.send(starts_of(gateway)["half a body"])
            slow.append(each)
        late.send(whole)
        statuses.append(late.read_replies(len(statuses) + 1)[-1].status)
        for each in slow:
            each.read_for(0.0)
    turned_away = late.replies()[-1]
    other.send(whole.replace(gateway.key.encode(), stranger.encode()))
    (served,) = other.read_replies(1)
    for each in slow:
        each.wait_for_close(LET_GO_S_MAX)
    (again,) = connect(gateway, stack)
    again.send(whole)

    assert set(statuses) <= {400, 503}
    assert turned_away.error_code == "ServerOverloaded"
    assert int(turned_away.headers["retry-after"]) > 0
    assert served.status == 400
    assert [reply.status for reply in again.read_replies(1)] == [400]


@pytest.fixture
def queued(gateway: Gateway) -> str:
    """The path of a task in which nothing happens."""
    with gateway.open_client() as client:
        made = client.post(PATH, json=make_body(FOREVER_QUEUED)).raise_for_status()
    return f"{PATH}/{made.json()['id']}"


def test_readers_beyond_those_that_may_wait_are_answered_at_once(
    gateway: Gateway, stack: ExitStack, queued: str
) -> None:
    readers = connect(gateway, stack, count=WAITERS_MAX + 3)
    for each in readers:
        each.send(request(gateway, f"GET {queued}?wait=60"))
    at_once = wait_for_answers(readers, 3)
    httpx.delete(f"{gateway.url}{queued}", headers=authorization(gateway)).raise_for_status()
    for each in readers:
        each.read_replies(1)

    assert len(at_once) == 3
    told = {each: json.loads(each.replies()[0].body)["status"] for each in readers}
    assert {told[each] for each in at_once} == {"queued"}
    assert {told[each] for each in readers if each not in at_once} == {"cancelled"}


def test_a_reader_who_leaves_makes_room_for_another(
    gateway: Gateway, stack: ExitStack, queued: str
) -> None:
    with ExitStack() as leaving:
        for each in connect(gateway, leaving, count=WAITERS_MAX):
            each.send(request(gateway, f"GET {queued}?wait=60"))
        (late,) = connect(gateway, leaving)
        late.send(request(gateway, f"GET {queued}?wait=60"))
        late.read_replies(1)

    deadline_s = time.monotonic() + LET_GO_S_MAX
    while True:
        assert time.monotonic() < deadline_s
        (reader,) = connect(gateway, stack)
        reader.send(request(gateway, f"GET {queued}?wait=60"))
        reader.read_for(0.5)
        if not reader.replies():
            break
    httpx.delete(f"{gateway.url}{queued}", headers=authorization(gateway)).raise_for_status()
    (reply,) = reader.read_replies(1)
    assert json.loads(reply.body)["status"] == "cancelled"


def authorization(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.key}"}


def wait_for_answers(readers: list[RawConnection], count: int) -> list[RawConnection]:
    """Return who has an answer, once `count` have."""
    deadline_s = time.monotonic() + LET_GO_S_MAX
    while True:
        for each in readers:
            each.read_for(0.01)
        answered = [each for each in readers if each.replies()]
        if len(answered) >= count:
            return answered
        assert time.monotonic() < deadline_s
