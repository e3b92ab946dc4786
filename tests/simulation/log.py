"""The log of simulated processes: it takes no time, whether anybody reads it or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from gateway.observability.logging import EVENTS, find_driver_code
from tests.simulation.loop import Owner

_INFO: Final = 20
_DEFECTS: Final = frozenset({"http.request_failed", "worker.loop_died", "ledger.audit_failed"})
"""What may never be logged: answers of 500, and books that don't add up."""


@dataclass(slots=True)
class LogBook:
    """What the processes of one run have logged. `print_line` is None if nobody reads it."""

    print_line: Callable[[str], None] | None
    counts: dict[str, int] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)

    def take(self, event: str, fields: Mapping[str, Any]) -> None:
        self.counts[event] = self.counts.get(event, 0) + 1
        if event not in EVENTS:
            self.defects.append(f"{event} is no event of the gateway's")
        if event in _DEFECTS:
            self.defects.append(f"{event} {_show(fields)}")
        if self.print_line is not None:
            self.print_line(f"    log {event} {_show(fields)}")


class SimulatedLog:
    """The Logger of one process, for as long as that lives."""

    def __init__(self, book: LogBook, owner: Owner) -> None:
        self._book = book
        self._owner = owner

    def bind(self, **_fields: object) -> Self:
        return self

    def is_enabled_for(self, level: int) -> bool:
        """Whether request lines are wanted, too."""
        return level > _INFO or self._book.print_line is not None

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

    def _take(self, event: str, fields: Mapping[str, Any]) -> None:
        if not self._owner.is_dead:
            self._book.take(event, fields)


def _show(fields: Mapping[str, Any]) -> str:
    shown = []
    for name, value in fields.items():
        if name == "exc_info" and isinstance(value, BaseException):
            shown.append(f"error={value!r} cause={value.__cause__!r}")
            shown.append(f"driver_code={find_driver_code(value)}")
        else:
            shown.append(f"{name}={value}")
    return " ".join(shown)
