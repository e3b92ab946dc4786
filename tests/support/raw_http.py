"""HTTP in bytes: what a hostile client says, and a strict reading of what comes back."""

import json
import re
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

REPLY_S_MAX: Final = 30.0
"""How long a reply may take before the test gives up; never what is measured."""
QUIET_S: Final = 0.1
"""A connection that says nothing for so long after a reply is taken to be done."""

_READ_BYTES: Final = 256 * 1024
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\Z")
_HEADER_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)\Z")


class UnreadableReply(AssertionError):
    """The bytes that came back are not a sequence of complete HTTP/1.1 replies."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete reply. Header names are lower case; each may come once."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        """The id given by the application; None for what the server answers before it."""
        return self.headers.get("x-request-id")

    @property
    def error_code(self) -> str:
        """The code in the vendor's envelope, which must be there and complete."""
        document = json.loads(self.body)
        assert list(document) == ["error"]
        error = document["error"]
        assert set(error) == {"code", "message", "param", "type"}
        assert error["message"].endswith(f" Request id: {self.request_id}")
        code: str = error["code"]
        return code


@dataclass(frozen=True, slots=True)
class Talk:
    """What one connection got back, and whether the other side closed it."""

    replies: tuple[Reply, ...]
    is_closed: bool

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]


@dataclass(slots=True, eq=False)
class RawConnection:
    """A connection that sends bytes as they are. Use it in a `with` block."""

    url: str
    """`http://host:port`, or `unix:path`."""
    received: bytearray = field(default_factory=bytearray)
    is_closed: bool = False
    is_head: bool = False
    """Replies are to HEAD: they have no body, whatever their length says."""
    _socket: socket.socket = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._socket = _connect(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, sent: bytes) -> bool:
        """Send, while reading what comes; False if the other side did not take all of it."""
        rest = memoryview(sent)
        deadline_s = time.monotonic() + REPLY_S_MAX
        while rest and not self.is_closed:
            assert time.monotonic() < deadline_s, "the other side takes nothing"
            self._socket.settimeout(0.05)
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                self.read_for(0.0)
            except ConnectionError:
                self.read_for(1.0)
                self.is_closed = True
        return not rest

    def read_for(self, quiet_s: float) -> None:
        """Read until nothing has come for `quiet_s`, or the other side closed."""
        while not self.is_closed and self._read_once(quiet_s):
            pass

    def read_replies(self, count: int, patience_s: float = REPLY_S_MAX) -> list[Reply]:
        """Return the replies so far: at least `count`, unless the other side closed before."""
        deadline_s = time.monotonic() + patience_s
        while len(replies := self.replies()) < count and not self.is_closed:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{len(replies)} of {count} replies after {patience_s:g} s"
            self._read_once(left_s)
        return replies

    def replies(self) -> list[Reply]:
        """Return the complete replies among what was received."""
        return read_replies(bytes(self.received), is_head=self.is_head, is_whole=self.is_closed)

    def wait_for_close(self, patience_s: float = REPLY_S_MAX) -> float:
        """Read until the other side closes; return how long that took, in seconds."""
        started_s = time.monotonic()
        while not self.is_closed:
            left_s = started_s + patience_s - time.monotonic()
            assert left_s > 0, f"still open after {patience_s:g} s: {bytes(self.received[:300])!r}"
            self._read_once(left_s)
        return time.monotonic() - started_s

    def _read_once(self, timeout_s: float) -> bool:
        """Read what is there within `timeout_s`; False if nothing is, or ever will be."""
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            chunk = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            return False
        except ConnectionError:
            chunk = b""
        self.received += chunk
        self.is_closed = not chunk
        return bool(chunk)


def _connect(url: str) -> socket.socket:
    if not url.startswith("unix:"):
        where = urlsplit(url)
        opened = socket.create_connection((where.hostname, where.port), REPLY_S_MAX)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.connect(url.removeprefix("unix:"))
    except OSError:
        opened.close()
        raise
    return opened


def converse(url: str, *pieces: bytes, quiet_s: float = QUIET_S, is_head: bool = False) -> Talk:
    """Send `pieces` on one connection; return what came back until it closed or went quiet.

    The quiet counts from the first reply on; where none comes, the caller reads with a deadline.
    """
    with RawConnection(url, is_head=is_head) as connection:
        for piece in pieces:
            if not connection.send(piece):
                break
        connection.read_replies(1)
        connection.read_for(quiet_s)
        return Talk(tuple(connection.replies()), connection.is_closed)


def read_replies(received: bytes, *, is_head: bool = False, is_whole: bool = True) -> list[Reply]:
    """Return the replies in `received`; an unfinished one at the end is left out.

    Raises: UnreadableReply; with `is_whole` also for an unfinished one.
    """
    replies: list[Reply] = []
    position = 0
    while position < len(received):
        reply, position = _read_reply(received, position, is_head=is_head)
        if reply is None:
            if is_whole:
                raise UnreadableReply(f"cut off: {received[position:][:300]!r}")
            break
        if reply.status >= 200:
            replies.append(reply)
    return replies


def _read_reply(received: bytes, start: int, *, is_head: bool) -> tuple[Reply | None, int]:
    end = received.find(b"\r\n\r\n", start)
    if end < 0:
        return None, start
    first, *lines = received[start:end].split(b"\r\n")
    status_line = _STATUS_LINE.match(first)
    if status_line is None:
        raise UnreadableReply(f"not a status line: {first[:300]!r}")
    status = int(status_line[1])
    headers = _read_headers(lines)
    end += 4
    if status < 200 or status == 304:
        return Reply(status, headers, b""), end
    if "content-length" not in headers or "transfer-encoding" in headers:
        raise UnreadableReply(f"no plain length: {headers}")
    length = 0 if is_head else int(headers["content-length"])
    if len(received) < end + length:
        return None, start
    return Reply(status, headers, received[end : end + length]), end + length


def _read_headers(lines: Iterable[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        parts = _HEADER_LINE.match(line)
        if parts is None:
            raise UnreadableReply(f"not a header: {line[:300]!r}")
        name = parts[1].decode("ascii").lower()
        if name in headers:
            raise UnreadableReply(f"the header {name} comes twice")
        headers[name] = parts[2].decode("latin-1")
    return headers


@dataclass(slots=True)
class LogReader:
    """Reads a JSON log as it grows; each line must be one JSON object."""

    path: Path
    offset: int = 0

    def skip(self) -> None:
        """Go to the end of what is there."""
        self.offset = self.path.stat().st_size

    def read(self) -> list[dict[str, object]]:
        """Return the complete lines that are new."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def read_until(self, request_ids: Collection[str]) -> list[dict[str, object]]:
        """Return the new lines, once the canonical lines of these requests are among them."""
        lines: list[dict[str, object]] = []
        deadline_s = time.monotonic() + REPLY_S_MAX
        while missing := set(request_ids).difference(ids_of(lines)):
            assert time.monotonic() < deadline_s, f"not in the log: {missing}"
            lines += self.read()
            time.sleep(0.002)
        return lines


def ids_of(lines: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the ids of the requests that the application finished, in order."""
    return [str(line["request_id"]) for line in lines if line["event"] == "http.request_finished"]
