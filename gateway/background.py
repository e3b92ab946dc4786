"""Work that outlives the request which began it: a submit goes on when its client hangs up."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Background:
    """Owns such work, in one task group. Its failure is its own: it reaches only who awaits it."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._idle = asyncio.Event()
        self._idle.set()
        self.active_count = 0

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def start(self, work: Coroutine[object, object, T]) -> "asyncio.Future[T]":
        """Run `work` to its end. Cancelling the future that is returned does not stop it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(see_exception)
        self.active_count += 1
        self._idle.clear()
        self._group.create_task(self._run(work, future))
        return future

    async def drain(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    async def _run(self, work: Coroutine[object, object, T], future: "asyncio.Future[T]") -> None:
        try:
            result = await work
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the future
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        finally:
            self.active_count -= 1
            if self.active_count == 0:
                self._idle.set()
            # The future holds an exception, whose traceback holds this frame: without this the ring
            # would keep a refused body in memory until garbage is collected.
            del future


class SharedReads:
    """One read for all who ask for the same at the same time."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._running: dict[Hashable, asyncio.Future[Any]] = {}

    async def share(self, key: Hashable, read: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return what `read` returns, or what the read that runs for `key` already will."""
        future = self._running.get(key)
        if future is None:
            future = self._background.start(read())
            self._running[key] = future
            future.add_done_callback(lambda _: self._running.pop(key, None))
        result: T = await asyncio.shield(future)
        return result


def see_exception(future: "asyncio.Future[T]") -> None:
    """Mark the exception as seen: a client that left will not come back for it."""
    if not future.cancelled():
        future.exception()
