"""Rates of one account, in real time: at most N requests in any window of so many seconds."""

import time
from collections import deque
from collections.abc import Callable

from gateway.sandbox.errors import VendorError


class RateLimits:
    """Sliding windows by name. A refused request does not count."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._taken: dict[tuple[str, ...], deque[float]] = {}

    def take(self, name: tuple[str, ...], limit: int | None, window_s: float, code: str) -> None:
        """Count one request.

        Raises:
            VendorError: with `code`; the window holds `limit` requests already.
        """
        if limit is None:
            return
        now_s = self._monotonic_s()
        taken = self._taken.setdefault(name, deque())
        while taken and taken[0] <= now_s - window_s:
            taken.popleft()
        if len(taken) >= limit:
            raise VendorError(code, model=name[-1])
        taken.append(now_s)
