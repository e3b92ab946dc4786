"""Bodies made to cost: each is refused, in bounded memory, and the gateway goes on."""

import base64
import gzip
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway
from tests.support.programs import (
    BESIDE_IT,
    read_memory,
    reset_peak_memory,
    run_sandbox_program,
)
from tests.support.published import AT_ONCE, MODEL, make_body
from tests.support.raw_http import RawConnection, Reply

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is read from /proc"
)

PATH = b"/seedance/generations"
MIB = 1024 * 1024
BODY_BYTES_MAX = 64 * MIB
PROJECT_BYTES_MAX = 128 * MIB
"""Half of what all bodies may hold together."""
BOMB_BYTES_MAX = 64 * MIB
"""What a bomb may cost that is not itself large."""
COPIES_MAX = 3
"""What a large body may cost, in copies of it."""
BESIDE_BYTES_MAX = 8 * MIB
"""What else may grow in the meantime."""
REFUSAL_BYTES_MAX = 700
REPEATS = 6
SETTLING_S_MAX = 1.0
"""A request's last work is done after its answer is sent."""
MODEL_FIELD = b'{"model":"' + MODEL.encode() + b'",'
LARGE = 16 * MIB


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    """A gateway alone in its process: the sandbox holds copies of its own."""
    folder = tmp_path_factory.mktemp("bombs")
    limits = {"GATEWAY_SERVER__BODIES_BYTES_MAX": str(2 * PROJECT_BYTES_MAX), **BESIDE_IT}
    with (
        run_sandbox_program(folder / "sandbox", captured) as sandbox_url,
        run_gateway(folder / "data", captured, ("--sandbox-url", sandbox_url), limits) as gateway,
    ):
        yield gateway
        assert 'status="500"' not in gateway.read_metrics()


def allowed_bytes(size: int) -> int:
    """Return what a large body of this size may cost."""
    return COPIES_MAX * size + BESIDE_BYTES_MAX


def head(gateway: Gateway, *lines: str) -> bytes:
    given = (f"Authorization: Bearer {gateway.key}", "Host: a", *lines)
    return b"POST " + PATH + b" HTTP/1.1\r\n" + "\r\n".join([*given, "", ""]).encode()


def post(gateway: Gateway, body: bytes, *lines: str) -> Reply:
    """Send `body` on a connection of its own; return the one reply."""
    with RawConnection(gateway.url) as connection:
        connection.send(head(gateway, f"Content-Length: {len(body)}", *lines) + body)
        (reply,) = connection.read_replies(1)
    return reply


def cost_bytes(gateway: Gateway, spend: Callable[[], object]) -> int:
    """Return by how much the gateway's memory grew, at most, while `spend` ran."""
    before_bytes = reset_peak_memory(gateway.process.pid)
    spend()
    return read_memory(gateway.process.pid, peak=True) - before_bytes


def with_field(value: bytes, name: bytes = b"x") -> bytes:
    return MODEL_FIELD + b'"content":[{"type":"text","text":"a"}],"' + name + b'":' + value + b"}"


SMALL: Mapping[str, tuple[bytes, str]] = {
    "a field twice": (with_field(b'1,"x":2'), "given twice"),
    "a field twice, spelled differently": (with_field(b'1,"\\u0078":1'), "given twice"),
    "a field twice, deep inside": (with_field(b'[{"a":{"b":1,"b":1}}]'), "given twice"),
    "33 levels": (with_field(b"[" * 32 + b"]" * 32), "nested too deeply"),
    "5,000 levels": (with_field(b"[" * 5_000 + b"]" * 5_000), "nested too deeply"),
    "100,000 levels": (with_field(b"[" * 100_000 + b"]" * 100_000), "it "),
    "100,000 levels of objects": (with_field(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "it "),
    "100,000 open brackets": (b"[" * 100_000, "it "),
    "NaN": (with_field(b"NaN"), "NaN is not JSON"),
    "Infinity": (with_field(b"Infinity"), "Infinity is not JSON"),
    "-Infinity": (with_field(b"-Infinity"), "-Infinity is not JSON"),
    "1e999": (with_field(b"1e999"), "too large"),
    "4,301 digits": (with_field(b"9" * 4_301), "too many digits"),
    "1,000,000 digits": (with_field(b"9" * 1_000_000), "too many digits"),
    "1,000,000 digits of a fraction": (with_field(b"0." + b"9" * 1_000_000), "too many digits"),
    "half a surrogate pair": (with_field(b'"\\ud800"'), "half a surrogate pair"),
    "the other half": (with_field(b'"\\udc00a"'), "half a surrogate pair"),
    "half a surrogate pair in a name": (with_field(b"1", b"\\ud800"), "control character"),
    "half a surrogate pair in bytes": (with_field(b'"\xed\xa0\x80"'), "not UTF-8"),
    "two bytes for one of ASCII": (with_field(b'"\xc0\xaf"'), "not UTF-8"),
    "half a character": (with_field(b'"\xe2\x82"'), "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + with_field(b"1"), "byte order mark"),
    "UTF-16": (with_field(b"1").decode().encode("utf-16"), "byte order mark"),
    "UTF-16 without a mark": (with_field(b"1").decode().encode("utf-16-be"), "NUL byte"),
    "NUL": (with_field(b'"\\u0000"'), "control character"),
    "NUL in bytes": (with_field(b'"\x00"'), "NUL byte"),
    "control character": (with_field(b'"\\u001b[31m"'), "control character"),
    "control character in bytes": (with_field(b'"\x1b[31m"'), "not JSON"),
    "nothing": (b"", "not JSON"),
    "blanks": (b" \r\n\t" * 1_000, "not JSON"),
    "an array": (b"[]", "an object is allowed"),
    "a text": (b'"{}"', "an object is allowed"),
    "two objects": (b"{}{}", "not JSON"),
    "a comma too many": (b'{"model":"a",}', "not JSON"),
    "a comment": (b"/**/{}", "not JSON"),
    "single quotes": (b"{'model':'a'}", "not JSON"),
    "50,000 bad items": (
        MODEL_FIELD + b'"content":[' + b",".join([b"1"] * 49_000) + b"]}",
        "at most 64 are allowed",
    ),
    "50,000 bad objects": (
        MODEL_FIELD + b'"content":[' + b",".join([b'{"type":1}'] * 50_000) + b"]}",
        "too many",
    ),
    "100,000 fields": (b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}", "too many"),
    "33 unknown fields": (
        with_field(b"1," + b",".join(b'"x%d":1' % n for n in range(32))),
        "more than 32 unknown",
    ),
    "17 KB of unknown fields": (with_field(b'"%b"' % (b"y" * 17_000)), "exceed 16384 bytes"),
    "a long name": (with_field(b"1", b"n" * 100_000), "exceed 16384 bytes"),
    "a long model": (b'{"model":"%b","content":[]}' % (b"m" * 100_000), "at most 200 characters"),
    "a long prompt": (
        MODEL_FIELD + b'"content":[{"type":"text","text":"%b"}]}' % (b"p" * 100_000),
        "more than the 20000 characters allowed",
    ),
    "a long address": (
        MODEL_FIELD
        + b'"content":[{"type":"image_url","image_url":{"url":"http://a/%b"}}]}' % (b"u" * 100_000),
        "characters, at most",
    ),
}
"""Body, and words of the refusal."""


@pytest.mark.parametrize("name", SMALL)
def test_a_small_bomb_is_refused_in_few_words_and_little_memory(
    gateway: Gateway, name: str
) -> None:
    body, words = SMALL[name]
    replies: list[Reply] = []

    cost = cost_bytes(gateway, lambda: replies.append(post(gateway, body)))

    (reply,) = replies
    assert (reply.status, reply.error_code) == (400, "InvalidParameter")
    assert words in json.loads(reply.body)["error"]["message"]
    assert len(reply.body) < REFUSAL_BYTES_MAX
    assert cost <= BOMB_BYTES_MAX


def fill(pattern: bytes, start: bytes, end: bytes, size: int = LARGE) -> bytes:
    """Return a body of nearly `size` bytes: `pattern` again and again between start and end."""
    return start + pattern * ((size - len(start) - len(end)) // len(pattern)) + end


LARGE_BOMBS: Mapping[str, Callable[[int], bytes]] = {
    "digits": lambda size: fill(b"9", b'{"a":', b"}", size),
    "blanks": lambda size: fill(b" ", b"", b"{}", size),
    "open brackets": lambda size: fill(b"[", b"", b"", size),
    "empty objects": lambda size: fill(b"{},", b'{"a":[', b"{}]}", size),
    "empty texts": lambda size: fill(b'"",', b'{"a":[', b'""]}', size),
    "quotes": lambda size: fill(b'\\"', b'{"a":"', b'"}', size),
    "backslashes": lambda size: fill(b"\\", b'{"a":"', b'"}', size),
    "escapes": lambda size: fill(b"\\n", b'{"a":"', b'"}', size),
    "one text": lambda size: fill(b"a", b'{"a":"', b'"}', size),
    "text of wide characters": lambda size: fill("\U0001f600".encode(), b'{"a":"', b'"}', size),
    "one name": lambda size: fill(b"a", b'{"', b'":1}', size),
    "names": lambda size: fill(b'"a":1,', b"{", b'"b":1}', size),
    "texts just below the long ones": lambda size: fill(
        b'"' + b"a" * 130_000 + b'",', b'{"a":[', b"1]}", size
    ),
}


@pytest.mark.parametrize("name", LARGE_BOMBS)
def test_a_large_bomb_costs_no_more_than_three_copies_of_it(gateway: Gateway, name: str) -> None:
    body = LARGE_BOMBS[name](LARGE)
    replies: list[Reply] = []

    cost = cost_bytes(gateway, lambda: replies.append(post(gateway, body)))

    (reply,) = replies
    assert reply.status == 400
    assert reply.error_code in {"InvalidParameter", "MissingParameter"}
    assert len(reply.body) < REFUSAL_BYTES_MAX
    assert cost <= allowed_bytes(len(body))


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE_BOMBS)
def test_the_largest_bombs_cost_no_more_than_three_copies_either(
    gateway: Gateway, name: str
) -> None:
    body = LARGE_BOMBS[name](BODY_BYTES_MAX)

    cost = cost_bytes(gateway, lambda: post(gateway, body))

    assert cost <= allowed_bytes(len(body))


def make_image_body(size: int, words: str = AT_ONCE) -> bytes:
    """Return a request of about `size` bytes, nearly all of it one image."""
    image = base64.b64encode(random.Random(size).randbytes(size // 4 * 3)).decode()
    body = make_body(words)
    item = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    return json.dumps({**body, "content": [*_items(body), item]}).encode()


def _items(body: dict[str, object]) -> list[object]:
    items = body["content"]
    assert isinstance(items, list)
    return items


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda: fill(b"9", b'{"a":', b"}"), id="refused before it is parsed"),
        pytest.param(lambda: fill(b"a", b'{"a":"', b'"}'), id="refused after it was parsed"),
        pytest.param(lambda: make_image_body(LARGE, "--dur never"), id="refused by its values"),
        pytest.param(lambda: make_image_body(LARGE, "sandbox:invalid"), id="refused upstream"),
        pytest.param(lambda: make_image_body(LARGE), id="accepted"),
    ],
)
def test_nothing_of_a_large_body_is_kept(gateway: Gateway, body: Callable[[], bytes]) -> None:
    sent = body()
    post(gateway, sent)
    before_bytes = reset_peak_memory(gateway.process.pid)

    for _ in range(REPEATS):
        post(gateway, sent)

    peak_bytes = read_memory(gateway.process.pid, peak=True) - before_bytes
    deadline_s = time.monotonic() + SETTLING_S_MAX
    # What the allocator keeps for the next large body does not grow with their number.
    while read_memory(gateway.process.pid) - before_bytes >= REPEATS * LARGE // 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert peak_bytes < REPEATS * LARGE


@dataclass
class Poller:
    """Reads a list of tasks again and again, while something else goes on."""

    gateway: Gateway
    is_over: threading.Event = field(default_factory=threading.Event)
    ended_s: list[float] = field(default_factory=list)

    def run(self) -> None:
        line = f"GET {PATH.decode()}?page_size=1 HTTP/1.1\r\n".encode()
        sent = line + head(self.gateway).partition(b"\r\n")[2]
        with RawConnection(self.gateway.url) as connection:
            while not self.is_over.is_set():
                connection.send(sent)
                replies = connection.read_replies(1)
                assert [reply.status for reply in replies] == [200]
                connection.received.clear()
                self.ended_s.append(time.monotonic())

    def longest_share(self, start_s: float, end_s: float) -> float:
        """Return the longest time without an answered read, as a share of the time given."""
        ended_s = [start_s, *(one for one in self.ended_s if start_s < one < end_s), end_s]
        return max(map(float.__sub__, ended_s[1:], ended_s)) / (end_s - start_s)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        pytest.param(AT_ONCE, 200, id="accepted"),
        pytest.param("--duration never", 400, id="refused when it was parsed"),
    ],
)
def test_an_image_of_30_mb_is_read_while_others_are_answered(
    gateway: Gateway, words: str, status: int
) -> None:
    body = make_image_body(30_000_000, words)
    creates = gateway.read_truth()["creates"]
    assert isinstance(creates, int)
    poller = Poller(gateway)
    thread = threading.Thread(target=poller.run)
    thread.start()
    before_bytes = reset_peak_memory(gateway.process.pid)
    try:
        with RawConnection(gateway.url) as connection:
            connection.send(head(gateway, f"Content-Length: {len(body)}") + body)
            sent_s = time.monotonic()
            (reply,) = connection.read_replies(1)
            answered_s = time.monotonic()
    finally:
        poller.is_over.set()
        thread.join()
    cost = read_memory(gateway.process.pid, peak=True) - before_bytes
    share = poller.longest_share(sent_s, answered_s)

    assert reply.status == status
    assert gateway.read_truth()["creates"] == creates + (status == 200)
    assert share < 1 / 2
    assert cost <= allowed_bytes(len(body))
    print(
        f"{cost / len(body):.2f} copies, the longest pause between reads is {share:.0%} of "
        f"{answered_s - sent_s:.2f} s"
    )


def test_one_byte_too_many_is_refused_by_claim_and_by_count(gateway: Gateway) -> None:
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"

    def send_chunks() -> None:
        with RawConnection(gateway.url) as connection:
            connection.send(head(gateway, "Transfer-Encoding: chunked"))
            for _ in range(BODY_BYTES_MAX // MIB):
                assert connection.send(chunk)
            connection.send(b"1\r\n \r\n0\r\n\r\n")
            (reply,) = connection.read_replies(1)
            assert (reply.status, reply.error_code) == (413, "RequestTooLarge")
            connection.wait_for_close()

    def claim() -> None:
        with RawConnection(gateway.url) as connection:
            connection.send(head(gateway, f"Content-Length: {BODY_BYTES_MAX + 1}"))
            (reply,) = connection.read_replies(1)
            assert (reply.status, reply.error_code) == (413, "RequestTooLarge")
            connection.wait_for_close()

    assert cost_bytes(gateway, claim) < BESIDE_BYTES_MAX
    assert cost_bytes(gateway, send_chunks) <= allowed_bytes(BODY_BYTES_MAX)


def test_a_projects_bodies_together_hold_a_bounded_number_of_bytes(gateway: Gateway) -> None:
    size, count = 16 * MIB, 12
    before_bytes = reset_peak_memory(gateway.process.pid)
    with ExitStack() as stack:
        opened = [stack.enter_context(RawConnection(gateway.url)) for _ in range(count)]
        for each in opened:
            each.send(head(gateway, f"Content-Length: {size}") + b" " * (size - 1))
        for each in opened:
            each.send(b" ")
        replies = [each.read_replies(1) for each in opened]
    peak_bytes = read_memory(gateway.process.pid, peak=True) - before_bytes

    told = [[reply.error_code for reply in each] for each in replies]
    # Who is turned away in the middle of a body may lose the answer to the reset.
    turned_away = [codes for codes in told if codes in ([], ["ServerOverloaded"])]
    taken = [codes for codes in told if codes == ["InvalidParameter"]]
    assert len(turned_away) + len(taken) == count
    assert ["ServerOverloaded"] in turned_away
    assert len(taken) >= PROJECT_BYTES_MAX // size - 1
    assert peak_bytes <= PROJECT_BYTES_MAX + allowed_bytes(size)
    assert post(gateway, b"{}").status == 400


GZIP_BOMB = gzip.compress(gzip.compress(bytes(20 * MIB)))
PLAIN = json.dumps(make_body("--duration never")).encode()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Encoding: gzip",),
        ("Content-Encoding: gzip, gzip",),
        ("Content-Encoding: identity",),
        ("Content-Encoding:",),
        ("Content-Type: text/plain",),
        ("Content-Type: application/x-www-form-urlencoded",),
        ("Content-Type: multipart/form-data; boundary=a",),
        ("Content-Type: application/jsonx",),
        ("Content-Type: application/json, text/plain",),
        ("Content-Type: application/json; charset=utf-16",),
        ("Content-Type: application/json; charset=latin-1",),
    ],
    ids="; ".join,
)
def test_anything_but_plain_json_is_refused_unread(gateway: Gateway, lines: tuple[str]) -> None:
    replies = []

    cost = cost_bytes(gateway, lambda: replies.append(post(gateway, GZIP_BOMB, *lines)))
    replies.append(post(gateway, PLAIN, *lines))

    for reply in replies:
        assert (reply.status, reply.error_code) == (415, "UnsupportedMediaType")
    assert cost < BESIDE_BYTES_MAX


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Content-Type:",),
        ("Content-Type: application/json",),
        ("Content-Type: Application/JSON ; Charset=UTF-8",),
        ('Content-Type: application/json;charset="utf-8"',),
    ],
    ids="; ".join,
)
def test_json_may_be_named_in_many_ways(gateway: Gateway, lines: tuple[str]) -> None:
    assert "duration" in post(gateway, PLAIN, *lines).body.decode()
