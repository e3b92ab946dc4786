"""The second auditor: whether the books of a database add up, by sums of its own.

It knows nothing of the gateway's code, and so not its mistakes; what it shares with the judge of
`oracle.py` is called there. What the upstream really billed is not asked here.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Final

from tests.support.contradictions import find_contradictions, find_unborne
from tests.support.oracle import (
    ENDED,
    Books,
    Row,
    find_wrong_balances,
    find_wrong_entries,
    price_of,
    read_books_of,
    read_table,
)

DATABASE_FILE: Final = "gateway.db"
_QUANTITIES: Final = ("tokens", "seconds", "videos")
_TOOL_CALLS_MAX: Final = 1000
_UNREADABLE: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


def find_differences(place: Path | sqlite3.Connection) -> list[str]:
    """Return what does not add up, in a sentence each; nothing of a file without a ledger."""
    opened = nullcontext(place) if isinstance(place, sqlite3.Connection) else closing(_open(place))
    with opened as conn:
        if not _has_ledger(conn):
            return []
        books = read_books_of(conn)
        sent = {row["task_id"] for row in read_table(conn, "attempts")}
        orphans = read_table(conn, "orphans")
    return [
        *find_wrong_entries(books),
        *find_wrong_balances(books),
        *_find_negative(books),
        *_find_strange_entries(books),
        *_find_wrong_prices(books),
        *_find_wrong_states(books),
        *find_contradictions(books),
        *find_unborne(books, orphans),
        *(f"{task_id}: sent without a hold" for task_id in sorted(sent - set(books.reservations))),
    ]


def find_differences_below(folder: Path) -> list[str]:
    """Return what does not add up in any gateway's database in a folder, or below it."""
    found = []
    for path in sorted(folder.rglob(DATABASE_FILE)):
        try:
            found += [f"{path}: {difference}" for difference in find_differences(path)]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _UNREADABLE:
                raise
    return found


def _open(path: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    conn.execute("BEGIN")
    return conn


def _has_ledger(conn: sqlite3.Connection) -> bool:
    query = "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'ledger_entries'"
    return bool(conn.execute(query).fetchone()[0])


def _find_negative(books: Books) -> Iterator[str]:
    for key, row in books.balances.items():
        for column, amount in row.items():
            if column.startswith(("held_", "spent_", "tasks_")) and amount < 0:
                yield f"balance {'/'.join(map(str, key))}: {column} is {amount}"


def _find_strange_entries(books: Books) -> Iterator[str]:
    """Yield entries that have not their hold's accounts and windows, price or quantities."""
    for entry in books.entries:
        reservation = books.reservations.get(entry["task_id"])
        if reservation is None:
            continue
        price = json.loads(reservation["price"])
        sign = {"hold": 1, "loss": 0}.get(entry["kind"], -1)
        wanted = {
            **{f"held_{name}": sign * reservation[f"held_{name}"] for name in _QUANTITIES},
            **{name: reservation[name] for name in ("project_id", "key_id")},
            **{name: reservation[name] for name in ("day_start_ms", "month_start_ms")},
            "currency": price["charge_currency"],
            "cost_currency": price["cost_currency"],
            "price_version": price["version"],
        }
        for name, value in wanted.items():
            if entry[name] != value:
                yield f"{entry['task_id']}: entry {entry['kind']} has the {name} {entry[name]}"


def _find_wrong_prices(books: Books) -> Iterator[str]:
    for task_id, row in books.reservations.items():
        price = json.loads(row["price"])
        held = [row[f"held_{name}"] for name in ("tokens", "seconds", "videos", "tool_calls")]
        due = price_of(price["charge"], *held)
        if row["hold_micros"] != due:
            yield f"{task_id}: {row['hold_micros']} held, by its price {due}"
        if row["outcome"] == "settled" and not _is_priced(price, row):
            yield f"{task_id}: its charge or cost is not what its price makes of its usage"
        if row["outcome"] == "released" and (row["charge_micros"] or row["cost_micros"]):
            yield f"{task_id}: released, and charged"


def _is_priced(price: Mapping[str, Mapping[str, int]], row: Row) -> bool:
    """Whether some number of tool calls, which is not on record, explains both amounts."""
    usage = (row["tokens"], row["seconds"], row["videos"])
    is_called = price["charge"]["tool_call_micros"] or price["cost"]["tool_call_micros"]
    return any(
        price_of(price["charge"], *usage, calls) == row["charge_micros"]
        and price_of(price["cost"], *usage, calls) == row["cost_micros"]
        for calls in range(_TOOL_CALLS_MAX + 1 if is_called else 1)
    )


def _find_wrong_states(books: Books) -> Iterator[str]:
    """Yield holds whose task is not as its outcome says. A failed task may keep its hold."""
    tasks = {row["id"]: row for row in books.tasks}
    for task_id, reservation in books.reservations.items():
        task, outcome = tasks.get(task_id), reservation["outcome"]
        if task is None:
            yield f"{task_id}: held for no task"
            continue
        if (task["project_id"], task["key_id"]) != (
            reservation["project_id"],
            reservation["key_id"],
        ):
            yield f"{task_id}: held for another project or key"
        state = task["state"]
        if outcome is not None and state not in ENDED:
            yield f"{task_id}: {state}, and its hold is {outcome}"
        if outcome is None and state in ENDED - {"failed"}:
            yield f"{task_id}: {state}, and its hold is open"
        if outcome == "released" and state == "succeeded":
            yield f"{task_id}: succeeded, and its hold was released"
