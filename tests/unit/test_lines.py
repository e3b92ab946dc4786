import io
import json
import subprocess
import sys
from typing import Literal

from gateway.observability.lines import LineWriter
from gateway.observability.logging import open_logger
from tests.support.waiting import eventually

NOW_MS = 1_795_330_862_045


async def written(
    form: Literal["json", "console"], level: str = "info", **fields: object
) -> tuple[str, str]:
    """The same event by hand and through the logger."""
    by_hand, by_logger = io.StringIO(), io.StringIO()
    lines = LineWriter(open_logger(level, form, by_hand))
    lines.write("http.request_finished", NOW_MS, dict(fields))
    lines.write("http.request_finished", NOW_MS + 1, dict(fields))
    open_logger(level, form, by_logger).info("http.request_finished", **fields)
    if level == "info":
        await eventually(by_hand.getvalue)
    return by_hand.getvalue(), by_logger.getvalue()


async def test_a_line_written_by_hand_looks_like_any_other() -> None:
    by_hand, by_logger = await written("json", request_id='a"b', duration_ms=1.5, task_id=None)
    first, second = (json.loads(line) for line in by_hand.splitlines())
    other = json.loads(by_logger)

    assert list(first) == list(other)
    assert {**first, "@timestamp": ""} == {**other, "@timestamp": ""}
    assert first["@timestamp"] == "2026-11-22T07:01:02.045000Z"
    assert len(first["@timestamp"]) == len(other["@timestamp"])
    assert second["@timestamp"] == "2026-11-22T07:01:02.046000Z"


async def test_on_a_terminal_lines_go_through_the_logger() -> None:
    by_hand, _ = await written("console", request_id="req-1")

    assert by_hand.count("http.request_finished") == 2
    assert "req-1" in by_hand
    assert not by_hand.startswith("{")


async def test_the_level_holds_for_lines_by_hand() -> None:
    assert await written("json", "warning", a=1) == ("", "")


async def test_lines_come_out_in_their_order_and_whole() -> None:
    stream = io.StringIO()
    lines = LineWriter(open_logger("info", "json", stream))
    for number in range(100):
        lines.write("http.request_finished", NOW_MS, {"number": number, "text": "\n\u2028"})
    await eventually(stream.getvalue)
    lines.write("http.request_finished", NOW_MS, {"number": 100})
    await eventually(lambda: '"number":100' in stream.getvalue())

    written = [json.loads(line)["number"] for line in stream.getvalue().split("\n")[:-1]]
    assert written == list(range(101))


def test_the_last_lines_are_printed_when_the_program_ends() -> None:
    program = """
import asyncio
from gateway.observability.lines import LineWriter
from gateway.observability.logging import open_logger

async def main():
    global lines
    lines = LineWriter(open_logger("info", "json"))
    lines.write("http.request_finished", 0, {"number": 1})

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == [1]
