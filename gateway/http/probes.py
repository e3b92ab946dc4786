"""Whether the process lives, and whether it can take work."""

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.http.exchange import Answer, Exchange
from gateway.http.query import parse_query
from gateway.http.rendering import dump_json
from gateway.ports import Runtime
from gateway.services.health import (
    check_readiness,
    describe_books,
    describe_submits,
    describe_writes,
)

_KEPT_S: Final = 1.0
_RETRY_AFTER: Final = (b"retry-after", b"1")


class Probes:
    """Answers strangers, too, unless it `is_private`: so it says little there.

    The store is asked once a second at most.
    """

    def __init__(self, runtime: Runtime, *, is_private: bool) -> None:
        self._runtime = runtime
        self._is_private = is_private
        self._lock = asyncio.Lock()
        self._checks: Mapping[str, str] = {}
        self._was_draining = False
        self._checked_at_s = float("-inf")

    async def get_liveness(self, _exchange: Exchange) -> Answer:
        """Answer 200 as long as anything is answered at all."""
        return Answer(200, b'{"status":"ok"}')

    async def get_readiness(self, exchange: Exchange) -> Answer:
        """Answer 503 as soon as the process drains or a check fails; `?verbose` names them all.

        It tells of writes, submits and the ledger, too, which decide nothing: reads are served.
        """
        checks = await self._check()
        is_ready = all(result == "ok" for result in checks.values())
        shown: dict[str, object] = {"status": "ok" if is_ready else "unavailable"}
        if "verbose" in parse_query(exchange.query):
            shown["checks"] = {**checks, **self._describe()}
        if is_ready:
            return Answer(200, dump_json(shown))
        return Answer(503, dump_json(shown), (_RETRY_AFTER,))

    def _describe(self) -> Mapping[str, str]:
        runtime, is_private = self._runtime, self._is_private
        return {
            "writes": describe_writes(runtime, is_private=is_private),
            "submits": describe_submits(runtime, is_private=is_private),
            "ledger": describe_books(runtime, is_private=is_private),
        }

    async def _check(self) -> Mapping[str, str]:
        async with self._lock:
            now_s = self._runtime.clock.monotonic_s()
            is_draining = self._runtime.lifecycle.is_draining
            if now_s - self._checked_at_s > _KEPT_S or is_draining != self._was_draining:
                self._checks = await check_readiness(self._runtime)
                self._checked_at_s = self._runtime.clock.monotonic_s()
                self._was_draining = is_draining
            return self._checks
