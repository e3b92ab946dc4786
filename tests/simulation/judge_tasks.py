"""The judge of tasks: all recorded, none twice, nobody's shown to a stranger, each at its end."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Final

from tests.simulation.clients import Sent, Wish
from tests.simulation.truth import DEFINITE_NO, TERMINAL, Truth
from tests.simulation.world import Received, WorldTask

_VANISHED: Final = "NotFound.UpstreamTask"
_JOIN_S: Final = 600.0
_NOTICED_S: Final = 1.0
"""How long it may take until the books know that a client has left."""


def judge_tasks(truth: Truth) -> Iterator[str]:
    """Yield what is wrong with the tasks, now that all is over."""
    yield from judge_history(truth)
    for task in truth.site.world.own_tasks():
        yield from _judge_recorded(truth, task)
    for wish in truth.clients.wishes:
        yield from judge_wish(truth, wish)
    for row in truth.rows("SELECT * FROM tasks ORDER BY id"):
        yield from _judge_end(truth, row)


def judge_history(truth: Truth) -> Iterator[str]:
    """Each task's moves form one chain from its admission to its state."""
    last: dict[str, sqlite3.Row] = {}
    for row in truth.rows("SELECT * FROM task_transitions ORDER BY task_id, version"):
        before = last.get(row["task_id"])
        expected = (1, None) if before is None else (before["version"] + 1, before["to_state"])
        if (row["version"], row["from_state"]) != expected:
            yield f"history: {row['task_id']} has {tuple(row)} behind {expected}"
        if before is not None and before["to_state"] in TERMINAL:
            yield f"history: {row['task_id']} went on from {before['to_state']}"
        last[row["task_id"]] = row
    for row in truth.rows("SELECT id, state FROM tasks"):
        if row["id"] not in last or last[row["id"]]["to_state"] != row["state"]:
            yield f"history: {row['id']} is {row['state']}, which no move says"


def judge_accounted(truth: Truth) -> Iterator[str]:
    """P1: whatever was created, there is a row that answers for it, at any moment."""
    for task in truth.site.world.own_tasks():
        row = truth.row("SELECT state FROM tasks WHERE id = ?", task.attempt_id)
        if row is None or row["state"] == "rejected":
            state = None if row is None else row["state"]
            yield f"P1: {task.id} was made for {task.attempt_id}, which is {state}"


def judge_wish(truth: Truth, wish: Wish) -> Iterator[str]:
    """P1, P2, P3: what a client was told and what was done for it agree, at any moment."""
    told = {sent.task_id for sent in wish.sends if sent.task_id is not None}
    for task_id in sorted(told):
        row = truth.row("SELECT project_id, state FROM tasks WHERE id = ?", task_id)
        if row is None or row["project_id"] != f"proj_{wish.project}":
            yield f"P1: wish {wish.number} was told {task_id}, which is not its own"
        elif row["state"] == "rejected":
            yield f"P1: wish {wish.number} was told {task_id}, which was rejected"
    for sent in wish.sends:
        yield from _judge_refusal(truth, wish, sent)
    if wish.key is not None:
        yield from _judge_key(truth, wish, told)
        return
    twins = [each for each in truth.clients.wishes if each.prompt == wish.prompt]
    yield from _judge_repeats(truth, twins)
    if len(twins) > 1:
        yield from _judge_twins(truth, twins)


def _judge_refusal(truth: Truth, wish: Wish, sent: Sent) -> Iterator[str]:
    """Nobody is told an error, and so invited to come again, while a task may have been made."""
    if sent.status in {0, 200}:
        return
    for received in truth.received_of(wish.prompt):
        if received.cause is sent.connection and received.fate not in DEFINITE_NO:
            yield (
                f"P1: wish {wish.number} was told {sent.status} {sent.code} for "
                f"{received.attempt_id}, which was {received.fate}"
            )


def _judge_key(truth: Truth, wish: Wish, told: set[str]) -> Iterator[str]:
    """P2: a key never makes a second task, whatever was sent under it."""
    if len(told) > 1:
        yield f"P2: wish {wish.number} was told {sorted(told)}"
    prompts = {wish.prompt, *wish.other_prompts}
    received = [each for each in truth.site.world.received if each.prompt in prompts]
    doubtful = [each for each in received if each.fate not in DEFINITE_NO]
    if len({each.attempt_id for each in doubtful}) > 1 or len(doubtful) > 1:
        sent = [f"{each.attempt_id}: {each.fate}" for each in doubtful]
        yield f"P2: wish {wish.number} was sent more than once: {sent}"


def _judge_repeats(truth: Truth, twins: Sequence[Wish]) -> Iterator[str]:
    """P3: whoever comes again after a lost answer gets the task that was made for it."""
    wish = twins[0]
    sends = [sent for twin in twins for sent in twin.sends]
    told = {sent.task_id for sent in sends if sent.task_id is not None}
    made = [task for task in truth.site.world.own_tasks() if task.prompt == wish.prompt]
    lost_count = sum(sent.status == 0 for sent in sends)  # or still under way
    if len(made) > len(told) + lost_count:
        ids = [task.id for task in made]
        yield f"P3: wish {wish.number}: {len(told)} told, {lost_count} lost, made {ids}"
    if len(twins) > 1:  # which of them took whose place is left open
        return
    received = [each for each in truth.received_of(wish.prompt) if each.fate not in DEFINITE_NO]
    for first, second in pairwise(received):
        if _is_unjoined(truth, wish, first, second):
            yield (
                f"P3: wish {wish.number} came again for {first.attempt_id}, "
                f"and {second.attempt_id} was sent"
            )


def _judge_twins(truth: Truth, twins: Sequence[Wish]) -> Iterator[str]:
    """P3: whoever wants the same as somebody else gets a task of their own.

    Not so if they say that they repeat themselves, nor where nobody knows whether the other one was
    answered, because a process died or a store failed in between.
    """
    is_counted = any(sent.is_counted_retry for twin in twins for sent in twin.sends)
    if is_counted or not truth.is_calm:
        return
    told = [{sent.task_id for sent in twin.sends} - {None} for twin in twins]
    for first, second in combinations(told, 2):
        if first & second:
            yield f"P3: {first & second} was given to two who wanted the same"


def _is_unjoined(truth: Truth, wish: Wish, first: Received, second: Received) -> bool:
    """Whether the request behind `second` had to be given the task of `first`.

    It had if the client had gone, a while before, without an answer that was written, and not for
    longer than ten minutes, by a clock that did not jump meanwhile; and if the store took a note of
    where clients were within some seconds.
    """
    if truth.site.log.counts.get("task.note_lost"):
        return False
    before = next((each for each in wish.sends if each.connection is first.cause), None)
    after = next((each for each in wish.sends if each.connection is second.cause), None)
    if before is None or after is None or before is after or before.connection is None:
        return False
    if before.status != 0 or before.connection.is_answered:
        return False
    if any(sent.task_id == first.attempt_id for sent in wish.sends):
        return False  # it was given to one who came again, and who comes yet again wants another
    if before.ended_s is None:
        return False
    is_clock_steady = not any(before.at_s <= at_s <= second.at_s for at_s in truth.jumps_s)
    is_noticed = after.is_counted_retry or after.at_s - before.ended_s >= _NOTICED_S
    return is_noticed and is_clock_steady and second.at_s - before.at_s < _JOIN_S


def _judge_recorded(truth: Truth, task: WorldTask) -> Iterator[str]:
    """P1: what was created is recorded, once, as what it is."""
    rows = truth.rows("SELECT * FROM tasks WHERE upstream_task_id = ?", task.id)
    if len(rows) > 1:
        yield f"P1: {task.id} is recorded {len(rows)} times"
    if not rows and not truth.is_found(task) and not truth.is_given_up(task):
        yield f"P1: {task.id} of {task.attempt_id} is not recorded"
    for row in rows:
        if row["id"] == task.attempt_id:
            continue
        prompts = [each.prompt for each in truth.received_for(row["id"])]
        if truth.has_strangers(task.attempt_id):  # then nothing tells whose its own task is
            continue
        owner = truth.row("SELECT project_id FROM tasks WHERE id = ?", task.attempt_id)
        if owner is None or owner["project_id"] != row["project_id"]:
            yield f"P14: {row['id']} was given {task.id}, of another project"
        elif task.prompt not in prompts:
            yield f"P1: {row['id']} ({prompts}) was given {task.id} ({task.prompt})"


def _judge_end(truth: Truth, row: sqlite3.Row) -> Iterator[str]:
    """Everything has ended, as it really did."""
    if row["state"] in truth.moving_states:
        yield f"end: {row['id']} is still {row['state']}"
    task = truth.site.world.tasks.get(row["upstream_task_id"] or "")
    if row["upstream_task_id"] is not None and task is None:
        yield f"end: {row['id']} has {row['upstream_task_id']}, which never was"
    if row["upstream_task_id"] is None and row["state"] in {"succeeded", "expired", "cancelled"}:
        yield f"end: {row['id']} is {row['state']} without an upstream task"
    if task is None or row["state"] not in TERMINAL:
        return
    if row["state"] != task.final and not may_differ(truth, row, task):
        yield f"end: {row['id']} is {row['state']}, really {task.final}"


def may_differ(truth: Truth, row: sqlite3.Row, task: WorldTask) -> bool:
    """Whether the upstream itself kept us from knowing: it denied a task that it had."""
    code = json.loads(row["error"])["code"] if row["error"] else ""
    is_denied = task.is_deleted or truth.site.world.weather.read_missing > 0
    if code == _VANISHED and is_denied:
        return True
    return task.is_deleted and row["state"] == "cancelled"
