"""The judge: what the gateway's books say against what really happened at the upstream.

It reads the SQLite file by plain SQL, does its own sums and knows nothing of the gateway's code: a
mistake in there can't be repeated here. It finds a list of sentences, empty if all agrees.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "expired", "rejected"})
_MILLION: Final = 1_000_000
_BALANCED: Final = (
    *("held_micros", "held_tokens", "held_seconds", "held_videos"),
    *("spent_micros", "spent_tokens", "spent_seconds", "spent_videos"),
)
_STEP_OF_KIND: Final = {"hold": 1, "settle": 2, "release": 2, "loss": 3}
_SPANS: Final = {"day": "day_start_ms", "month": "month_start_ms", "ever": "0"}
_SCOPES: Final = {"org": "''", "project": "project_id", "key": "key_id"}

Row = Mapping[str, Any]
Truth = Mapping[str, Any]
"""One task of the sandbox's truth log."""


@dataclass(frozen=True, slots=True)
class Books:
    """What a database file says."""

    tasks: Sequence[Row]
    transitions: Sequence[Row]
    reservations: Mapping[str, Row] = field(default_factory=dict)
    entries: Sequence[Row] = ()
    balances: Mapping[tuple[str, str, str, int], Row] = field(default_factory=dict)
    balances_due: Mapping[tuple[str, str, str, int], Row] = field(default_factory=dict)
    """The same, as the entries add up to."""
    orphans: Sequence[str] = ()
    """Upstream tasks that were found and belong to no task of ours."""

    @property
    def upstream_task_ids(self) -> Sequence[str]:
        return [row["upstream_task_id"] for row in self.tasks if row["upstream_task_id"]]


def read_books(path: Path) -> Books:
    """Read everything that counts from a database file in one transaction."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        conn.execute("BEGIN")
        return read_books_of(conn)


def read_books_of(conn: sqlite3.Connection) -> Books:
    """Read everything that counts from an open database."""
    entries = read_table(conn, "ledger_entries")
    return Books(
        tasks=_read(conn, "SELECT * FROM tasks ORDER BY created_at_ms, id"),
        transitions=_read(conn, "SELECT * FROM task_transitions ORDER BY task_id, version"),
        reservations={row["task_id"]: row for row in read_table(conn, "reservations")},
        entries=entries,
        balances={_balance_key(row): row for row in read_table(conn, "balances")},
        balances_due={_balance_key(row): row for row in _add_up(conn)} if entries else {},
        orphans=[row["upstream_task_id"] for row in read_table(conn, "orphans")],
    )


def find_differences(
    books: Books, truth: Sequence[Truth], *, unpriced: Collection[str] = ()
) -> list[str]:
    """Return what is wrong once everything has come to rest, in a sentence each.

    `unpriced` are the ids of tasks without a hold: those from before there was a ledger, and those
    that were imported.
    """
    return [
        *find_unrecorded(books, truth),
        *_find_unfinished(books),
        *_find_wrong_ends(books, truth),
        *_find_broken_histories(books),
        *_find_wrong_holds(books, unpriced),
        *_find_wrong_charges(books, truth),
        *find_wrong_entries(books),
        *find_wrong_balances(books),
    ]


def find_unrecorded(books: Books, truth: Sequence[Truth]) -> Iterator[str]:
    """Yield each upstream task that the books don't have exactly once, and what they made up."""
    recorded = Counter(books.upstream_task_ids)
    for task in truth:
        count = recorded.pop(task["id"], 0)
        if count == 0:
            yield f"upstream task {task['id']} ({task['status']}) is not recorded"
        elif count > 1:
            yield f"upstream task {task['id']} is recorded {count} times"
    for upstream_task_id in recorded:
        yield f"upstream task {upstream_task_id} is recorded, and was never made"


def find_wrong_entries(books: Books) -> Iterator[str]:
    """Yield where the ledger's rows don't say what the reservations say; at any moment."""
    by_task: dict[str, dict[int, Row]] = {}
    for entry in books.entries:
        first = _STEP_OF_KIND[entry["kind"]]
        if entry["step"] != first and (entry["kind"] != "loss" or entry["step"] < first):
            yield f"{entry['task_id']}: entry {entry['kind']} is step {entry['step']}"
        by_task.setdefault(entry["task_id"], {})[entry["step"]] = entry
    for task_id in by_task.keys() - books.reservations.keys():
        yield f"{task_id}: has entries, and no reservation"
    for task_id, reservation in books.reservations.items():
        entries = by_task.get(task_id, {})
        kinds = [entries[step]["kind"] for step in sorted(entries) if step < _STEP_OF_KIND["loss"]]
        end = {"settled": ["settle"], "released": ["release"]}.get(reservation["outcome"], [])
        if kinds != ["hold", *end]:
            yield f"{task_id}: entries {kinds}, outcome {reservation['outcome']}"
            continue
        in_order = [entries[step]["held_micros"] for step in sorted(entries)]
        held = [amount for amount in in_order if amount]
        wanted = [reservation["hold_micros"], -reservation["hold_micros"]][: len(kinds)]
        if held != [amount for amount in wanted if amount]:
            yield f"{task_id}: entries hold {held}, the reservation {wanted}"
        if end:
            yield from _compare(
                f"{task_id}: the last entry",
                entries[2],
                spent_micros=reservation["charge_micros"],
                cost_micros=reservation["cost_micros"],
                spent_tokens=reservation["tokens"],
                spent_seconds=reservation["seconds"],
                spent_videos=reservation["videos"],
            )
            if not entries[2]["evidence"]:
                yield f"{task_id}: its hold was let go without evidence"


def find_wrong_balances(books: Books) -> Iterator[str]:
    """Yield where balances are not the sums of the entries, and tasks in progress not so many."""
    for key in sorted(books.balances.keys() | books.balances_due.keys()):
        name = "balance " + "/".join(str(part) for part in key)
        due = books.balances_due.get(key, dict.fromkeys(_BALANCED, 0))
        if key in books.balances:
            yield from _compare(
                name, books.balances[key], **{each: due[each] for each in _BALANCED}
            )
        else:
            yield f"{name}: there is none"
    in_progress = _count_in_progress(books)
    for (scope, scope_id, span, _start_ms), row in books.balances.items():
        due_count = in_progress[scope, scope_id] if span == "ever" else 0
        if row["tasks_count"] != due_count:
            counted = row["tasks_count"]
            yield f"balance {scope}/{scope_id}/{span}: {counted} tasks in progress, not {due_count}"


def _find_unfinished(books: Books) -> Iterator[str]:
    for row in books.tasks:
        if row["state"] not in ENDED:
            yield f"{row['id']}: still {row['state']}"


def _find_wrong_ends(books: Books, truth: Sequence[Truth]) -> Iterator[str]:
    """Yield each task whose end or whose tokens are not those of the upstream."""
    made = {task["id"]: task for task in truth}
    for row in books.tasks:
        task = made.get(row["upstream_task_id"])
        if row["upstream_task_id"] is None and row["state"] in {"succeeded", "expired"}:
            yield f"{row['id']}: {row['state']} without an upstream task"
        if task is None:
            continue
        if row["state"] != task["status"]:
            yield f"{row['id']}: {row['state']}, at the upstream {task['status']}"
        tokens = _tokens_shown(row)
        if tokens != task["completion_tokens"]:
            yield f"{row['id']}: {tokens} tokens, at the upstream {task['completion_tokens']}"


def _find_broken_histories(books: Books) -> Iterator[str]:
    """Yield each task whose transitions don't lead, version by version, to the state it is in."""
    histories: dict[str, list[Row]] = {}
    for row in books.transitions:
        histories.setdefault(row["task_id"], []).append(row)
    for task in books.tasks:
        history = histories.get(task["id"], [])
        versions = [row["version"] for row in history]
        if versions != list(range(1, task["version"] + 1)):
            yield f"{task['id']}: version {task['version']}, transitions {versions}"
            continue
        states = [row["to_state"] for row in history]
        if [row["from_state"] for row in history] != [None, *states[:-1]]:
            yield f"{task['id']}: transitions {states} have a gap"
        if states[-1] != task["state"]:
            yield f"{task['id']}: {task['state']}, by its transitions {states[-1]}"


def _find_wrong_holds(books: Books, unpriced: Collection[str]) -> Iterator[str]:
    """Yield tasks without a hold, and holds that are not what the frozen price makes of them."""
    for task in books.tasks:
        if task["id"] not in books.reservations and task["id"] not in unpriced:
            yield f"{task['id']}: nothing was held for it"
    for task_id, row in books.reservations.items():
        price = json.loads(row["price"])
        hold = price_of(
            price["charge"],
            row["held_tokens"],
            row["held_seconds"],
            row["held_videos"],
            row["held_tool_calls"],
        )
        if hold != row["hold_micros"]:
            yield f"{task_id}: {row['hold_micros']} held, by its price {hold}"


def _find_wrong_charges(books: Books, truth: Sequence[Truth]) -> Iterator[str]:
    """Yield tasks not charged for what was billed, at the frozen price, to the micro-unit."""
    made = {task["id"]: task for task in truth}
    for task in books.tasks:
        reservation = books.reservations.get(task["id"])
        if reservation is None:
            continue
        upstream_task = made.get(task["upstream_task_id"])
        is_billed = upstream_task is not None and upstream_task["billed"]
        outcome = "settled" if is_billed else "released"
        if reservation["outcome"] != outcome:
            yield f"{task['id']}: {reservation['outcome']}, it ought to be {outcome}"
            continue
        price = json.loads(reservation["price"])
        tokens = upstream_task["completion_tokens"] if upstream_task is not None else 0
        seconds, videos = (reservation["seconds"], 1) if is_billed else (0, 0)
        yield from _compare(
            f"{task['id']}: reservation",
            reservation,
            tokens=tokens,
            seconds=upstream_task["duration"] if upstream_task and is_billed else 0,
            videos=videos,
            charge_micros=price_of(price["charge"], tokens, seconds, videos),
            cost_micros=price_of(price["cost"], tokens, seconds, videos),
        )


def price_of(
    units: Mapping[str, int], tokens: int, seconds: int, videos: int, tool_calls: int = 0
) -> int:
    """Return micro-units: tokens are priced by the million, and a fraction is rounded up."""
    for_tokens = tokens * units["million_tokens_micros"]
    return (
        for_tokens // _MILLION
        + (for_tokens % _MILLION > 0)
        + videos * units["video_micros"]
        + seconds * units["second_micros"]
        + tool_calls * units["tool_call_micros"]
    )


def _compare(name: str, row: Row, **wanted: int) -> Iterator[str]:
    for column, value in wanted.items():
        if row[column] != value:
            yield f"{name}: {column} is {row[column]}, it ought to be {value}"


def _tokens_shown(row: Row) -> int:
    fields = json.loads(row["fields"]) if row["fields"] else {}
    tokens: int = (fields.get("usage") or {}).get("completion_tokens", 0)
    return tokens


def _count_in_progress(books: Books) -> Counter[tuple[str, str]]:
    """Return how many tasks with a hold have not ended, by account."""
    counts: Counter[tuple[str, str]] = Counter()
    for task in books.tasks:
        if task["state"] not in ENDED and task["id"] in books.reservations:
            counts["org", ""] += 1
            counts["project", task["project_id"]] += 1
            counts["key", task["key_id"]] += 1
    return counts


def _add_up(conn: sqlite3.Connection) -> Iterator[Row]:
    """Yield what each balance ought to be: the sum of the entries of its account and window."""
    sums = ", ".join(f"SUM({name}) AS {name}" for name in _BALANCED)
    for scope, scope_id in _SCOPES.items():
        for span, start_ms in _SPANS.items():
            yield from _read(
                conn,
                f"SELECT '{scope}' AS scope, {scope_id} AS scope_id, '{span}' AS span, "  # noqa: S608
                f"{start_ms} AS start_ms, {sums} FROM ledger_entries GROUP BY 1, 2, 3, 4",
            )


def _balance_key(row: Row) -> tuple[str, str, str, int]:
    return row["scope"], row["scope_id"], row["span"], row["start_ms"]


def _read(conn: sqlite3.Connection, query: str) -> list[Row]:
    cursor = conn.execute(query)
    cursor.row_factory = sqlite3.Row
    return [dict(row) for row in cursor]


def read_table(conn: sqlite3.Connection, name: str) -> list[Row]:
    """Return a table's rows; none if the file is older than the table."""
    is_there = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    if conn.execute(is_there, [name]).fetchone() is None:
        return []
    return _read(conn, f"SELECT * FROM {name}")  # noqa: S608
