"""A client of one upstream, and the ways in which a peer breaks a connection."""

import asyncio
import gzip
import traceback
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from gateway.config import CredentialConfig, UpstreamConfig
from gateway.errors import GatewayError
from gateway.upstreams.client import UpstreamClient
from tests.support.raw_upstream import RawConnection, Script, answer_bytes, json_answer

CANARY = "canary-8d1c3f0ab7"
BODY = b'{"model":"m","content":[]}'
TASK_ID = "cgt-20260101000000-abcde"
ACCEPTED = json_answer({"id": TASK_ID})
SHORT_S = 0.3
PATH = "/api/v3/contents/generations/tasks"


def config_for(base_url: str, **settings: object) -> UpstreamConfig:
    return UpstreamConfig.model_validate(
        {
            "name": "one",
            "base_url": base_url,
            "credentials": [CredentialConfig(name="main", env="UNUSED")],
            "connect_timeout_s": 20,
            "write_timeout_s": 20,
            "answer_timeout_s": 20,
            "read_timeout_s": 20,
            **settings,
        }
    )


@asynccontextmanager
async def client_of(base_url: str, **settings: object) -> AsyncIterator[UpstreamClient]:
    tasks_url = f"{base_url}/contents/generations/tasks"
    client = UpstreamClient(
        config_for(base_url, **settings), tasks_url, {"main": SecretStr(CANARY)}
    )
    try:
        yield client
    finally:
        await client.close()


def assert_no_canary(error: BaseException) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert CANARY not in told


async def fault_of(call: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await call
    return caught.value


async def closes_after_reading_all(connection: RawConnection) -> None:
    await connection.read_request()


async def resets_after_reading_all(connection: RawConnection) -> None:
    await connection.read_request()
    connection.reset()


async def resets_after_the_head(connection: RawConnection) -> None:
    await connection.read_head()
    connection.reset()


async def resets_at_once(connection: RawConnection) -> None:
    connection.reset()


async def closes_at_once(connection: RawConnection) -> None:
    """Return, which closes."""


async def never_answers(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.wait_until_left()


def says(data: bytes) -> Script:
    async def script(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(data)

    return script


def says_and_stalls(data: bytes) -> Script:
    async def script(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.send(data)
        await connection.wait_until_left()

    return script


async def trickles(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await connection.send(b" ")
        await asyncio.sleep(0.05)


async def endless_interim_answers(connection: RawConnection) -> None:
    await connection.read_request()
    while True:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")


async def endless_head(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await connection.send(b"X-Filler: " + b"a" * 1000 + b"\r\n")


async def endless_header_line(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    while True:
        await connection.send(b"a" * 10_000)


async def endless_body(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")


HALF_AN_ANSWER = ACCEPTED[: -len(b'abcde"}')]
BOMB = gzip.compress(b" " * 20_000_000)
stalls_in_the_head = says_and_stalls(b"HTTP/1.1 200 OK\r\nContent-Len")
stalls_in_the_body = says_and_stalls(HALF_AN_ANSWER)
SILENT = {never_answers, trickles, endless_interim_answers, stalls_in_the_head, stalls_in_the_body}
AMBIGUOUS: dict[str, Script] = {
    "closes after reading all": closes_after_reading_all,
    "resets after reading all": resets_after_reading_all,
    "resets after the head": resets_after_the_head,
    "resets right after accept": resets_at_once,
    "closes right after accept": closes_at_once,
    "never answers": never_answers,
    "partial head": says(b"HTTP/1.1 200 OK\r\nContent-Len"),
    "partial head, then silence": stalls_in_the_head,
    "garbage": says(b"\x00\xff\x16\x03 garbage\r\n\r\n"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "100, then close": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100, then garbage": says(b"HTTP/1.1 100 Continue\r\n\r\n\x00\x00\r\n\r\n"),
    "100 without end": endless_interim_answers,
    "200, truncated": says(HALF_AN_ANSWER),
    "200, stalled": stalls_in_the_body,
    "200, trickled past the deadline": trickles,
    "200, truncated chunks": says(
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\n'
    ),
    "200, two lengths": says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}\n"
    ),
    "200, impossible length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "switches protocols": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "compressed": says(answer_bytes(BOMB, headers=("Content-Encoding: gzip",))),
    "compressed twice": says(answer_bytes(BOMB, headers=("Content-Encoding: gzip, gzip",))),
    "compressed in transfer": says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    ),
    "announced as too large": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}"),
    "too large": endless_body,
    "too large, by one byte": says(answer_bytes(b" " * 65537)),
    "endless head": endless_head,
    "endless header line": endless_header_line,
}
