"""One request and its answer over ASGI, with the points at which faults act."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Final, Protocol

from gateway.sandbox.errors import VendorError
from gateway.sandbox.faults import Action, Faults, Operation, Point, Rule

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
TRANSPORT_EXTENSION: Final = "sandbox.transport"

Message = MutableMapping[str, object]
Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class TransportControl(Protocol):
    """What the sandbox's own server lets the application do to the connection."""

    async def close(self) -> None:
        """Send what is written, then end the connection in good order."""

    async def reset(self) -> None:
        """Send what is written, then end the connection with a TCP reset."""

    def repeat_answer(self) -> None:
        """Write the answer that comes now twice."""


class ConnectionGoneError(Exception):
    """The connection was ended on purpose: nothing more can be said on it."""


class FaultAnswerError(Exception):
    """A rule answers in the operation's place."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.status)
        self.status = rule.status
        self.body = rule.body


class Exchange:
    """A request as the operations see it. `operation` is set by the router; None has no faults."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, faults: Faults) -> None:
        self._receive = receive
        self._send = send
        self._faults = faults
        self._headers = dict(_pairs(scope["headers"]))
        self.operation: Operation | None = None
        self.method = str(scope["method"])
        self.path = str(scope["path"])
        query = scope["query_string"]
        self.query = query.decode("latin-1") if isinstance(query, bytes) else ""
        extensions = scope.get("extensions")
        extension = extensions.get(TRANSPORT_EXTENSION) if isinstance(extensions, dict) else None
        self._control: TransportControl | None = extension["control"] if extension else None

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    async def reach(self, at: Point) -> bool:
        """Let a rule act at this point. Return whether it wants a duplicate.

        Raises:
            ConnectionGoneError: the connection was dropped or reset.
            FaultAnswerError: the rule answers instead.
        """
        if self.operation is None:
            return False
        rule = self._faults.pick(self.operation, at)
        if rule is None:
            return False
        match rule.action:
            case Action.DELAY:
                await asyncio.sleep(rule.ms / 1000)
            case Action.ERROR:
                raise FaultAnswerError(rule)
            case Action.DROP:
                await self._end(is_reset=False)
            case Action.RESET:
                await self._end(is_reset=True)
            case Action.DUPLICATE:
                return True
        return False

    async def read_body(self) -> bytes:
        """Return the body, at most 64 MiB.

        Raises:
            VendorError: it is longer.
        """
        expected = self.header("content-length")
        half = int(expected) // 2 if expected else 0
        chunks: list[bytes] = []
        size_bytes = 0
        is_past_middle = False
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionGoneError
            chunk = message.get("body", b"")
            if isinstance(chunk, bytes):
                size_bytes += len(chunk)
                chunks.append(chunk)
            if size_bytes > BODY_BYTES_MAX:
                raise VendorError("InvalidParameter", "The request body exceeds 64 MB", status=413)
            if not is_past_middle and size_bytes >= half:
                is_past_middle = True
                await self.reach(Point.MID_BODY)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer, the rules for its middle and its end included."""
        headers = {"content-length": str(len(body)), **headers}
        rule = self._pick(Point.MID_ANSWER)
        after = self._pick(Point.AFTER_ANSWER)
        if after is not None and after.action is Action.DUPLICATE and self._control is not None:
            self._control.repeat_answer()
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.encode("latin-1"), value.encode("latin-1"))
                    for name, value in headers.items()
                ],
            }
        )
        if rule is not None:
            half = len(body) // 2
            await self._send({"type": "http.response.body", "body": body[:half], "more_body": True})
            body = body[half:]
            await self._act(rule)
        await self._send({"type": "http.response.body", "body": body})
        if after is not None:
            await self._act(after)

    def _pick(self, at: Point) -> Rule | None:
        return None if self.operation is None else self._faults.pick(self.operation, at)

    async def _act(self, rule: Rule) -> None:
        match rule.action:
            case Action.DELAY:
                await asyncio.sleep(rule.ms / 1000)
            case Action.DROP | Action.RESET:
                await self._end(is_reset=rule.action is Action.RESET)
            case _:
                pass

    async def _end(self, *, is_reset: bool) -> None:
        # Under a server without the extension, raising makes it close the connection.
        if self._control is not None:
            await (self._control.reset() if is_reset else self._control.close())
        raise ConnectionGoneError


def _pairs(headers: object) -> list[tuple[str, str]]:
    pairs = headers if isinstance(headers, list | tuple) else ()
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in pairs]


def dump(value: object) -> bytes:
    """Return a value as JSON; lone surrogates of a client stay escaped."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
