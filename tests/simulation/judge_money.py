"""The judge of money: each hold has one end, and balances are the sums of the entries."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from tests.simulation.judge_tasks import may_differ
from tests.simulation.truth import DEFINITE_NO, QUIET_MS, TERMINAL, Truth
from tests.simulation.world import Echo, Fate, WorldTask

_AMOUNTS: Final = ("micros", "tokens", "seconds", "videos")
_COLUMNS: Final = tuple(f"{side}_{name}" for side in ("held", "spent") for name in _AMOUNTS)
_MILLION: Final = 1_000_000
_UNKNOWN_AGE_MS: Final = 7 * 86_400_000
_BY_DECISION: Final = ("operator", "policy")

Place = tuple[str, str, str, int, str]
"""Scope, its id, window, when that began, column."""

_SUMS: Final = """
SELECT
  (SELECT COALESCE(SUM(hold_micros), 0) FROM reservations WHERE outcome IS NULL),
  (SELECT COALESCE(SUM(held_micros), 0) FROM ledger_entries),
  (SELECT COALESCE(SUM(held_micros), 0) FROM balances WHERE scope = 'org' AND span = 'ever'),
  (SELECT COALESCE(SUM(charge_micros), 0) FROM reservations),
  (SELECT COALESCE(SUM(spent_micros), 0) FROM ledger_entries),
  (SELECT COALESCE(SUM(spent_micros), 0) FROM balances WHERE scope = 'org' AND span = 'ever'),
  (SELECT COUNT(*) FROM balances WHERE MIN(held_micros, held_tokens, held_seconds, held_videos,
    spent_micros, tasks_count) < 0)
"""


def judge_sums(truth: Truth) -> Iterator[str]:
    """P7: what is held and spent is the same by every count, at any moment."""
    figures = truth.site.store.driver.execute(_SUMS).fetchone()
    if len(set(figures[:3])) != 1:
        yield f"P7: holds differ: reservations, ledger, balance {figures[:3]}"
    if len(set(figures[3:6])) != 1:
        yield f"P7: charges differ: reservations, ledger, balance {figures[3:6]}"
    if figures[6]:
        yield f"P7: {figures[6]} balances are negative"


def judge_holds(truth: Truth) -> Iterator[str]:
    """P6, P8: each hold has no end or one, and it is the one that the truth allows."""
    for row in truth.rows("SELECT * FROM tasks ORDER BY id"):
        held = truth.row("SELECT * FROM reservations WHERE task_id = ?", row["id"])
        if held is None:
            yield f"P6: {row['id']} has no hold"
            continue
        entries = truth.rows(
            "SELECT * FROM ledger_entries WHERE task_id = ? ORDER BY step", row["id"]
        )
        yield from (f"P6: {row['id']}: {each}" for each in _differences(held, entries))
        if held["outcome"] is None:
            if row["state"] in TERMINAL and not _may_stay_held(truth, row):
                yield f"P6: {row['id']} is {row['state']} and its hold is open"
            continue
        evidence = next((each["evidence"] for each in entries if each["step"] == 2), "")
        yield from judge_resolution(truth, row, held, evidence)


def _may_stay_held(truth: Truth, row: sqlite3.Row) -> bool:
    """Whether a task that has ended waits for evidence, or for an operator."""
    task = truth.site.world.tasks.get(row["upstream_task_id"] or "")
    if task is not None:
        return may_differ(truth, row, task)
    code = json.loads(row["error"])["code"] if row["error"] else ""
    is_horizon = truth.site.settings.unknown_policy == "hold" and bool(code)
    return is_horizon and _age_ms(truth, row) >= _UNKNOWN_AGE_MS


def judge_resolution(
    truth: Truth, row: sqlite3.Row, held: sqlite3.Row, evidence: str
) -> Iterator[str]:
    """P6, P8: a hold was let go of for a reason, the reason is true, and so is the charge."""
    task = truth.site.world.tasks.get(row["upstream_task_id"] or "")
    if not _is_true(truth, row, held, evidence, task):
        fates = [str(each.fate) for each in truth.received_for(row["id"])]
        made = [f"{each.id} {each.final}" for each in truth.made_for(row["id"])]
        yield f"P8: {row['id']} was {held['outcome']} as {evidence}: fates {fates}, made {made}"
    if held["outcome"] != "settled":
        return
    is_counted = task is not None and task.is_counted and evidence == "ended"
    tokens = task.billed_tokens if task is not None and is_counted else held["held_tokens"]
    if held["tokens"] != tokens or bool(held["is_estimated"]) == is_counted:
        yield f"P6: {row['id']} settled {held['tokens']} tokens, billed {tokens}"
    price = json.loads(held["price"])
    usage = {name: held[name] for name in ("tokens", "seconds", "videos")}
    for name, amount in (("charge", held["charge_micros"]), ("cost", held["cost_micros"])):
        due = price_of(price[name], usage)
        if amount != due:
            yield f"P6: {row['id']} has the {name} {amount}, due is {due}"


def _is_true(
    truth: Truth, row: sqlite3.Row, held: sqlite3.Row, evidence: str, task: WorldTask | None
) -> bool:
    """Whether the world bears out, by now, what a hold was let go of for."""
    received = truth.received_for(row["id"])
    made = truth.made_for(row["id"])
    is_settled = held["outcome"] == "settled"
    status = task.status_at(truth.now_s()) if task is not None else None
    if evidence in _BY_DECISION:
        return _is_decided(truth, row, evidence)
    if evidence == "ended":
        ends = {"succeeded"} if is_settled else {"failed", "cancelled", "expired"}
        return status in ends
    return not is_settled and {
        "rejected": bool(received) and received[-1].fate in DEFINITE_NO,
        "not_sent": not received,
        "cancelled": task is not None and (status == "cancelled" or task.is_deleted),
        "absent": _is_absent(truth, row, made),
        "disputed": _is_quiet(truth, row),  # also if it was never sent: who could tell?
    }.get(evidence, False)


def _is_absent(truth: Truth, row: sqlite3.Row, made: Sequence[WorldTask]) -> bool:
    """Whether nothing was made, nor would be within the quiet time after the answer was lost."""
    # A process that is dead may have been the only one to see that the clock was set.
    if truth.is_misdated(row["id"]) and truth.has_died:
        shows_late = truth.site.world.weather.echo is Echo.WHEN_ENDED
        return shows_late or not any(truth.is_marked(each) for each in made)
    is_promised = any(each.fate is Fate.LATE for each in truth.received_for(row["id"]))
    return all(truth.is_late(each) for each in made) and not is_promised and _is_quiet(truth, row)


def _is_decided(truth: Truth, row: sqlite3.Row, evidence: str) -> bool:
    if evidence == "operator":
        found = truth.row("SELECT 1 FROM audit_events WHERE subject = ?", row["id"])
        return found is not None
    policy = truth.site.settings.unknown_policy
    return policy != "hold" and _age_ms(truth, row) >= _UNKNOWN_AGE_MS


def _is_quiet(truth: Truth, row: sqlite3.Row) -> bool:
    """Whether nothing was concluded, from what is not there, before the quiet time was over."""
    end = truth.row("SELECT at_ms FROM ledger_entries WHERE task_id = ? AND step = 2", row["id"])
    return end is not None and end["at_ms"] - row["created_at_ms"] >= QUIET_MS


def _age_ms(truth: Truth, row: sqlite3.Row) -> int:
    """Return the age of a task, by the gateway's clock."""
    age_ms: int = truth.site.clock.now_ms() - row["created_at_ms"]
    return age_ms


def judge_balances(truth: Truth) -> Iterator[str]:
    """P7: every balance is the sum of its entries, and none is missing."""
    expected: Counter[Place] = Counter()
    for entry in truth.rows("SELECT * FROM ledger_entries"):
        for account, window in product(_accounts_of(entry), _windows_of(entry)):
            for column in _COLUMNS:
                expected[*account, *window, column] += entry[column]
    found: Counter[Place] = Counter()
    for row in truth.rows("SELECT * FROM balances"):
        for column in _COLUMNS:
            found[row["scope"], row["scope_id"], row["span"], row["start_ms"], column] = row[column]
    for place in sorted(expected.keys() | found.keys()):
        if expected[place] != found[place]:
            yield f"P7: {place} is {found[place]}, by the ledger {expected[place]}"
    yield from _judge_counts(truth)


def _judge_counts(truth: Truth) -> Iterator[str]:
    """P4: the tasks in progress are counted rightly."""
    marks = ", ".join(f"'{state}'" for state in TERMINAL)
    expected: Counter[tuple[str, str]] = Counter()
    for row in truth.rows(
        f"SELECT project_id, key_id FROM tasks WHERE state NOT IN ({marks})"  # noqa: S608
    ):
        expected.update(_accounts_of(row))
    for row in truth.rows("SELECT * FROM balances WHERE span = 'ever'"):
        account = (row["scope"], row["scope_id"])
        if row["tasks_count"] != expected[account]:
            yield f"P4: {account} counts {row['tasks_count']} tasks, really {expected[account]}"


def price_of(prices: Mapping[str, int], usage: Mapping[str, int]) -> int:
    """Return what the usage costs, in micro-units, a fraction rounded up."""
    tokens_micros, rest = divmod(usage["tokens"] * prices["million_tokens_micros"], _MILLION)
    return (
        tokens_micros
        + (rest > 0)
        + usage["videos"] * prices["video_micros"]
        + usage["seconds"] * prices["second_micros"]
    )


def _differences(held: sqlite3.Row, entries: Sequence[sqlite3.Row]) -> Iterator[str]:
    """Yield where the entries of a hold don't say what its row says."""
    steps = [entry["step"] for entry in entries]
    expected = [1] if held["outcome"] is None else [1, 2]
    losses = steps[len(expected) :]
    if steps[: len(expected)] != expected or losses != list(range(3, 3 + len(losses))):
        yield f"entries {steps} for an outcome of {held['outcome']}"
        return
    if entries[0]["held_micros"] != held["hold_micros"]:
        yield f"{entries[0]['held_micros']} were held for a hold of {held['hold_micros']}"
    price = json.loads(held["price"])
    usage = {name: held[f"held_{name}"] for name in ("tokens", "seconds", "videos")}
    if price_of(price["charge"], usage) != held["hold_micros"]:
        yield f"{held['hold_micros']} were held, by its price {price_of(price['charge'], usage)}"
    if held["outcome"] is None:
        return
    end = entries[1]
    for name in _AMOUNTS:
        if entries[0][f"held_{name}"] + end[f"held_{name}"]:
            yield f"{name} are held after the end"
    kinds = {"settled": "settle", "released": "release"}
    if end["kind"] != kinds[held["outcome"]] or end["spent_micros"] != held["charge_micros"]:
        yield f"{end['kind']} of {end['spent_micros']} for {held['charge_micros']}"
    if end["evidence"] is None:
        yield "its end has no evidence"


def _accounts_of(row: sqlite3.Row) -> Sequence[tuple[str, str]]:
    return (("org", ""), ("project", row["project_id"]), ("key", row["key_id"]))


def _windows_of(row: sqlite3.Row) -> Sequence[tuple[str, int]]:
    return (("day", row["day_start_ms"]), ("month", row["month_start_ms"]), ("ever", 0))
