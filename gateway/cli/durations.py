"""Durations and dates as people type them."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import typer

_DURATION: Final = re.compile(r"([0-9]{1,6})([smhd])\Z")
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION_MS_MAX: Final = 3650 * _UNIT_MS["d"]


def parse_duration(text: str) -> int:
    """Return milliseconds of `30s`, `15m`, `24h` or `7d`. Raises typer.BadParameter."""
    match = _DURATION.match(text)
    duration_ms = int(match[1]) * _UNIT_MS[match[2]] if match is not None else 0
    if not 0 < duration_ms <= _DURATION_MS_MAX:
        raise typer.BadParameter("write a duration such as 30s, 15m, 24h or 7d, 3650d at most")
    return duration_ms


def parse_moment(text: str, now_ms: int, zone: tzinfo = UTC) -> int:
    """Return the epoch milliseconds of a date, a time stamp, or an age such as `30d`.

    A date, or a time stamp without a zone, is one of `zone`. Raises typer.BadParameter.
    """
    if _DURATION.match(text):
        return now_ms - parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            "write a date (2026-11-22), a time stamp (2026-11-22T08:00:00Z) or an age (30d)"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(at_ms: int) -> str:
    """Return `2026-11-22T08:00:00Z`."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
