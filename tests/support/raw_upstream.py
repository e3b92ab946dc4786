"""A scripted upstream on raw TCP: it can do to a connection whatever a broken peer does."""

import asyncio
import json
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class RawRequest:
    """A request as it arrived, byte for byte."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"header {name} was sent {len(values)} times"
        return values[0] if values else None

    def json(self) -> object:
        return json.loads(self.body)


class RawConnection:
    """One accepted connection, in the hands of a script."""

    def __init__(
        self, upstream: "RawUpstream", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._upstream = upstream
        self._reader = reader
        self._writer = writer

    async def read_head(self) -> RawRequest:
        """Read a request up to its body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head[:-4].split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = [(name, value.strip()) for name, value in (line.split(":", 1) for line in lines)]
        return RawRequest(method, target, headers, b"")

    async def read_request(self) -> RawRequest:
        """Read one whole request and record it."""
        head = await self.read_head()
        body = await self._reader.readexactly(int(head.header("content-length") or 0))
        request = RawRequest(head.method, head.target, head.headers, body)
        self._upstream.record(request)
        return request

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_json(
        self, value: object, *, status: int = 200, headers: tuple[str, ...] = ()
    ) -> None:
        await self.send(json_answer(value, status=status, headers=headers))

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        descriptor = self._writer.get_extra_info("socket").fileno()
        # A duplicate, because uvloop's socket object can't set options.
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def wait_until_left(self) -> None:
        """Keep silent until the peer goes away."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass


Script = Callable[[RawConnection], Awaitable[None]]


def answer_bytes(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: tuple[str, ...] = (),
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Word",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_answer(value: object, *, status: int = 200, headers: tuple[str, ...] = ()) -> bytes:
    return answer_bytes(json.dumps(value).encode(), status=status, headers=headers)


def always(answer: bytes) -> Script:
    """Return a script that gives every request the same answer and keeps the connection."""

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(answer)

    return script


@dataclass
class RawUpstream:
    """Runs `script` on every connection; counts connections and whole requests."""

    script: Script
    tls: ssl.SSLContext | None = None
    connection_count: int = 0
    requests: list[RawRequest] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self.failures, f"the script failed: {self.failures!r}"

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/api/v3"

    def record(self, request: RawRequest) -> None:
        self.requests.append(request)
        self._arrived.set()

    async def wait_for_requests(self, count: int) -> None:
        while len(self.requests) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection_count += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(RawConnection(self, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the peer left, as peers do
        except Exception as exc:  # noqa: BLE001 - reported when the test ends
            self.failures.append(exc)
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()
