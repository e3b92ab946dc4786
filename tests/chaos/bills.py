"""The usage report, against what the upstream billed, at the price that each task was promised."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.clock import SystemClock
from tests.chaos.serving import JsonObject, Server
from tests.support.oracle import Books, Truth, price_of

_MARGIN: Final = timedelta(days=2)


def compare_usage(
    usage: Sequence[JsonObject], books: Books, truth: Sequence[Truth]
) -> Iterator[str]:
    """Yield where the report is not, task by task, what the upstream billed at the frozen price."""
    rows = {row["task_id"]: row for row in usage}
    if len(rows) != len(usage):
        yield "the usage report has a task twice"
    task_ids = {task["upstream_task_id"]: task["id"] for task in books.tasks}
    for made in truth:
        if not made["billed"]:
            continue
        task_id = task_ids.get(made["id"], "")
        row = rows.pop(task_id, None)
        if row is None:
            yield f"{made['id']}: billed, and not in the usage report"
            continue
        wanted = {
            "tokens": made["completion_tokens"],
            "seconds": made["duration"],
            "charge_micros": charge_of(task_id, made, books),
        }
        for name, value in wanted.items():
            if row[name] != value:
                yield f"{task_id}: {name} is {row[name]} in the usage report, not {value}"
    for task_id in rows:
        yield f"{task_id}: in the usage report, and was not billed"


def charge_of(task_id: str, made: Truth, books: Books) -> int:
    """Return what an upstream task costs at the price frozen for its task, in micro-units."""
    price = json.loads(books.reservations[task_id]["price"])["charge"]
    return price_of(price, made["completion_tokens"], made["duration"], 1)


def report_usage(server: Server) -> Sequence[JsonObject]:
    """Return the rows that the command prints, a task each."""
    # A trial may begin in one month and end in the next, and its hours may pass at once.
    now = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
    dates = ("--from", f"{now - _MARGIN:%F}", "--to", f"{now + _MARGIN:%F}")
    printed = server.run_command("usage", "report", *dates, "--per-task", "--format", "json")
    rows: list[JsonObject] = json.loads(printed)["rows"]
    return rows
