"""An event loop in which time is a number and the order of things is drawn from a seed.

When nothing is ready, time jumps to the next timer. When several things are ready, a seeded draw
decides which comes first, so that each seed runs another interleaving. Nothing depends on the
machine: no thread, no socket, no address in memory; the same seed makes the same steps.
"""

import asyncio
import contextvars
import itertools
import selectors
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Final, TypeVar

T = TypeVar("T")

STEPS_MAX: Final = 2_000_000
_THREAD_S_MAX: Final = 0.02
_LISTENING: Final = 1


class StalledError(Exception):
    """Everybody waits, and nothing will ever happen; or things never stop happening."""


class Owner:
    """What tasks belong to, and all of them end with it at once: a process."""

    def __init__(self) -> None:
        self.is_dead = False


OWNER: Final[contextvars.ContextVar[Owner | None]] = contextvars.ContextVar("owner", default=None)
CAUSE: Final[contextvars.ContextVar[object]] = contextvars.ContextVar("cause", default=None)
"""What is being done in the end, such as a client's request."""


class SimulatedFuture(asyncio.Future[T]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, *, loop: "SimulatedLoop") -> None:
        self.number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimulatedTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address, and that knows its owner."""

    number: int
    owner: Owner | None

    def __new__(
        cls, *_args: object, loop: "SimulatedLoop", **_kwargs: object
    ) -> "SimulatedTask[T]":
        task = super().__new__(cls)
        task.number = next(loop.numbers)  # before asyncio registers it in a set
        return task

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop. `on_step` is called before each step, with the number of steps so far."""

    def __init__(self, seed: int, epoch_ms: int = 0) -> None:
        super().__init__(_Clockwork(self))
        self.epoch_ms = epoch_ms
        """The date at which time begins."""
        self.numbers = itertools.count(1)
        self.step_count = 0
        self.order = 0
        """A checksum of every choice made so far."""
        self.on_step: Callable[[int], None] = _ignore
        self.errors: list[Mapping[str, Any]] = []
        """What nobody caught."""
        self._now_s = 0.0
        self._clock_resolution = 1e-6
        self._ready = _Shuffled(self, Random(f"{seed}:order"))
        self._spread = Random(f"{seed}:threads")
        self._tasks: dict[SimulatedTask[Any], None] = {}
        self.set_task_factory(_make_task)  # type: ignore[arg-type]  # its own kinds of loop and task
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._now_s

    def date_ms(self, at_s: float | None = None) -> int:
        """Return the date, now or at a time, that everybody but the gateway agrees on."""
        return self.epoch_ms + int((self._now_s if at_s is None else at_s) * 1000)

    def jump(self, duration_s: float) -> None:
        """Let time pass; only when nothing is ready."""
        self._now_s += duration_s

    def create_future(self) -> asyncio.Future[Any]:
        return SimulatedFuture(loop=self)

    async def pass_time(self, duration_s: float, owner: Owner) -> None:
        """Let time pass in an outside call of `owner`; the call of one who is dead never ends."""
        if owner.is_dead:
            await self.create_future()
        await asyncio.sleep(duration_s)
        if owner.is_dead:
            await self.create_future()

    def start(
        self, work: Coroutine[Any, Any, T], owner: Owner | None = None, cause: object = None
    ) -> asyncio.Task[T]:
        """Run `work` for `owner` and because of `cause`, as all that it starts will."""
        context = contextvars.copy_context()
        context.run(OWNER.set, owner)
        context.run(CAUSE.set, cause)
        return self.create_task(work, context=context)

    def tasks_of(self, owner: Owner) -> list[SimulatedTask[Any]]:
        """Return what still runs for `owner`, in the order in which it began."""
        return [task for task in self._tasks if task.owner is owner and not task.done()]

    def all_tasks(self) -> list[SimulatedTask[Any]]:
        """Return all that still runs."""
        return [task for task in self._tasks if not task.done()]

    def keep(self, task: SimulatedTask[Any]) -> None:
        """Note a task that has begun, until it ends."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def run_in_executor(
        self, _executor: object, func: Callable[..., T], *args: object
    ) -> "asyncio.Future[T]":
        """Run `func` in one step, a moment later."""
        future: asyncio.Future[T] = self.create_future()
        owner = OWNER.get()
        self.call_later(self._spread.uniform(0, _THREAD_S_MAX), _run, future, owner, func, args)
        return future

    def _forget(self, task: asyncio.Task[Any]) -> None:
        assert isinstance(task, SimulatedTask)
        self._tasks.pop(task, None)
        if task.owner is not None and task.owner.is_dead and not task.cancelled():
            task.exception()  # what goes wrong in a process that was killed, nobody sees


class _Clockwork(selectors.BaseSelector):
    """A selector in which nothing is ever ready: to wait is to let time jump."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StalledError("Everybody waits for something that will not come.")
        if timeout > 0:
            self._loop.jump(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        assert len(self._keys) < _LISTENING, "only the loop's own pipe may be listened to"
        key = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class _Shuffled(deque[asyncio.Handle]):
    """The ready queue, which gives out any of its handles."""

    def __init__(self, loop: SimulatedLoop, draws: Random) -> None:
        super().__init__()
        self._loop = loop
        self._draws = draws

    def popleft(self) -> asyncio.Handle:
        loop = self._loop
        loop.step_count += 1
        loop.on_step(loop.step_count)
        if loop.step_count > STEPS_MAX:
            raise StalledError("Things never stop happening.")
        count = len(self)
        if count > 1:
            place = int(self._draws.random() * count)
            self.rotate(-place)
            handle = super().popleft()
            self.rotate(place)
        else:
            handle = super().popleft()
        loop.order = zlib.crc32(b"%d" % _number_of(handle), loop.order)
        return handle


def _make_task(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T],
    *,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    assert isinstance(loop, SimulatedLoop)
    task: SimulatedTask[T] = SimulatedTask(work, loop=loop, context=context)
    task.owner = OWNER.get() if context is None else context.get(OWNER)
    loop.keep(task)
    return task


def _number_of(handle: asyncio.Handle) -> int:
    callback = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    return task.number if isinstance(task, SimulatedTask) else 0


def _run(
    future: "asyncio.Future[T]",
    owner: Owner | None,
    func: Callable[..., T],
    args: tuple[object, ...],
) -> None:
    if future.cancelled() or (owner is not None and owner.is_dead):
        return
    try:
        future.set_result(func(*args))
    except Exception as error:  # noqa: BLE001 - handed to who waits
        future.set_exception(error)


def _ignore(_step_count: int) -> None:
    pass
