"""An ASGI application behind a real server on a real port, and a client that speaks in bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.types import ASGIApp

SERVERS = ("granian", "uvicorn")


@asynccontextmanager
async def listening(app: ASGIApp, server: str = "granian") -> AsyncIterator[int]:
    """Serve `app` on 127.0.0.1; give the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    serve = _granian if server == "granian" else _uvicorn
    async with serve(app, port):
        await _connect(port)
        yield port


@asynccontextmanager
async def _granian(app: ASGIApp, port: int) -> AsyncIterator[None]:
    server = Server(
        app,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=5_000, max_buffer_size=32_768),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        try:
            yield
        finally:
            server.stop()  # type: ignore[no-untyped-call]  # granian has no types here


@asynccontextmanager
async def _uvicorn(app: ASGIApp, port: int) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server._serve())
        try:
            yield
        finally:
            server.should_exit = True


async def _connect(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return


async def exchange_bytes(port: int, sent: bytes, *, quiet_s: float = 1.0) -> tuple[bytes, bool]:
    """Send bytes; return what came back until the server closed or went quiet, and which it was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    is_closed = False
    try:
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(quiet_s) as silence:
            while chunk := await reader.read(65536):
                received += chunk
                silence.reschedule(asyncio.get_running_loop().time() + quiet_s)
            is_closed = True
    except TimeoutError:
        pass
    except ConnectionError:
        is_closed = True
    finally:
        writer.close()
    return bytes(received), is_closed
