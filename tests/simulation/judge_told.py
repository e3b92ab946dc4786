"""The judge of what others are told: every step that a receiver wants to hear of, under one id.

At least once is promised, so a message may come again, with the same id and the same words; what
comes must be true, signed, and for the right ears.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.simulation.receivers import HOPELESS, SINK_PATH, Delivery, kind_of
from tests.simulation.truth import Truth

_TOLD: Final = ("queued", "running", "succeeded", "failed", "expired")
_ATTEMPTS_MAX: Final = 11
_KEPT_MS: Final = 6 * 86_400_000
"""For how long messages that have ended are kept at least, by a clock that may go back a day."""


def judge_deliveries(truth: Truth) -> Iterator[str]:
    """Yield what is wrong with what was told so far, at any moment."""
    first: dict[str, Delivery] = {}
    for delivery in truth.site.receivers.deliveries:
        if not delivery.is_signed:
            yield f"told: {delivery.id} has a signature that is not right"
        before = first.setdefault(delivery.id, delivery)
        if (before.url, before.body) != (delivery.url, delivery.body):
            yield f"told: {delivery.id} says two things"
    for delivery in first.values():
        if delivery.url.endswith(SINK_PATH):
            yield from _judge_usage(truth, delivery)
        else:
            yield from _judge_callback(truth, delivery)


def judge_told(truth: Truth) -> Iterator[str]:
    """Yield what nobody was told, now that all is over."""
    yield from judge_deliveries(truth)
    got = {delivery.id for delivery in truth.site.receivers.deliveries}
    waits = {row["id"]: row for row in truth.rows("SELECT * FROM notifications")}
    for row in _wanted(truth):
        url, notification = row["callback_url"], waits.get(row["id"])
        if notification is None and not (row["id"] in got or _is_forgotten(truth, row)):
            yield f"told: {row['id']} was never written"
        is_owed = kind_of(url) not in HOPELESS and not _is_given_up(notification)
        if truth.delivers and row["id"] not in got and is_owed:
            yield f"told: {row['id']} never reached {url}"
    yield from _judge_usage_events(truth)


def _wanted(truth: Truth) -> list[Mapping[str, Any]]:
    """Return the moves that a client's callback address hears of."""
    marks = ", ".join(f"'{state}'" for state in _TOLD)
    rows = truth.rows(
        "SELECT 'msg_' || task_id || '_' || version AS id, task_id, at_ms FROM task_transitions "  # noqa: S608
        f"WHERE to_state IN ({marks})"
    )
    urls = truth.callback_urls
    return [{**row, "callback_url": urls[row["task_id"]]} for row in rows if row["task_id"] in urls]


def _is_given_up(notification: sqlite3.Row | None) -> bool:
    """Whether a message was tried for three days, as often as is promised."""
    if notification is None or notification["state"] != "dead":
        return False
    return bool(notification["attempt_count"] >= _ATTEMPTS_MAX)


def _is_forgotten(truth: Truth, row: Mapping[str, Any]) -> bool:
    """Whether a message is older than those that were delivered, or given up, are kept."""
    return bool(truth.site.clock.now_ms() - row["at_ms"] >= _KEPT_MS)


def _judge_callback(truth: Truth, delivery: Delivery) -> Iterator[str]:
    """A callback tells its client's own task, as it was after one of its moves."""
    told = delivery.told
    task_id, _, version = delivery.id.removeprefix("msg_").rpartition("_")
    row = truth.row(
        "SELECT t.to_state, k.upstream_task_id FROM task_transitions t "
        "JOIN tasks k ON k.id = t.task_id WHERE t.task_id = ? AND t.version = ?",
        task_id,
        version,
    )
    if row is None or truth.callback_urls.get(task_id) != delivery.url:
        yield f"told: {delivery.id} went to {delivery.url}"
    elif (told["id"], told["status"]) != (task_id, row["to_state"]):
        yield f"told: {delivery.id} says {told['id']} is {told['status']}"
    elif row["upstream_task_id"] is not None and row["upstream_task_id"].encode() in delivery.body:
        yield f"told: {delivery.id} names the upstream's task"


def _judge_usage(truth: Truth, delivery: Delivery) -> Iterator[str]:
    """P10: a usage event says what the ledger says of the task."""
    told = delivery.told
    task_id = str(told["subject"])
    held = truth.row("SELECT * FROM reservations WHERE task_id = ?", task_id)
    data = told["data"]
    if held is None or held["outcome"] != "settled" or not isinstance(data, dict):
        yield f"P10: {delivery.id} tells of {task_id}, which is not settled"
        return
    for name in ("tokens", "seconds", "videos", "charge_micros", "cost_micros"):
        if data[name] != held[name]:
            yield f"P10: {delivery.id} tells {name} {data[name]}, booked is {held[name]}"
    if told["id"] != f"{task_id}/settled":
        yield f"P10: the event of {task_id} has the id {told['id']}"


def _judge_usage_events(truth: Truth) -> Iterator[str]:
    """P10: every settled task has one event, which reaches the sink unless that is hopeless."""
    rows = truth.rows("SELECT task_id, resolved_at_ms FROM reservations WHERE outcome = 'settled'")
    events = {
        row["task_id"]: row
        for row in truth.rows("SELECT * FROM notifications WHERE kind = 'usage'")
    }
    told = {
        str(json.loads(delivery.body)["subject"])
        for delivery in truth.site.receivers.deliveries
        if delivery.url.endswith(SINK_PATH)
    }
    is_hopeless = truth.site.settings.sink in HOPELESS
    for row in rows:
        task_id = row["task_id"]
        is_old = truth.site.clock.now_ms() - row["resolved_at_ms"] >= _KEPT_MS
        if task_id not in events and task_id not in told and not (is_hopeless and is_old):
            yield f"P10: {task_id} is settled, and no event was written"
        is_owed = not is_hopeless and not _is_given_up(events.get(task_id))
        if truth.delivers and task_id not in told and is_owed:
            yield f"P10: {task_id} is settled, and the sink was never told"
