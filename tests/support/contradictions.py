"""The second auditor's other half: where state, moves, report and books of a task disagree.

Like `books.py` it knows nothing of the gateway's code.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.support.oracle import ENDED, Books, Row

_WAITING: Final = {"absent", "vanished"}
_NO: Final = {"refused", "refused_late", "absent"}
_ENDS: Final[Mapping[tuple[str | None, str | None], set[str]]] = {
    (None, None): _WAITING,
    ("settled", "ended"): {"succeeded", *_WAITING},
    ("settled", "operator"): _WAITING,
    ("settled", "policy"): {"absent"},
    ("released", "ended"): {"failed", "cancelled", "expired", *_WAITING},
    ("released", "cancelled"): {"cancelled"},
    ("released", "rejected"): _NO,
    ("released", "not_sent"): _NO,
    ("released", "absent"): {"absent"},
    ("released", "disputed"): {"absent"},
    ("released", "operator"): _WAITING,
    ("released", "policy"): {"absent"},
}
"""By outcome and evidence, the events by which a task may have ended."""
_TOKENS_MAX: Final = 2**38
_SECONDS_MAX: Final = 3600
_FRAMES_MAX: Final = 3600 * 24


def find_contradictions(books: Books) -> Iterator[str]:
    """Yield each task whose moves, state, evidence, dates and report do not go together."""
    histories: dict[str, list[Row]] = {}
    for row in books.transitions:
        histories.setdefault(row["task_id"], []).append(row)
    ends = {entry["task_id"]: entry for entry in books.entries if entry["step"] == 2}
    for task in books.tasks:
        held = books.reservations.get(task["id"])
        moves = histories.get(task["id"], [])
        flaws = [*_find_wrong_moves(task, moves, held)]
        if held is not None and not flaws:
            flaws += _find_wrong_dates(task, held)
            flaws += _find_wrong_evidence(task, moves, held, ends.get(task["id"]))
            flaws += _find_wrong_report(task, held, ends.get(task["id"]))
        yield from (f"{task['id']}: {flaw}" for flaw in flaws)


def find_unborne(books: Books, orphans: Sequence[Row]) -> Iterator[str]:
    """Yield losses that no orphan bears, and orphans that are borne by no entry."""
    borne = {(row["task_id"], row["entry_step"]) for row in orphans if row["entry_step"]}
    # What an operator has given to a task, or two have found at once, is told by the evidence.
    shown = {
        f"{row['upstream']}: {row['upstream_task_id']} is succeeded"
        for row in (*books.tasks, *(row for row in orphans if row["task_id"] is None))
    }
    booked = set()
    for entry in books.entries:
        place = (entry["task_id"], entry["step"])
        booked.add(place)
        if entry["kind"] == "loss" and place not in borne and entry["evidence_detail"] not in shown:
            yield f"{entry['task_id']}: a loss without an orphan"
    for task_id, step in borne - booked:
        if task_id is not None:
            yield f"{task_id}: an orphan that entry {step} is to bear"


def _find_wrong_moves(task: Row, moves: Sequence[Row], held: Row | None) -> Iterator[str]:
    if [row["version"] for row in moves] != list(range(1, len(moves) + 1)) or not moves:
        yield "a move is missing"
        return
    states = [row["to_state"] for row in moves]
    if [row["from_state"] for row in moves] != [None, *states[:-1]]:
        yield f"its moves {states} have a gap"
    if (states[-1], moves[-1]["at_ms"]) != (task["state"], task["updated_at_ms"]):
        yield f"{task['state']}, by its last move {states[-1]}"
    later = task["version"] - len(moves) - (task["deleted_at_ms"] is not None)
    is_billed_later = held is not None and held["outcome"] == "settled" and states[-1] == "failed"
    if later not in range(2 if is_billed_later else 1):
        yield f"of version {task['version']} after {len(moves)} moves"


def _find_wrong_dates(task: Row, held: Row) -> Iterator[str]:
    if held["at_ms"] != task["created_at_ms"]:
        yield "held at another time than it was made"
    at_ms, ended_at_ms = held["resolved_at_ms"], task["updated_at_ms"]
    if at_ms is None:
        return
    if at_ms < ended_at_ms or (at_ms > ended_at_ms and task["state"] != "failed"):
        yield "resolved at another time than it ended"


def _find_wrong_evidence(
    task: Row, moves: Sequence[Row], held: Row, end: Row | None
) -> Iterator[str]:
    if task["state"] not in ENDED:
        return
    kind = end["evidence"] if end is not None else None
    if moves[-1]["event"] not in _ENDS.get((held["outcome"], kind), ()):
        yield f"{moves[-1]['event']}, and {held['outcome']} by {kind}"
    if end is None or kind != "ended":
        return
    detail = end["evidence_detail"]
    if detail.endswith(" is succeeded") != (held["outcome"] == "settled"):
        yield f"{held['outcome']}, because {detail}"
    if task["upstream_task_id"] is not None:
        name = f"{task['upstream']}: {task['upstream_task_id']} is "
        if not detail.startswith(name):
            yield f"not {name} anything, but {detail}"


def _find_wrong_report(task: Row, held: Row, end: Row | None) -> Iterator[str]:
    if held["outcome"] != "settled":
        return
    quoted = (held["held_tokens"], held["held_seconds"], held["held_videos"])
    settled = (held["tokens"], held["seconds"], held["videos"])
    if held["is_estimated"] and settled != quoted:
        yield f"estimated, and {settled} is not the quote {quoted}"
    if end is not None and end["evidence"] in {"operator", "policy"} and not held["is_estimated"]:
        yield "charged without a report, and not estimated"
    if task["state"] != "succeeded":
        return
    shown = _read_report(task, held)
    if bool(held["is_estimated"]) != (shown is None) or (shown or settled) != settled:
        yield f"shows {shown}, and {settled} is settled"


def _read_report(task: Row, held: Row) -> tuple[int, int, int] | None:
    try:
        fields = json.loads(task["fields"] or "{}")
    except ValueError:
        return None
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens = _count(usage.get("completion_tokens"), _TOKENS_MAX)
    tokens = tokens or _count(usage.get("total_tokens"), _TOKENS_MAX)
    if not tokens:
        return None
    seconds = _count(fields.get("duration"), _SECONDS_MAX)
    if not seconds:
        seconds = -(-_count(fields.get("frames"), _FRAMES_MAX) // 24) or held["held_seconds"]
    return tokens, seconds, 1


def _count(value: Any, most: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 < value <= most else 0
