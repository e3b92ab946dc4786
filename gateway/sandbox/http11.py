"""A small, strict HTTP/1.1 server for one ASGI application.

It exists for what servers rightly hide: an application that can end its connection in the middle
of an answer, in good order or with a TCP reset. Everything is bounded: heads, headers, bodies
(by the application), connections and the time that any of them may take.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from gateway.sandbox.callbacks import make_reset
from gateway.sandbox.exchange import TRANSPORT_EXTENSION, Message, Receive, Scope, Send

HEAD_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
CHUNK_BYTES: Final = 64 * 1024
HEAD_TIMEOUT_S: Final = 75.0
BODY_TIMEOUT_S: Final = 60.0
LINGER_S: Final = 1.0
STOP_GRACE_S: Final = 1.0
BACKLOG: Final = 1024

_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*"
)

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("gateway.sandbox")


class _BadRequestError(Exception):
    """The bytes are no request that this server takes."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    length: int | None
    is_chunked: bool
    is_kept: bool
    wants_continue: bool


class HttpServer:
    """Serves `app` on one address until `stop`."""

    def __init__(self, app: App, group: asyncio.TaskGroup, connections_max: int) -> None:
        self._app = app
        self._group = group
        self._connections_max = connections_max
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Bind, begin to serve, and return the port."""
        self._server = await asyncio.start_server(
            self._accept, host, port, limit=HEAD_BYTES_MAX, backlog=BACKLOG
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept no more; end idle connections at once and busy ones after a moment."""
        if self._server is not None:
            self._server.close()
        for task, connection in self._connections.items():
            if not connection.is_busy:
                task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=STOP_GRACE_S)
        for task in self._connections:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._connections_max:
            writer.transport.abort()
            return
        connection = _Connection(self._app, reader, writer)
        task = self._group.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(lambda done: self._connections.pop(done, None))


class _Connection:
    """One connection: requests one after the other, and the control that faults need."""

    def __init__(
        self, app: App, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._app = app
        self._reader = reader
        self._writer = writer
        self._is_open = True
        self._repeats = False
        self.is_busy = False

    async def serve(self) -> None:
        try:
            while self._is_open and await self._serve_one():
                pass
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except asyncio.CancelledError:
            # Only the stopping server cancels, and it wants no trace of it.
            pass
        except Exception:  # noqa: BLE001  # a defect may cost one connection, not the server
            _log.exception("sandbox.connection_failed")
        finally:
            self._writer.transport.abort()

    # What the application may do to the connection.

    async def close(self) -> None:
        """End in good order: a FIN after what is written, never a reset over unread bytes."""
        self._is_open = False
        await self._flush()
        if self._writer.can_write_eof():
            self._writer.write_eof()
        try:
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(CHUNK_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass

    async def reset(self) -> None:
        self._is_open = False
        await self._flush()
        make_reset(self._writer)
        self._writer.transport.abort()

    def repeat_answer(self) -> None:
        self._repeats = True

    # Requests.

    async def _serve_one(self) -> bool:
        """Serve one request and return whether the connection can take another."""
        self.is_busy = False
        try:
            head = await self._read_head()
            if head is None:
                return False
            self.is_busy = True
            is_kept = await self._answer_one(head) and head.is_kept
        except _BadRequestError as exc:
            self._write_refusal(exc.status)
            is_kept = False
        if not is_kept and self._is_open:
            await self.close()
        return is_kept

    async def _answer_one(self, head: _Head) -> bool:
        """Let the application answer; return whether both messages came to their end."""
        body = _Body(self._reader, self._writer, head)
        answer = _Answer(self._writer, head)
        try:
            await self._app(self._scope(head), body.receive, answer.send)
        except _BadRequestError:
            if answer.is_started:
                return False
            raise
        if not self._is_open or not answer.is_complete:
            return False
        if self._repeats:
            self._repeats = False
            answer.repeat()
        await self._writer.drain()
        return body.is_done or await body.drain()

    async def _read_head(self) -> _Head | None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                raw = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise _BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
        except asyncio.IncompleteReadError:
            return None
        return _parse_head(raw)

    def _scope(self, head: _Head) -> Scope:
        raw_path, _, query = head.target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": head.method,
            "scheme": "http",
            "path": unquote(raw_path, errors="replace"),
            "raw_path": raw_path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": head.headers,
            "client": self._writer.get_extra_info("peername"),
            "server": self._writer.get_extra_info("sockname"),
            "extensions": {TRANSPORT_EXTENSION: {"control": self}},
        }

    def _write_refusal(self, status: HTTPStatus) -> None:
        self._writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-length: 0\r\nconnection: close\r\n\r\n".encode("ascii")
        )

    async def _flush(self) -> None:
        """Let the kernel have everything that is written."""
        transport = self._writer.transport
        for _ in range(1000):
            await asyncio.sleep(0)
            if transport.is_closing() or not transport.get_write_buffer_size():
                return
            await asyncio.sleep(0.001)


class _Body:
    """The request's body as ASGI messages, by length or in chunks."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: _Head
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._remaining = head.length or 0
        self._is_chunked = head.is_chunked
        self._wants_continue = head.wants_continue
        self.is_done = not head.is_chunked and not head.length
        self._is_told = False

    async def receive(self) -> Message:
        if self.is_done and self._is_told:
            return {"type": "http.disconnect"}
        if self._wants_continue and not self.is_done:
            self._wants_continue = False
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with asyncio.timeout(BODY_TIMEOUT_S):
            chunk = b"" if self.is_done else await self._read_chunk()
        self._is_told = self.is_done
        return {"type": "http.request", "body": chunk, "more_body": not self.is_done}

    async def drain(self) -> bool:
        """Discard a little that the application left unread; return whether that was all."""
        if self._wants_continue:
            return False
        async with asyncio.timeout(LINGER_S):
            for _ in range(16):
                if self.is_done:
                    break
                await self._read_chunk()
        return self.is_done

    async def _read_chunk(self) -> bytes:
        if self._is_chunked and not self._remaining:
            await self._read_size()
            if self.is_done:
                return b""
        chunk = await self._reader.read(min(self._remaining, CHUNK_BYTES))
        if not chunk:
            raise asyncio.IncompleteReadError(chunk, self._remaining)
        self._remaining -= len(chunk)
        if not self._remaining:
            if self._is_chunked:
                await self._expect_line(b"")
            else:
                self.is_done = True
        return chunk

    async def _read_size(self) -> None:
        try:
            line = await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise _BadRequestError(HTTPStatus.BAD_REQUEST) from None
        size = line[:-2]
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)
        self._remaining = int(size, 16)
        if not self._remaining:
            await self._expect_line(b"")
            self.is_done = True

    async def _expect_line(self, line: bytes) -> None:
        if await self._reader.readexactly(len(line) + 2) != line + b"\r\n":
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)


class _Answer:
    """The answer's bytes. An application that sends its body in parts names the length itself."""

    def __init__(self, writer: asyncio.StreamWriter, head: _Head) -> None:
        self._writer = writer
        self._has_no_body = head.method == "HEAD"
        self._is_kept = head.is_kept
        self._start: Message = {}
        self._written: list[bytes] = []
        self.is_started = False
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = message.get("body", b"")
        more = bool(message.get("more_body", False))
        chunk = body if isinstance(body, bytes) else b""
        if not self.is_started:
            self.is_started = True
            head = self._head(len(chunk))
            chunk = head if self._has_no_body else head + chunk
        self._written.append(chunk)
        self._writer.write(chunk)
        if more:
            await self._writer.drain()
        self.is_complete = not more

    def repeat(self) -> None:
        self._writer.write(b"".join(self._written))

    def _head(self, length: int) -> bytes:
        status = HTTPStatus(int(str(self._start["status"])))
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode("ascii")]
        headers = self._start.get("headers", [])
        pairs = headers if isinstance(headers, list) else []
        lines += [name + b": " + value for name, value in pairs]
        names = {name.lower() for name, _ in pairs}
        if b"content-length" not in names:
            lines.append(f"content-length: {length}".encode("ascii"))
        if not self._is_kept:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _parse_head(raw: bytes) -> _Head:
    """Return the head of a request.

    Raises:
        _BadRequestError: anything that two parsers might read in two ways.
    """
    first, *lines = raw[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST)
    if len(lines) > HEADERS_MAX:
        raise _BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers = []
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)
        headers.append((field[1].lower(), field[2]))
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    is_modern = match[3] == b"1"
    if len(values.get(b"host", [])) != 1 and is_modern:
        raise _BadRequestError(HTTPStatus.BAD_REQUEST)
    length, is_chunked = _framing(values)
    connection = b",".join(values.get(b"connection", [])).lower()
    return _Head(
        method=match[1].decode("ascii"),
        target=match[2].decode("ascii"),
        headers=headers,
        length=length,
        is_chunked=is_chunked,
        is_kept=is_modern and b"close" not in connection,
        wants_continue=values.get(b"expect", [b""])[0].lower() == b"100-continue",
    )


def _framing(values: dict[bytes, list[bytes]]) -> tuple[int | None, bool]:
    """Return (content length, whether the body comes in chunks)."""
    lengths = values.get(b"content-length", [])
    codings = values.get(b"transfer-encoding", [])
    if codings:
        if lengths or len(codings) != 1 or codings[0].lower() != b"chunked":
            raise _BadRequestError(HTTPStatus.BAD_REQUEST)
        return None, True
    if not lengths:
        return None, False
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,12}", lengths[0]):
        raise _BadRequestError(HTTPStatus.BAD_REQUEST)
    return int(lengths[0]), False
