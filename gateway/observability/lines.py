"""The canonical line of a request, written by hand: structlog would cost more than the request.

Same stream, same names, same level filter as any other event. On a terminal, or behind a logger
that is not ours, lines go through the logger like all others.
"""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import orjson
import structlog

from gateway.observability.logging import Logger

_INFO: Final = 20
_GATHER_S: Final = 0.005
"""How long a line may wait for others: under load, printing each alone costs more than making it.
"""

Print = Callable[[str], object]


class LineWriter:
    """Writes events of level info whose values are known to hold nothing secret.

    The lines of a few milliseconds are printed together, the last ones when the process ends.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._print = _printer_behind(log)
        self._is_enabled = log.is_enabled_for(_INFO)
        self._pending: list[str] = []
        self._second = -1
        self._stamp = ""
        if self._print is not None:
            weakref.finalize(self, _print_all, self._pending, self._print)

    def write(self, event: str, now_ms: int, fields: dict[str, object]) -> None:
        """Write one line. `fields` are not redacted: ids, numbers and closed sets only."""
        if not self._is_enabled:
            return
        if self._print is None:
            self._log.info(event, **fields)
            return
        fields["event"] = event
        fields["level"] = "info"
        fields["@timestamp"] = self._timestamp(now_ms)
        self._pending.append(orjson.dumps(fields).decode())
        if len(self._pending) == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(_GATHER_S, _print_all, self._pending, self._print)

    def _timestamp(self, now_ms: int) -> str:
        second, ms = divmod(now_ms, 1000)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._stamp}.{ms:03d}000Z"


def _print_all(pending: list[str], print_lines: Print) -> None:
    """Print what has gathered. Lines that can't be written (a full disk) are gone, not kept."""
    text = "\n".join(pending)
    pending.clear()
    if text:
        with suppress(OSError, ValueError):
            print_lines(text)


def _printer_behind(log: Logger) -> Print | None:
    """Return what prints ready lines to the stream of `log`, if its lines are JSON."""
    bound = log.bind()
    processors = getattr(bound, "_processors", ())
    printer = getattr(bound, "_logger", None)
    if isinstance(printer, structlog.PrintLogger) and any(
        isinstance(processor, structlog.processors.JSONRenderer) for processor in processors
    ):
        return printer.msg
    return None
