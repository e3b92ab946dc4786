import pytest
import typer

from gateway.cli.durations import parse_duration, parse_moment, rfc3339, rfc3339_or_none

NOW_MS = 1_795_330_862_123


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("30s", 30_000), ("15m", 900_000), ("24h", 86_400_000), ("7d", 604_800_000)],
)
def test_reads_durations(text: str, duration_ms: int) -> None:
    assert parse_duration(text) == duration_ms


@pytest.mark.parametrize("text", ["", "0s", "7", "d", "-1d", "1.5h", "1w", "1d\n", "٣d", "4000d"])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30s, 15m, 24h or 7d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1d", NOW_MS - 86_400_000),
        ("2026-11-22", 1_795_305_600_000),
        ("2026-11-22T08:00:00Z", 1_795_334_400_000),
        ("2026-11-22T08:00:00+08:00", 1_795_305_600_000),
    ],
)
def test_reads_moments(text: str, at_ms: int) -> None:
    assert parse_moment(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "22.11.2026"])
def test_refuses_what_is_no_moment(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_moment(text, NOW_MS)


def test_writes_time_stamps() -> None:
    assert rfc3339(NOW_MS) == "2026-11-22T07:01:02Z"
    assert rfc3339_or_none(None) is None
