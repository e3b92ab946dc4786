"""Stories of tasks: complete, true to the tables, and of tasks that ended in every way."""

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.main import main
from gateway.cli.story import as_json
from gateway.domain.keys import Principal
from gateway.domain.tasks import IMPORTED_KEY, Observation, Task, TaskId, TaskState
from gateway.errors import (
    GatewayError,
    TaskNotFound,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.services import admin, auditing, operating, resolving, storytelling
from gateway.services.cancelling import cancel_task
from gateway.services.observing import observe_due
from gateway.services.resolving import Decision, Verdict
from gateway.services.submission import Repeat, submit_task
from gateway.storage import tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import lose, pass_time, tuned
from tests.support.requests import a_body, a_text

TASKS_COUNT = 200
SECRET = "hook-canary-51f0"
HOOK = f"https://hooks.example:8443/{SECRET}?token={SECRET}"
PROMPT = "A paper boat drifts"
ENDS = {
    "succeeded": Observation("succeeded", {"usage": {"completion_tokens": 40_000}, "duration": 5}),
    "without usage": Observation("succeeded", {}),
    "overage": Observation("succeeded", {"usage": {"completion_tokens": 90_000}}),
    "failed": Observation("failed", {}),
    "expired": Observation("expired", {}),
    "running": Observation("running", {}),
    "queued": Observation("queued", {}),
    "cancelled": Observation("cancelled", {}),
}
SUBMITS = ("accepted",) * 12 + ("lost", "rejected", "never sent")
FORGED_BILL = json.dumps({"cost_micros": 1, "currency": "CNY", "price_version": ""})
Rows = Sequence[Mapping[str, Any]]


def with_sink(runtime: Runtime) -> Runtime:
    """Return the runtime as it is where usage events have a sink."""
    webhooks = runtime.config.webhooks.model_copy(update={"usage_url": f"{HOOK}&usage"})
    return replace(runtime, config=runtime.config.model_copy(update={"webhooks": webhooks}))


async def submit(
    runtime: Runtime,
    principal: Principal,
    number: int = 0,
    *,
    key: str | None = None,
    callback_url: str | None = None,
) -> Task:
    body = a_body(a_text(f"{PROMPT}, {number} --resolution 480p --ratio 16:9 --duration 5"))
    if callback_url is not None:
        body["callback_url"] = callback_url
    return (await submit_task(runtime, principal, body, "req", Repeat(key))).task


async def submit_somehow(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    draws: random.Random,
    number: int,
) -> str:
    """Submit a task whose answer is drawn; return its id, whatever came of it."""
    fate = draws.choice(SUBMITS)
    retries = runtime.config.submit.not_sent_retries_max
    errors: dict[str, list[Exception]] = {
        "accepted": [],
        "lost": [UpstreamAmbiguous("No answer.")],
        "rejected": [UpstreamRejected("No.", code="InvalidParameter", status=400)],
        "never sent": [UpstreamUnavailable("No connection.") for _ in range(retries + 1)],
    }
    upstream.submit_errors = errors[fate]
    key = f"key-{number}" if draws.random() < 0.3 else None
    hook = HOOK if draws.random() < 0.5 else None
    try:
        task = await submit(runtime, principal, number, key=key, callback_url=hook)
    except GatewayError:
        return upstream.submits[-1].attempt_id
    if fate == "accepted" and draws.random() < 0.05:
        await cancel_task(runtime, principal, task.id)
    return task.id


async def play(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> list[str]:
    """Let tasks go all ways that they can; return the ids of all."""
    draws = random.Random(20261128)
    ids = []
    for number in range(TASKS_COUNT):
        ids.append(await submit_somehow(runtime, principal, upstream, draws, number))
        clock.advance(draws.random())
    for upstream_task_id in list(upstream.shown):
        if draws.random() < 0.05:
            del upstream.shown[upstream_task_id]  # denied from now on
        else:
            upstream.shown[upstream_task_id] = draws.choice(list(ENDS.values()))
    for _ in range(12):
        clock.advance(600)
        await observe_due(runtime, upstream, "default")
    for task_id in draws.sample(ids, 30):
        stored = await runtime.db.read(tasks.find, task_id)
        assert stored is not None
        if stored.task.state is TaskState.SUCCEEDED:
            await cancel_task(runtime, principal, task_id)  # takes it out of the client's view
    return ids


def read_rows(runtime: Runtime, query: str) -> Mapping[str, Rows]:
    """Return the rows of a query by their first column, a task's id, by plain SQL."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    with closing(sqlite3.connect(runtime.config.data_dir / DATABASE_FILE)) as conn:
        conn.row_factory = sqlite3.Row
        for row in conn.execute(query):
            by_task.setdefault(row[0], []).append(dict(row))
    return by_task


async def test_the_story_of_each_of_200_random_tasks_is_complete_and_ends_where_the_task_is(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = with_sink(runtime)
    ids = await play(runtime, principal, upstream, clock)
    stored = read_rows(runtime, "SELECT id, * FROM tasks")
    moves = read_rows(runtime, "SELECT task_id, * FROM task_transitions ORDER BY version")
    entries = read_rows(runtime, "SELECT task_id, * FROM ledger_entries ORDER BY step")
    told = read_rows(runtime, "SELECT task_id, * FROM notifications ORDER BY created_at_ms, id")
    attempts = read_rows(runtime, "SELECT task_id, * FROM attempts")
    keyed = read_rows(runtime, "SELECT task_id FROM idempotency_keys")

    states: Counter[str] = Counter()
    for task_id in ids:
        found = await storytelling.get_story(runtime, task_id)
        story: dict[str, Any] = as_json(found)
        assert storytelling.find_gaps(found) == []
        states[story["state"]] += 1
        row = stored[task_id][0]
        assert story["transitions"][-1]["to"] == story["state"] == row["state"]
        assert story["upstream_task_id"] == row["upstream_task_id"]
        assert story["upstream_request_id"] == row["upstream_request_id"]
        assert (story["project"], story["key_id"]) == ("default", principal.key_id)
        assert story["body_hash"] == attempts[task_id][0]["fingerprint"]
        assert story["has_idempotency_key"] == (task_id in keyed)
        assert [(m["version"], m["event"], m["to"]) for m in story["transitions"]] == [
            (m["version"], m["event"], m["to_state"]) for m in moves[task_id]
        ]
        assert [
            (e["kind"], e["held_micros"], e["spent_micros"], e["cost_micros"], e["evidence"])
            for e in story["ledger"]
        ] == [
            (e["kind"], e["held_micros"], e["spent_micros"], e["cost_micros"], e["evidence"])
            for e in entries[task_id]
        ]
        assert [(n["id"], n["kind"], n["state"]) for n in story["notifications"]] == [
            (n["id"], n["kind"], n["state"]) for n in told.get(task_id, ())
        ]
        for secret in (SECRET, PROMPT):
            assert secret not in json.dumps(story)

    assert set(states) >= {
        *("succeeded", "failed", "expired", "cancelled", "rejected"),
        *("queued", "running", "unknown"),
    }
    assert (await auditing.audit(runtime)).count == 0


async def test_the_story_of_a_settled_task_says_who_what_why_and_how_much(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = with_sink(runtime)
    task = await submit(runtime, principal, key="once", callback_url=HOOK)
    upstream.shown["up-1"] = ENDS["succeeded"]
    clock.advance(60)
    await observe_due(runtime, upstream, "default")

    story: dict[str, Any] = as_json(await storytelling.get_story(runtime, task.id))

    price = story["quote"].pop("price_version")
    assert story["quote"] == {
        "tokens": 49_005,
        "seconds": 5,
        "videos": 1,
        "tool_calls": 0,
        "hold_micros": 735_075,
        "currency": "CNY",
    }
    assert [(m["from"], m["event"], m["to"]) for m in story["transitions"]] == [
        (None, None, "reserved"),
        ("reserved", "accepted", "queued"),
        ("queued", "succeeded", "succeeded"),
    ]
    assert story["transitions"][-1]["at"] == "2026-11-22T07:02:02.000Z"
    hold, settled = story["ledger"]
    assert (hold["kind"], hold["held_micros"], hold["spent_micros"]) == ("hold", 735_075, 0)
    assert (settled["kind"], settled["held_micros"]) == ("settle", -735_075)
    assert (settled["spent_micros"], settled["spent_tokens"]) == (600_000, 40_000)
    assert settled["cost_micros"] == 600_000
    assert settled["price_version"] == hold["price_version"] == price
    assert settled["evidence"] == "ended"
    assert settled["evidence_detail"] == "fake: up-1 is succeeded"
    assert {(n["kind"], n["state"], n["attempts"]) for n in story["notifications"]} == {
        ("callback", "pending", 0),
        ("usage", "pending", 0),
    }
    assert {n["receiver"] for n in story["notifications"]} == {"https://hooks.example:8443"}
    assert story["has_idempotency_key"]
    assert story["upstream_task_id"] == "up-1"
    assert story["upstream_request_id"] == "req-1"


async def test_the_story_names_who_acted_on_the_task(
    runtime: Runtime, principal: Principal
) -> None:
    task = await submit(runtime, principal)
    await operating.cancel(runtime, "jo", task.id)

    story: dict[str, Any] = as_json(await storytelling.get_story(runtime, task.id))

    assert [(e["actor"], e["action"]) for e in story["audit"]] == [("jo", "task.cancel_requested")]
    assert story["ledger"][-1]["evidence"] == "cancelled"


@pytest.mark.parametrize(
    ("verdict", "told"), [(Verdict.CHARGE, "charged"), (Verdict.ABSENT, "absent")]
)
async def test_the_story_of_what_an_operator_decided_does_not_contradict_itself(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, verdict: Verdict, told: str
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)
    await resolving.resolve(runtime, "cli:jo", task_id, Decision(verdict, reason="asked them"))

    story: dict[str, Any] = as_json(await storytelling.get_story(runtime, task_id))

    last = story["transitions"][-1]
    assert (last["from"], last["event"], last["to"]) == ("unknown", told, "failed")
    detail = f"cli:jo said {verdict.value}: asked them"
    assert story["ledger"][-1]["evidence_detail"] == detail


@pytest.mark.parametrize(
    ("policy", "told"), [("hold", "given_up"), ("release", "given_up"), ("charge", "charged")]
)
async def test_the_story_tells_of_a_submission_that_ended_by_its_age_how_it_ended(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    policy: str,
    told: str,
) -> None:
    runtime = tuned(runtime, submit={"unknown_policy": policy, "unknown_age_max_s": 3600.0})
    upstream.supports_list = False
    task_id = await lose(runtime, principal, upstream, is_made=False)
    await pass_time(runtime, upstream, clock, 7300)
    if policy == "hold":  # and what an operator says later changes nothing of how it ended
        decision = Decision(Verdict.CHARGE, reason="billed")
        clock.advance(1)
        await resolving.resolve(runtime, "cli:jo", task_id, decision)

    story: dict[str, Any] = as_json(await storytelling.get_story(runtime, task_id))

    assert story["state"] == "failed"
    assert story["transitions"][-1]["event"] == told


async def test_an_imported_task_has_a_story_without_money(
    runtime: Runtime, principal: Principal
) -> None:
    task = await submit(runtime, principal)
    imported = replace(
        task,
        id=TaskId("cgt-20261101120000-abcde"),
        key_id=IMPORTED_KEY,
        upstream_task_id="cgt-20261101120000-abcde",
    )
    await runtime.db.write(tasks.admit, replace(imported, version=1), "{}", None)

    found = await storytelling.get_story(runtime, imported.id)
    report = await operating.get_report(runtime, imported.id)

    assert storytelling.find_gaps(found) == []
    story = as_json(found)
    assert story["imported"]
    assert (story["quote"], story["ledger"], story["body_hash"]) == (None, [], None)
    assert (report.hold_micros, report.cost_micros) == (None, None)


async def test_there_is_no_story_of_an_unknown_task(runtime: Runtime) -> None:
    with pytest.raises(TaskNotFound):
        await storytelling.get_story(runtime, "cgt-20261122070102-22222222222222222222")


@pytest.mark.tampers_with_books
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM task_transitions WHERE version = 1", "moves are missing"),
        ("DELETE FROM task_transitions WHERE version = 2", "ends as reserved"),
        ("DELETE FROM task_transitions", "moves are missing"),
        ("UPDATE task_transitions SET to_state = 'running' WHERE version = 2", "no move"),
        ("UPDATE task_transitions SET from_state = 'queued' WHERE version = 2", "does not follow"),
        ("UPDATE task_transitions SET to_state = 'queued' WHERE version = 1", "begins as queued"),
        ("UPDATE tasks SET state = 'running'", "ends as queued, and the task is running"),
        ("DELETE FROM reservations", "nothing was held for it"),
        ("DELETE FROM ledger_entries", "hold and the ledger do not agree"),
        (f"UPDATE tasks SET bill = '{FORGED_BILL}'", "another cost"),  # noqa: S608 - a constant
    ],
)
async def test_a_story_with_a_gap_says_so(
    runtime: Runtime, principal: Principal, statement: str, told: str
) -> None:
    task = await submit(runtime, principal)
    with closing(sqlite3.connect(runtime.config.data_dir / DATABASE_FILE)) as conn, conn:
        for table in ("task_transitions", "ledger_entries"):
            for verb in ("update", "delete"):
                conn.execute(f"DROP TRIGGER {table}_no_{verb}")
        assert conn.execute(statement).rowcount

    gaps = storytelling.find_gaps(await storytelling.get_story(runtime, task.id))

    assert any(told in gap for gap in gaps), gaps


async def test_the_command_prints_the_story_for_people_and_for_programs(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = await submit(runtime, principal, key="once", callback_url=HOOK)
    upstream.shown["up-1"] = ENDS["succeeded"]
    clock.advance(60)
    await observe_due(runtime, upstream, "default")

    for_people = await run(runtime.config.data_dir, capsys, "tasks", "story", task.id)
    for_programs = await run(
        runtime.config.data_dir, capsys, "tasks", "story", task.id, "--format", "json"
    )

    shown: dict[str, Any] = as_json(await storytelling.get_story(runtime, task.id))
    assert json.loads(for_programs) == {**shown, "gaps": []}
    lines = [" ".join(line.split()) for line in for_people.splitlines()]
    assert f"body_hash {shown['body_hash']}" in lines
    assert "quote.hold 0.735075" in lines
    assert "project default" in lines
    assert "upstream_request_id req-1" in lines
    assert "3 2026-11-22T07:02:02.000Z queued succeeded succeeded" in lines
    assert any("-0.735075" in line and "+0.600000" in line for line in lines)
    assert {"transitions", "ledger", "notifications"} <= set(lines)
    assert SECRET not in for_people + for_programs
    assert PROMPT not in for_people + for_programs


async def test_a_task_is_shown_with_its_hold_and_its_cost(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = runtime.config.data_dir
    task = await submit(runtime, principal)
    before = json.loads(await run(folder, capsys, "tasks", "show", task.id, "--format", "json"))
    upstream.shown["up-1"] = ENDS["succeeded"]
    clock.advance(60)
    await observe_due(runtime, upstream, "default")
    after = json.loads(await run(folder, capsys, "tasks", "show", task.id, "--format", "json"))
    for_people = await run(folder, capsys, "tasks", "show", task.id)

    assert (before["hold_micros"], before["cost_micros"]) == (735_075, None)
    assert (after["hold_micros"], after["cost_micros"]) == (735_075, 600_000)
    assert after["gateway"]["cost_micros"] == 600_000
    lines = [" ".join(line.split()) for line in for_people.splitlines()]
    assert {"hold 0.735075", "cost 0.600000"} <= set(lines)


async def test_the_story_of_a_rejected_task_is_told(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    capsys: pytest.CaptureFixture[str],
) -> None:
    upstream.submit_errors = [UpstreamRejected("No.", code="InvalidParameter", status=400)]
    with pytest.raises(UpstreamRejected):
        await submit(runtime, principal, key="once")
    task_id = upstream.submits[0].attempt_id

    told = json.loads(
        await run(runtime.config.data_dir, capsys, "tasks", "story", task_id, "--format", "json")
    )

    assert told["state"] == "rejected"
    assert told["error"] == "InvalidParameter"
    assert [entry["kind"] for entry in told["ledger"]] == ["hold", "release"]
    assert told["ledger"][1]["evidence"] == "rejected"
    assert not told["has_idempotency_key"], "a refused request stores no key"
    assert told["gaps"] == []


async def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command beside the open runtime, and return what it prints."""
    exit_code = await asyncio.to_thread(main, [*arguments, "--data-dir", str(folder)])
    printed = capsys.readouterr()
    assert exit_code == 0, printed.err
    return printed.out


async def test_the_command_fails_for_a_task_that_there_is_not(
    runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(runtime.config.data_dir)
    arguments = ["tasks", "story", "cgt-20261122070102-22222222222222222222", "--data-dir", folder]

    exit_code = await asyncio.to_thread(main, arguments)

    assert exit_code == 1
    assert capsys.readouterr().out == ""
    assert await admin.list_projects(runtime)
