"""A task group that lets the failure of its own block out as it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def open_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield a task group; whoever starts endless tasks in it ends them before the block ends.

    `asyncio.TaskGroup` wraps also what its block raises, so that a caller's failing assertion
    would come out of `run_sandbox` as a group of one.
    """
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        except Exception as exc:  # noqa: BLE001  # raised again below, unwrapped
            failure = exc
    if failure is not None:
        raise failure
