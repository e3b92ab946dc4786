"""A database whose reads a test can hold up: what a slow store does to those beside it."""

import asyncio
from collections.abc import Callable

from gateway.ports import Change, Database, P, Query, T


class GatedDatabase:
    """Passes everything on. A read that was done waits for the gate before it is given back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = database.name
        self.write = database.write
        self.gate = asyncio.Event()
        self.gate.set()
        self.was_read = asyncio.Event()
        self.read_count = 0

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self._database.read(fn, *args, **kwargs)
        self.read_count += 1
        self.was_read.set()
        await self.gate.wait()
        return result

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        await self._database.watch(on_change)

    async def close(self) -> None:
        await self._database.close()
