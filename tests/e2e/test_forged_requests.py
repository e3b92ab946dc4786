"""Requests made up to write into logs and metrics: both say what we say, and no more."""

import json
import random
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway
from tests.support.raw_http import LogReader, RawConnection, ids_of

PATH = "/seedance/generations"
FORGED = '{"event":"forged","level":"info","request_id":"forged"}'
ODD = ("\n", "\r\n", "\x1b[31m", "\x1b]0;title\x07", "\u2028", "\u202e", '"', "\\", "%s", "{0}")
LINE_BYTES_MAX = 1000
FIELDS = frozenset(
    {
        "request_id",
        "http.request.method",
        "http.route",
        "http.response.status_code",
        "duration_ms",
        "http.request.body.size",
        "http.response.body.size",
        "key_id",
        "project",
        "task_id",
        "error.code",
        "event",
        "level",
        "@timestamp",
    }
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("forged"), captured) as gateway:
        yield gateway


class Forger:
    """Makes up requests: the same kinds in the same order, every other byte at random."""

    def __init__(self, gateway: Gateway, seed: int) -> None:
        self._random = random.Random(seed)
        self._key = f"Authorization: Bearer {gateway.key}"
        self._kinds: tuple[Callable[[], bytes], ...] = (
            lambda: self._ask("POST", PATH, self._key, body=self._body("model")),
            lambda: self._ask("POST", PATH, self._key, body=self._body("content")),
            lambda: self._ask("GET", f"/{self._word()}/{quote(self._text())}", self._key),
            lambda: self._ask("GET", f"{PATH}/{self._word()}", self._key),
            lambda: self._ask("GET", f"{PATH}/{quote(self._text(), safe='')}", self._key),
            lambda: self._ask("DELETE", f"{PATH}/{self._word()}", self._key),
            lambda: self._ask("GET", f"{PATH}?filter.model={quote(self._text())}", self._key),
            lambda: self._ask("GET", f"{PATH}?{self._word()}={self._word()}", self._key),
            lambda: self._ask(self._word().upper(), PATH, self._key),
            lambda: self._ask("GET", PATH, self._key, f"X-Request-Id: {self._plain()}"),
            lambda: self._ask("GET", PATH, self._key, f"User-Agent: {self._plain()}"),
            lambda: self._ask("GET", PATH, self._key, f"X-Forwarded-For: {self._plain()}"),
            lambda: self._ask("GET", PATH, self._key, f"Prefer: wait={self._plain()}"),
            lambda: self._ask("GET", PATH, f"Authorization: Bearer {self._plain()}"),
            lambda: self._ask("GET", PATH, self._key, f"{self._word()}: {self._plain()}"),
        )

    def make(self, number: int) -> bytes:
        return self._kinds[number % len(self._kinds)]()

    def _word(self) -> str:
        return f"w{self._random.getrandbits(64):x}"

    def _text(self) -> str:
        return f"{self._word()}{self._random.choice(ODD)}{FORGED}{self._random.choice(ODD)}"

    def _plain(self) -> str:
        """Return what may stand in a header: bytes of UTF-8, without control characters."""
        return "".join(one for one in self._text() if one.isprintable() or one in "\u2028\u202e")

    def _body(self, name: str) -> bytes:
        body: dict[str, object] = {"model": "seedance-1-0-pro", "content": []}
        return json.dumps({**body, name: self._text()}).encode()

    def _ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
        given = (f"{method} {target} HTTP/1.1", "Host: a", *lines, f"Content-Length: {len(body)}")
        return "\r\n".join([*given, "", ""]).encode() + body


def flood(gateway: Gateway, seed: int, count: int) -> list[str]:
    """Send `count` made-up requests, one after the other; return the ids in their replies."""
    forger = Forger(gateway, seed)
    ids: list[str] = []
    sent = 0
    while sent < count:
        with RawConnection(gateway.url) as connection:
            while sent < count and not connection.is_closed:
                connection.send(forger.make(sent))
                sent += 1
                (reply,) = connection.read_replies(1)
                assert reply.request_id
                assert reply.status < 500
                ids.append(reply.request_id)
                connection.received.clear()
                if reply.headers.get("connection") == "close":
                    break
    return ids


def series_of(gateway: Gateway) -> set[str]:
    lines = gateway.read_metrics().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@pytest.mark.parametrize(
    "count",
    [pytest.param(600, id="600"), pytest.param(100_000, id="100000", marks=pytest.mark.long)],
)
@pytest.mark.timeout(900)
def test_made_up_requests_leave_one_line_each_and_no_new_series(
    gateway: Gateway, count: int
) -> None:
    flood(gateway, seed=0, count=100)
    before = series_of(gateway)
    log = LogReader(gateway.log_path)
    log.skip()

    ids = flood(gateway, seed=count, count=count)

    lines = log.read_until(ids)
    assert len(ids) == count
    assert ids_of(lines) == ids
    assert series_of(gateway) == before
    for line in lines:
        assert line["event"] == "http.request_finished"
        assert line["level"] == "info"
        assert FIELDS.issuperset(line)
        assert len(json.dumps(line)) < LINE_BYTES_MAX
    raw = gateway.log_path.read_bytes()
    for odd in (b"forged", b"\x1b", "\u2028".encode(), "\u202e".encode(), b"\r"):
        assert odd not in raw
    assert b"forged" not in gateway.read_metrics().encode()
