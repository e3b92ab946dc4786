"""Waiting for what another part of the program does."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 10.0
_LOOK_S = 0.005


async def eventually(is_so: Callable[[], object]) -> None:
    """Return once `is_so()` holds; TimeoutError if it does not in good time."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for knows nothing of tests
            await asyncio.sleep(_LOOK_S)
