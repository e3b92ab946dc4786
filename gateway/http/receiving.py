"""How a body comes in: typed, bounded in bytes and time, a few large ones at once."""

import asyncio
import re
from collections import Counter
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
    """Bounds how many bodies are being received at once, and the bytes that all of them hold.

    A project gets half of either at most, so that none can keep the others out.
    """

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.limits = JsonLimits()
        self.parsing = asyncio.Semaphore(server.body_parse_concurrency_max)
        self.receiving_count = 0
        self.held_bytes = 0
        self.receiving_by_project: Counter[str] = Counter()
        self.held_by_project: Counter[str] = Counter()

    def enter(self, project_id: str) -> "BodyHold":
        """Let one more body in. Raises: Overloaded."""
        count_max = self.server.body_concurrency_max
        if self.receiving_count >= count_max or self.receiving_by_project[project_id] >= max(
            1, count_max // 2
        ):
            raise _too_busy()
        return BodyHold(self, project_id)

    def hold(self, project_id: str, count_bytes: int) -> None:
        """Count bytes received, or by a negative number given back."""
        self.held_bytes += count_bytes
        self.held_by_project[project_id] += count_bytes
        if not self.held_by_project[project_id]:
            del self.held_by_project[project_id]

    def is_full(self, project_id: str) -> bool:
        """Whether all bodies together, or the project's, hold too much; one body always fits."""
        bytes_max = self.server.bodies_bytes_max
        share_max = max(bytes_max // 2, self.server.body_bytes_max)
        return self.held_bytes > bytes_max or self.held_by_project[project_id] > share_max


class BodyHold:
    """One body's share of the gate: a place until it has arrived, its bytes until the end."""

    def __init__(self, gate: BodyGate, project_id: str) -> None:
        self._gate = gate
        self._project_id = project_id
        self._held_bytes = 0
        self._is_receiving = True
        gate.receiving_count += 1
        gate.receiving_by_project[project_id] += 1

    def take(self, count_bytes: int) -> None:
        """Note bytes received. Raises: Overloaded if all bodies together hold too many."""
        self._held_bytes += count_bytes
        self._gate.hold(self._project_id, count_bytes)
        if self._gate.is_full(self._project_id):
            raise _too_busy()

    def arrived(self) -> None:
        """Give the place to another body; the bytes stay counted."""
        if self._is_receiving:
            self._is_receiving = False
            self._gate.receiving_count -= 1
            self._gate.receiving_by_project[self._project_id] -= 1
            if not self._gate.receiving_by_project[self._project_id]:
                del self._gate.receiving_by_project[self._project_id]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.arrived()
        self._gate.hold(self._project_id, -self._held_bytes)


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
