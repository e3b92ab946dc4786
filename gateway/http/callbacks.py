"""Callbacks of upstreams: whatever comes gets the same empty answer, and is looked into afterwards.

A stranger learns nothing here: not whether an address exists, nor what became of a call. What is
dropped, by its size or the rate, costs time alone: the observer finds out by itself.
"""

import asyncio
from functools import partial
from io import BytesIO
from typing import Final

from starlette.types import Receive

from gateway.domain.callbacks import BODY_BYTES_MAX, is_token
from gateway.http.exchange import Answer, Exchange
from gateway.ports import Clock, Runtime
from gateway.services.calling_back import take_callback

BODY_S_MAX: Final = 10.0
"""A body that has not arrived by then is not waited for."""
RECEIVING_COUNT_MAX: Final = 128
PENDING_COUNT_MAX: Final = 1024
BURST_S: Final = 10.0
"""As many callbacks may come at once as are looked into in this time: tasks end together."""

_DONE: Final = Answer(204, b"")
_CLOSED: Final = Answer(204, b"", ((b"connection", b"close"),))
"""The rest of a body that was not read must not be taken for the next request."""


class Callbacks:
    """Takes callbacks. One object an application, which bounds what all of them cost."""

    def __init__(self, runtime: Runtime) -> None:
        per_s = runtime.config.webhooks.incoming_per_s_max
        self._runtime = runtime
        self._bucket = TokenBucket(runtime.clock, per_s, max(1.0, per_s * BURST_S))
        self._receiving_count = 0
        self._pending_count = 0

    async def take_callback(self, exchange: Exchange) -> Answer:
        """Answer 204, whatever comes."""
        token: str = exchange.scope["path_params"]["token"]
        if not is_token(token):
            return self._drop("unknown")
        if self._is_full() or not self._bucket.take():
            return self._drop("dropped")
        self._receiving_count += 1
        try:
            body = await read_body(exchange.receive)
        finally:
            self._receiving_count -= 1
        if body is None:
            return self._drop("unread")
        exchange.received_bytes = len(body)
        self._pending_count += 1
        exchange.on_end = partial(self._look_into, token, body)
        return _DONE

    def _is_full(self) -> bool:
        return (
            self._receiving_count >= RECEIVING_COUNT_MAX or self._pending_count >= PENDING_COUNT_MAX
        )

    def _drop(self, result: str) -> Answer:
        self._runtime.metrics.callbacks.add(result)
        return _CLOSED

    async def _look_into(self, token: str, body: bytes, _is_delivered: bool) -> None:  # noqa: FBT001
        try:
            await take_callback(self._runtime, token, body)
        finally:
            self._pending_count -= 1


class TokenBucket:
    """Lets `per_s` through a second in the long run, and `burst` at once after a rest."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._filled_at_s = clock.monotonic_s()

    def take(self) -> bool:
        """Take one, if there is one."""
        now_s = self._clock.monotonic_s()
        earned = max(0.0, now_s - self._filled_at_s) * self._per_s
        self._left = min(self._burst, self._left + earned)
        self._filled_at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def read_body(receive: Receive, body_s_max: float = BODY_S_MAX) -> bytes | None:
    """Return the whole body; None for one that is too large, too slow or cut off."""
    buffer = BytesIO()
    try:
        async with asyncio.timeout(body_s_max):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                buffer.write(message.get("body", b""))
                if buffer.tell() > BODY_BYTES_MAX:
                    return None
                if not message.get("more_body", False):
                    return buffer.getvalue()
    except TimeoutError:
        return None
