"""The canonical line of a request, written by hand: structlog would cost more than the request.

Same stream, same names, same level filter as any other event. On a terminal, or behind a logger
that is not ours, lines go through the logger like all others.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import orjson
import structlog

from gateway.observability.logging import Logger

_INFO: Final = 20

Write = Callable[[str], object]


class LineWriter:
    """Writes events of level info whose values are known to hold nothing secret."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._write = _stream_behind(log)
        self._is_enabled = log.is_enabled_for(_INFO)
        self._second = -1
        self._stamp = ""

    def write(self, event: str, now_ms: int, fields: Mapping[str, object]) -> None:
        """Write one line. `fields` are not redacted: ids, numbers and closed sets only."""
        if not self._is_enabled:
            return
        if self._write is None:
            self._log.info(event, **fields)
            return
        second, ms = divmod(now_ms, 1000)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line = {
            **fields,
            "event": event,
            "level": "info",
            "@timestamp": f"{self._stamp}.{ms:03d}000Z",
        }
        self._write(orjson.dumps(line).decode())


def _stream_behind(log: Logger) -> Write | None:
    """Return what prints a ready line to the stream of `log`, if its lines are JSON."""
    bound = log.bind()
    processors = getattr(bound, "_processors", ())
    printer = getattr(bound, "_logger", None)
    if isinstance(printer, structlog.PrintLogger) and any(
        isinstance(processor, structlog.processors.JSONRenderer) for processor in processors
    ):
        write: Write = printer.msg
        return write
    return None
