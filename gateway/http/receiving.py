"""How a body comes in: typed, bounded in bytes and time, a few large ones at once."""

import asyncio
import re
from collections.abc import Mapping
from io import BytesIO
from types import TracebackType
from typing import Final, Self

from starlette.types import Receive

from gateway.config import ServerConfig
from gateway.errors import Overloaded, RequestTimeout, RequestTooLarge, UnsupportedMediaType
from gateway.http.body import JsonLimits, parse_json_object
from gateway.http.exchange import ClientDisconnected, Exchange

_BUSY_RETRY_S: Final = 2
_CREDITS_PER_S: Final = 16
"""How finely the deadline follows the bytes; moving it for each of many tiny chunks would cost."""
_CHARSET: Final = re.compile(rb";\s{0,8}charset\s{0,8}=\s{0,8}\"?([^\s;\"]{0,32})", re.IGNORECASE)
_UTF8: Final = (b"utf-8", b"utf8")


class BodyGate:
    """Bounds how many bodies are being received at once, and the bytes that all of them hold."""

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.limits = JsonLimits()
        self.parsing = asyncio.Semaphore(server.body_parse_concurrency_max)
        self.receiving_count = 0
        self.held_bytes = 0

    def enter(self) -> "BodyHold":
        """Let one more body in. Raises: Overloaded."""
        if self.receiving_count >= self.server.body_concurrency_max:
            raise _too_busy()
        return BodyHold(self)


class BodyHold:
    """One body's share of the gate: a place until it has arrived, its bytes until the end."""

    def __init__(self, gate: BodyGate) -> None:
        self._gate = gate
        self._held_bytes = 0
        self._is_receiving = True
        gate.receiving_count += 1

    def take(self, count_bytes: int) -> None:
        """Note bytes received. Raises: Overloaded if all bodies together hold too many."""
        self._held_bytes += count_bytes
        self._gate.held_bytes += count_bytes
        if self._gate.held_bytes > self._gate.server.bodies_bytes_max:
            raise _too_busy()

    def arrived(self) -> None:
        """Give the place to another body; the bytes stay counted."""
        if self._is_receiving:
            self._is_receiving = False
            self._gate.receiving_count -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.arrived()
        self._gate.held_bytes -= self._held_bytes


async def receive_object(exchange: Exchange, gate: BodyGate, hold: BodyHold) -> dict[str, object]:
    """Return the JSON object in the request's body; a large one is parsed in another thread.

    Raises: UnsupportedMediaType, RequestTooLarge, RequestTimeout, Overloaded, InvalidRequest,
    ClientDisconnected.
    """
    check_media_type(exchange.headers)
    body = await read_body(exchange.receive, exchange.headers, gate.server, hold)
    exchange.received_bytes = len(body)
    hold.arrived()
    if len(body) <= gate.server.body_inline_bytes_max:
        return parse_json_object(body, gate.limits)
    async with gate.parsing:
        return await asyncio.to_thread(parse_json_object, body, gate.limits)


def check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Accept JSON in UTF-8, plain; no type at all is taken for JSON.

    Raises: UnsupportedMediaType.
    """
    if b"content-encoding" in headers:
        raise UnsupportedMediaType("The Content-Encoding is not supported: send the body as it is.")
    given = headers.get(b"content-type", b"")
    media_type = given.partition(b";")[0].strip().lower()
    charset = _CHARSET.search(given)
    if media_type not in {b"", b"application/json"} or (
        charset is not None and charset[1].lower() not in _UTF8
    ):
        raise UnsupportedMediaType("The Content-Type is not supported: send application/json.")


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], server: ServerConfig, hold: BodyHold
) -> bytes:
    """Return the whole body. It must keep arriving at the least rate, after a fixed grace.

    What counts is what arrives, not what Content-Length claims.
    """
    largest = server.body_bytes_max
    claimed = headers.get(b"content-length", b"")
    if claimed.isdigit() and (len(claimed) > 18 or int(claimed) > largest):
        raise _too_large(largest)
    started_s = asyncio.get_running_loop().time()
    credited_bytes = received_bytes = 0
    step_bytes = server.body_rate_bytes_s_min // _CREDITS_PER_S
    # Chunks may be of one byte each: a list of them would weigh far more than the body.
    buffer = BytesIO()
    try:
        async with asyncio.timeout_at(started_s + server.body_deadline_s) as deadline:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                chunk: bytes = message.get("body", b"")
                received_bytes += len(chunk)
                if received_bytes > largest:
                    raise _too_large(largest)
                hold.take(len(chunk))
                if not message.get("more_body", False):
                    buffer.write(chunk)
                    return buffer.getvalue()
                buffer.write(chunk)
                if received_bytes - credited_bytes >= step_bytes:
                    credited_bytes = received_bytes
                    earned_s = credited_bytes / server.body_rate_bytes_s_min
                    deadline.reschedule(started_s + server.body_deadline_s + earned_s)
    except TimeoutError as error:
        raise RequestTimeout(
            f"The request body did not arrive in time: {server.body_deadline_s:g} seconds are "
            f"allowed, and one more for each {server.body_rate_bytes_s_min} bytes."
        ) from error


def _too_large(largest: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is too large: {largest} bytes are allowed.")


def _too_busy() -> Overloaded:
    return Overloaded(
        "Too many request bodies are being received; try again.", retry_after_s=_BUSY_RETRY_S
    )
