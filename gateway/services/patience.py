"""Patience with an upstream whose budget others use, too: a command beside a server, a console."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.errors import UpstreamRejected
from gateway.ports import Runtime

T = TypeVar("T")

_TRIES_MAX: Final = 6
_WAIT_S: Final = 1.0
_WAIT_S_MAX: Final = 30.0


async def ask_patiently(runtime: Runtime, ask: Callable[[], Awaitable[T]]) -> T:
    """Return what `ask`, a read, returns; if it comes too often for the upstream, after a while.

    Raises: UpstreamFault.
    """
    tries_count = 1
    while True:
        try:
            return await ask()
        except UpstreamRejected as error:
            if error.public_status != 429 or tries_count == _TRIES_MAX:
                raise
            asked_s = min(error.retry_after_s or 0, _WAIT_S_MAX)
        wait_s = max(_WAIT_S * tries_count, asked_s)
        await runtime.clock.sleep(wait_s * (1 + runtime.random.random() / 2))
        tries_count += 1
