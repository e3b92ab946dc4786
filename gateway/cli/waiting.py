"""Waiting for a task to end, with something to look at meanwhile."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.cli.output import say
from gateway.domain.tasks import TERMINAL, Task, TaskState
from gateway.ports import Runtime
from gateway.services.operating import TaskReport, get_report

_LOOK_S: Final = 0.5
_TYPICAL_RUN_S: Final = 120.0
_SHARE_MAX: Final = 0.95


async def wait_for_end(runtime: Runtime, task_id: str, timeout_ms: int | None) -> TaskReport:
    """Return the task when it has ended, or as it is when the time is over.

    The store is looked at, never the upstream: a running server moves the task.
    Raises: TaskNotFound.
    """
    until_s = runtime.clock.monotonic_s() + timeout_ms / 1000 if timeout_ms is not None else None
    report = await get_report(runtime, task_id)
    with _progress(runtime, report.task) as show:
        while report.task.state not in TERMINAL:
            now_s = runtime.clock.monotonic_s()
            if until_s is not None and now_s >= until_s:
                break
            pause_s = _LOOK_S if until_s is None else min(_LOOK_S, until_s - now_s)
            await runtime.clock.sleep(pause_s)
            report = await get_report(runtime, task_id)
            show(report.task)
    return report


@contextmanager
def _progress(runtime: Runtime, task: Task) -> Iterator[Callable[[Task], None]]:
    """Give what shows a task's progress on stderr: a bar on a terminal, else a line a change."""
    if not sys.stderr.isatty():
        yield _Lines(task)
        return
    from rich.console import Console  # noqa: PLC0415 - only where it is seen
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    family = runtime.catalog.find(task.model)
    typical_s = family.typical_run_s if family is not None else _TYPICAL_RUN_S
    typical_s /= runtime.config.observer.time_scale
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        bar = progress.add_task(task.state.value, total=1.0)

        def show(now: Task) -> None:
            age_s = (runtime.clock.now_ms() - now.created_at_ms) / 1000
            share = 1.0 if now.state in TERMINAL else min(age_s / typical_s, _SHARE_MAX)
            if now.state in {TaskState.RESERVED, TaskState.UNKNOWN, TaskState.QUEUED}:
                share = 0.0
            progress.update(bar, description=now.state.value, completed=share)

        show(task)
        yield show


class _Lines:
    """Says each new state of a task once."""

    def __init__(self, task: Task) -> None:
        self._state: TaskState | None = None
        self(task)

    def __call__(self, task: Task) -> None:
        if task.state is not self._state:
            self._state = task.state
            say(f"{task.id} {task.state.value}")
