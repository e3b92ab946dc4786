"""The nginx and HAProxy examples of docs/deploy.md, run in front of a server that misbehaves."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config import ServerConfig, UpstreamConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BODY_BYTES_MAX = ServerConfig().body_bytes_max
WAIT_S_MAX = 10.0

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {example}
}}
"""


@dataclass
class Backend:
    """Answers, except for `POST /drop`, which it reads to the end and then hangs up on."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    has_body: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the front hung up
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked = head.partition(" HTTP/")[0]
        if not asked.endswith(" /readyz"):  # HAProxy looks in of its own accord
            self.requests.append(asked)
        length = re.search(r"(?im)^content-length: (\d+)", head)
        left = int(length[1]) if length else 0
        while left:
            chunk = await reader.read(left)
            if not chunk:
                return False
            self.has_body.set()
            left -= len(chunk)
        if head.startswith("POST /drop"):
            return False
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        return True


def example_of(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


def replace_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def build_nginx(folder: Path, door: Path, port: int) -> list[str]:
    example = replace_once(example_of("nginx"), "listen 443 ssl;", f"listen unix:{door};")
    example = replace_once(example, "127.0.0.1:8080", f"127.0.0.1:{port}")
    example = re.sub(r"\n\s*ssl_certificate\w* [^\n]*", "", example)
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, example=example))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)]


def build_haproxy(folder: Path, door: Path, port: int) -> list[str]:
    certificate = "bind :443 ssl crt /etc/haproxy/seedance.example.com.pem"
    example = replace_once(example_of("haproxy"), certificate, f"bind unix@{door}")
    example = replace_once(example, "127.0.0.1:8080", f"127.0.0.1:{port}")
    file = folder / "haproxy.cfg"
    file.write_text(example)
    return ["haproxy", "-db", "-f", str(file)]


FRONTS = {"nginx": build_nginx, "haproxy": build_haproxy}


@dataclass(frozen=True, slots=True)
class Front:
    door: Path
    backend: Backend

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_unix_connection(self.door)
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, request: bytes) -> bytes:
        """Send `request` on a connection of its own; return the first line of the answer."""
        async with self.connect() as (reader, writer):
            writer.write(request)
            return await reader.readline()


async def wait_for(door: Path, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            assert process.returncode is None, "the front did not start"
            try:
                _, writer = await asyncio.open_unix_connection(door)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return


@asynccontextmanager
async def open_front(program: str, folder: Path) -> AsyncIterator[Front]:
    backend = Backend()
    door = folder / "door"
    async with await asyncio.start_server(backend.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(*FRONTS[program](folder, door, port))
        try:
            await wait_for(door, process)
            yield Front(door, backend)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def request(method: str, path: str, body_bytes: int = 0) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: seedance.example.com\r\n"
        f"Content-Length: {body_bytes}\r\n\r\n"
    ).encode()


@pytest.fixture(params=sorted(FRONTS))
async def front(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Front]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    async with open_front(request.param, tmp_path) as opened:
        yield opened


async def test_a_submit_is_sent_once_although_its_answer_is_lost(front: Front) -> None:
    # The first request leaves an idle connection behind, on which fronts like to try again.
    assert b" 200 " in await front.ask(request("GET", "/seedance/generations"))
    assert b" 502 " in await front.ask(request("POST", "/drop", 2) + b"{}")
    assert front.backend.requests.count("POST /drop") == 1


async def test_a_body_is_passed_on_while_it_arrives(front: Front) -> None:
    async with front.connect() as (reader, writer):
        writer.write(request("POST", "/seedance/generations", 200_000) + b"x" * 100_000)
        await front.backend.has_body.wait()
        writer.write(b"x" * 100_000)
        assert b" 200 " in await reader.readline()


async def test_a_body_of_the_largest_size_is_let_through(front: Front) -> None:
    async with front.connect() as (_, writer):
        writer.write(request("POST", "/seedance/generations", BODY_BYTES_MAX) + b"x" * 1000)
        await front.backend.has_body.wait()
    assert front.backend.requests == ["POST /seedance/generations"]


@pytest.mark.parametrize("front", ["nginx"], indirect=True)
async def test_nginx_refuses_a_larger_body_itself(front: Front) -> None:
    answer = await front.ask(request("POST", "/seedance/generations", BODY_BYTES_MAX + 1))
    assert b" 413 " in answer
    assert front.backend.requests == []


def seconds_of(language: str, setting: str) -> float:
    (value,) = re.findall(rf"(?m)^\s*{setting} (\d+)s;?$", example_of(language))
    return float(value)


@pytest.mark.parametrize(
    ("language", "reading", "idle"),
    [
        ("nginx", "proxy_read_timeout", "keepalive_timeout"),
        ("haproxy", "timeout server", "timeout http-keep-alive"),
    ],
)
def test_waits_longer_than_an_upstream_and_idles_shorter_than_the_gateway(
    language: str, reading: str, idle: str
) -> None:
    assert seconds_of(language, reading) > UpstreamConfig.model_fields["answer_timeout_s"].default
    assert seconds_of(language, idle) < ServerConfig().head_timeout_s
