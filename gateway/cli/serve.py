"""`serve`: one process with the public listener, the metrics listener and the loops.

Stopping goes in this order: readiness turns 503 and new submits are refused; clients that wait for
a change are answered; the listeners close and requests in progress end; submits in progress end,
however long the upstream takes within its own time-outs; then the loops stop and the store closes.
"""

import asyncio
import errno
import fcntl
import json
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Final

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketSpec  # type: ignore[attr-defined]
from granian.server.embed import Server
from starlette.types import ASGIApp

from gateway.app import create_app, create_metrics_app
from gateway.cli.simulated import SANDBOX_TIME_SCALE, sandbox_at, with_sandbox
from gateway.config import Config, ServerConfig
from gateway.domain.keys import KeyKind
from gateway.domain.projects import DEFAULT_PROJECT
from gateway.errors import ConfigurationError, Unauthenticated
from gateway.ports import Runtime
from gateway.runtime import make_private_folder, open_runtime, write_private_file
from gateway.sandbox.server import RunningSandbox, run_sandbox
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.store import StateInUseError
from gateway.services import admin, bookkeeping, replaying, restoring, sweeping
from gateway.services.auth import authenticate
from gateway.services.observing import find_orphans
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import run_loops

SANDBOX_PORT: Final = 8081
SANDBOX_KEY_FILE: Final = "sandbox-key"
_LOCK_FILE: Final = "serve.lock"
_BACKLOG: Final = 1024
_START_S_MAX: Final = 10.0
_START_LOOK_S: Final = 0.005
_STOP_LOOK_S: Final = 0.05
_STOP_LINGER_S: Final = 3.0
_NO_UPSTREAM: Final = (
    "No upstream is configured. Set ARK_API_KEY and ARK_BASE_URL (such as "
    "https://ark.cn-beijing.volces.com/api/v3), list upstreams in the configuration file, or start "
    "with --sandbox to try the gateway without an account."
)
_WELCOME: Final = """\
Gateway  {url}
Metrics  {metrics_url}
Sandbox  {sandbox_url}
Key      {key}

Submit a task:

  curl -s {url}/seedance/generations \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "doubao-seedance-1-0-pro-250528", "content": [{{"type": "text",
         "text": "Paper boats drift past a lighthouse --resolution 480p --duration 5"}}]}}'

Ask for it with the id that you got (`wait` answers as soon as something changes):

  curl -s '{url}/seedance/generations/ID?wait=30' -H 'Authorization: Bearer {key}'
"""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line adds to the configuration."""

    sandbox: bool = False
    sandbox_url: str | None = None
    format: str = "table"


@dataclass(frozen=True, slots=True)
class Ready:
    """What a start prints once requests are answered."""

    url: str
    metrics_url: str
    sandbox_url: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """A bound port: the address to listen on, its number, and the URL of what listens there."""

    address: str
    number: int
    url: str


@dataclass(frozen=True, slots=True)
class Ports:
    public: Port
    metrics: Port


def run_serve(config: Config, options: ServeOptions, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises: ConfigurationError if the program can't start as it is configured.
    """
    if options.sandbox_url is not None:
        sandbox_at(options.sandbox_url, config)
    elif not config.upstreams and not options.sandbox:
        raise ConfigurationError(_NO_UPSTREAM)
    make_private_folder(config.data_dir)
    _allow_open_files(2 * config.server.connections_max)
    with _only_server(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, options, environ))


def _allow_open_files(wanted_count: int) -> None:
    """Raise the soft limit of open files, connections among them, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted_count if hard == resource.RLIM_INFINITY else min(wanted_count, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


async def _serve(config: Config, options: ServeOptions, environ: Mapping[str, str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        sandbox_url = options.sandbox_url
        if options.sandbox:
            sandbox_url = await stack.enter_async_context(_sandbox(config))
        if sandbox_url is not None:
            config = stack.enter_context(with_sandbox(config, sandbox_url, is_ours=options.sandbox))
        ports = stack.enter_context(_reserved_ports(config.server))
        runtime = await stack.enter_async_context(open_runtime(config, environ=environ))
        key = await _prepare(runtime, is_simulated=sandbox_url is not None)
        ready = Ready(ports.public.url, f"{ports.metrics.url}/metrics", sandbox_url, key)
        try:
            await _run(runtime, ports, stop, lambda: _announce(ready, options))
        except ExceptionGroup as errors:  # a loop died, and takes the process down
            runtime.log.exception("server.failed", exc_info=errors)
            await runtime.background.drain()
            return 1
        finally:
            runtime.log.info("server.stopped")
    return 0


async def _run(
    runtime: Runtime, ports: Ports, stop: asyncio.Event, announce: Callable[[], None]
) -> None:
    """Run loops and listeners until `stop`; end requests first, then submits, then the loops."""
    settings = runtime.config.server
    app = create_app(runtime)
    async with asyncio.TaskGroup() as group:
        loops = group.create_task(run_loops(runtime, build_loops(runtime)))
        async with (
            _listener(create_metrics_app(runtime), settings, ports.metrics),
            _listener(app, settings, ports.public),
        ):
            announce()
            runtime.log.info("server.started", url=ports.public.url, store=_describe_store(runtime))
            await stop.wait()
            await _begin_drain(runtime, app.in_flight_count)
        await runtime.background.drain()
        loops.cancel()


def _describe_store(runtime: Runtime) -> str:
    name = runtime.db.name
    return f"{name}: one server process" if name == "sqlite" else name


async def _begin_drain(runtime: Runtime, requests_count: int) -> None:
    """Say that this process is going, and answer everybody who only waits."""
    runtime.log.info(
        "server.draining",
        requests_count=requests_count,
        submits_count=runtime.background.active_count,
    )
    runtime.lifecycle.is_draining = True
    runtime.status_cache.wake_all()
    await runtime.clock.sleep(runtime.config.server.drain_delay_s)


@asynccontextmanager
async def _listener(app: ASGIApp, settings: ServerConfig, port: Port) -> AsyncIterator[None]:
    """Run one server for `app` until left; requests in progress then end first."""
    server = _Server(
        app,
        address=port.address,
        port=port.number,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        backlog=_BACKLOG,
        backpressure=settings.connections_max,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(settings.head_timeout_s * 1000),
            max_buffer_size=settings.head_bytes_max,
        ),
    )
    server.unread_timeout_s = settings.head_timeout_s
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        try:
            await _wait_for_listener(port)
            yield
        finally:
            server.stop()  # type: ignore[no-untyped-call]
            await _let_go(app, serving)


class _Server(Server):
    """Granian's server, which also lets go of clients that don't read their answers."""

    unread_timeout_s = 0.0

    def _init_shared_socket(self) -> None:
        """Make the listening socket here, where its options can be set; connections inherit them.

        Without one, a client that leaves its answer unread holds its connection for ever.
        """
        holder = SocketSpec(self.bind_addr, self.bind_port, self.backlog).build()
        self._shd = holder  # type: ignore[assignment]  # as where sockets can't be shared by port
        self._ssp = None
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with socket.fromfd(holder.get_fd(), socket.AF_INET, socket.SOCK_STREAM) as listening:
                unread_timeout_ms = int(self.unread_timeout_s * 1000)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_timeout_ms)


async def _let_go(app: ASGIApp, serving: "asyncio.Task[None]") -> None:
    """Wait until no request is in progress, then shortly for those who have no claim to more.

    The server itself would wait for every connection on which anything has begun: for half a head
    until its deadline, for an answer that nobody reads for ever.
    """
    await _wait_for_requests(app, serving)
    await asyncio.wait([serving], timeout=_STOP_LINGER_S)
    await _wait_for_requests(app, serving)  # whose heads came meanwhile
    serving.cancel()


async def _wait_for_requests(app: ASGIApp, serving: "asyncio.Task[None]") -> None:
    while getattr(app, "in_flight_count", 0) and not serving.done():  # noqa: ASYNC110 - it only counts
        await asyncio.sleep(_STOP_LOOK_S)


@contextmanager
def _reserved_ports(settings: ServerConfig) -> Iterator[Ports]:
    metrics_host = settings.metrics_host or settings.host
    with (
        _reserved_port(settings.host, settings.port, "") as public,
        _reserved_port(metrics_host, settings.metrics_port, "metrics_") as metrics,
    ):
        yield Ports(public, metrics)


@contextmanager
def _reserved_port(host: str, port: int, prefix: str) -> Iterator[Port]:
    """Bind, without listening, so that port 0 has a number. `prefix` is of the settings' names.

    The server binds the same port again with SO_REUSEPORT, which would also let two gateways share
    a port unseen: so the first bind is made without it, and fails if the port is taken.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            where = (*where[:1], probe.getsockname()[1], *where[2:])
        with socket.socket(family, socket.SOCK_STREAM) as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(where)
            number = int(where[1])
            shown = f"[{host}]" if ":" in host else host
            yield Port(str(where[0]), number, f"http://{shown}:{number}")
    except OSError as error:
        raise ConfigurationError(
            f"Can't listen on {host} port {port}: {error.strerror or error}. "
            + _tell_remedy(error, prefix)
        ) from error


def _tell_remedy(error: OSError, prefix: str) -> str:
    if error.errno in {errno.EADDRINUSE, errno.EACCES}:
        option = "" if prefix else "--port or "
        setting = f"server.{prefix}port (GATEWAY_SERVER__{prefix.upper()}PORT)"
        return f"Set another one by {option}{setting}; `--port 0` takes free ones for all."
    setting = f"server.{prefix}host (GATEWAY_SERVER__{prefix.upper()}HOST)"
    return f"{setting} must be one of this machine's addresses, such as 127.0.0.1 or 0.0.0.0."


async def _wait_for_listener(port: Port) -> None:
    async with asyncio.timeout(_START_S_MAX):
        while True:
            try:
                _, writer = await asyncio.open_connection(port.address, port.number)
            except OSError:
                await asyncio.sleep(_START_LOOK_S)
            else:
                writer.close()
                await writer.wait_closed()
                return


@contextmanager
def _only_server(config: Config) -> Iterator[None]:
    """Hold the data folder: SQLite means one server process."""
    if config.storage.url is not None:
        yield
        return
    with (config.data_dir / _LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another gateway serves from {config.data_dir}: SQLite means one server process; "
                "several need PostgreSQL (storage.url)."
            ) from error
        yield


@asynccontextmanager
async def _sandbox(config: Config) -> AsyncIterator[str]:
    """Run the simulated upstream in this process, over real HTTP on its own port."""
    async with AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(_started_sandbox(config))
        except (OSError, sqlite3.Error, StateInUseError) as error:
            raise ConfigurationError(f"The sandbox can't start: {error}") from error
        yield sandbox.url


@asynccontextmanager
async def _started_sandbox(config: Config) -> AsyncIterator[RunningSandbox]:
    """Run it on its usual port, or on a free one if that is taken."""
    settings = SandboxSettings(
        data_dir=config.data_dir / "sandbox",
        port=0 if config.server.port == 0 else SANDBOX_PORT,
        time_scale=SANDBOX_TIME_SCALE,
    )
    async with AsyncExitStack() as stack:
        try:
            sandbox = await stack.enter_async_context(run_sandbox(settings))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sandbox = await stack.enter_async_context(run_sandbox(replace(settings, port=0)))
        yield sandbox


async def _prepare(runtime: Runtime, *, is_simulated: bool) -> str | None:
    """Make sure of project `default`, the bootstrap key and, for the sandbox, a kept key."""
    await bookkeeping.settle_terms(runtime, is_trial=is_simulated)
    await admin.ensure_default_project(runtime)
    await sweeping.announce(runtime)
    await replaying.replay(runtime)
    await restoring.close_if_restored(runtime)
    if runtime.config.bootstrap_key is not None:
        await admin.install_bootstrap_key(runtime, runtime.config.bootstrap_key.get_secret_value())
    for (upstream, credential), count in (
        await find_orphans(runtime, runtime.config.upstreams)
    ).items():
        where = f"{upstream}/{credential}"
        runtime.log.error("observer.route_missing", route=where, tasks_count=count)
    if is_simulated:
        return await _sandbox_key(runtime)
    await _revoke_sandbox_key(runtime)
    return None


async def _sandbox_key(runtime: Runtime) -> str:
    """Return the key kept in the data folder; make one if it is missing or no longer valid."""
    path = runtime.config.data_dir / SANDBOX_KEY_FILE
    if path.exists():
        kept = path.read_bytes().strip()
        with suppress(Unauthenticated):
            await authenticate(runtime, kept)
            return kept.decode()
        path.unlink()
    created = await admin.create_key(
        runtime, "bootstrap", DEFAULT_PROJECT, name="sandbox", kind=KeyKind.TEST
    )
    write_private_file(path, created.key + "\n")
    return created.key


async def _revoke_sandbox_key(runtime: Runtime) -> None:
    """End the key that a trial left in the data folder: what it buys would cost money now."""
    path = runtime.config.data_dir / SANDBOX_KEY_FILE
    if not path.exists():
        return
    kept = path.read_bytes().strip()
    bootstrap_key = runtime.config.bootstrap_key
    if bootstrap_key is not None and bootstrap_key.get_secret_value().encode() == kept:
        raise ConfigurationError(
            "bootstrap_key is the key of a sandbox trial, and ends with it: make another by "
            "`keys generate`."
        )
    with suppress(Unauthenticated):
        principal = await authenticate(runtime, kept)
        if (await admin.get_key(runtime, principal.key_id)).kind is KeyKind.TEST:
            await admin.revoke_key(runtime, "bootstrap", principal.key_id)
    path.unlink()


def _announce(ready: Ready, options: ServeOptions) -> None:
    """Print, on stdout, how to reach the gateway; one line of JSON if asked for."""
    if options.format == "json":
        text = json.dumps(asdict(ready))
    elif ready.key is None:
        text = f"Gateway  {ready.url}\nMetrics  {ready.metrics_url}"
    else:
        text = _WELCOME.format(**asdict(ready))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
