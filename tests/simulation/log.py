"""The log of simulated processes: it takes no time, whether anybody reads it or not."""

from collections.abc import Callable
from typing import Any, Final, Self

from gateway.observability.logging import EVENTS, find_driver_code

_INFO: Final = 20
_DEFECTS: Final = frozenset({"http.request_failed", "worker.loop_died", "ledger.audit_failed"})
"""What may never be logged: answers of 500, and books that don't add up."""


class SimulatedLog:
    """The Logger of one run. `print_line` is None if nobody reads what is logged."""

    def __init__(self, print_line: Callable[[str], None] | None) -> None:
        self._print_line = print_line
        self.counts: dict[str, int] = {}
        self.defects: list[str] = []

    def bind(self, **_fields: object) -> Self:
        return self

    def is_enabled_for(self, level: int) -> bool:
        """Whether request lines are wanted, too."""
        return level > _INFO or self._print_line is not None

    def log(self, level: int, event: str, **fields: Any) -> None:
        del level
        self._take(event, fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._take(event, fields)

    def _take(self, event: str, fields: dict[str, Any]) -> None:
        self.counts[event] = self.counts.get(event, 0) + 1
        if event not in EVENTS:
            self.defects.append(f"{event} is no event of the gateway's")
        if event in _DEFECTS:
            self.defects.append(f"{event} {_show(fields)}")
        if self._print_line is not None:
            self._print_line(f"    log {event} {_show(fields)}")


def _show(fields: dict[str, Any]) -> str:
    shown = []
    for name, value in fields.items():
        if name == "exc_info" and isinstance(value, BaseException):
            shown.append(f"error={value!r} cause={value.__cause__!r}")
            shown.append(f"driver_code={find_driver_code(value)}")
        else:
            shown.append(f"{name}={value}")
    return " ".join(shown)
