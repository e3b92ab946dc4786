"""Starting and stopping a sandbox: inside a running loop, or as a program of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.sandbox.app import SandboxApp
from gateway.sandbox.groups import open_group
from gateway.sandbox.http11 import HttpServer
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.world import open_world


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """Where a sandbox listens. `url` has no path and no slash at its end."""

    url: str
    port: int


@asynccontextmanager
async def run_sandbox(settings: SandboxSettings) -> AsyncIterator[RunningSandbox]:
    """Serve a sandbox until the end of the block, on asyncio or uvloop.

    Raises:
        StateInUseError: another sandbox uses the data folder.
        OSError: the port can't be had, or the folder not be written.
    """
    async with open_world(settings) as world, open_group() as group:
        server = HttpServer(SandboxApp(world), group, settings.connections_max)
        port = await server.start(settings.host, settings.port)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{port}"
        world.set_base_url(url)
        try:
            yield RunningSandbox(url, port)
        finally:
            await server.stop()


def main_sandbox(
    settings: SandboxSettings, on_ready: Callable[[str], None] = lambda _url: None
) -> None:
    """Serve a sandbox until SIGTERM or SIGINT. `on_ready` is told the URL when it answers."""
    asyncio.run(_serve_until_signal(settings, on_ready))


async def _serve_until_signal(settings: SandboxSettings, on_ready: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with run_sandbox(settings) as sandbox:
        on_ready(sandbox.url)
        await stopped.wait()
