"""What operators do with tasks, through the services on a real store."""

import asyncio
import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from gateway.cli.waiting import wait_for_end
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task, TaskState
from gateway.errors import (
    InvalidRequest,
    NotFound,
    RunningTaskDeletion,
    SubmissionUnconfirmed,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.services import admin, operating
from gateway.services.diagnosing import Level, check_clock, check_database, check_upstreams
from gateway.services.observing import look_at
from gateway.services.status import get_task
from gateway.services.submission import submit_task
from gateway.storage import audit, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.requests import a_body, a_text

PROMPT = "Paper boats drift past a lighthouse"
DAY_S = 86_400


async def submit(runtime: Runtime, principal: Principal) -> Task:
    return (await submit_task(runtime, principal, a_body(a_text(PROMPT)), "req")).task


async def stored_text(runtime: Runtime, task: Task) -> str:
    stored = await runtime.db.read(tasks.find, task.id)
    assert stored is not None
    assert stored.request_body is not None
    text = json.loads(stored.request_body)["content"][0]["text"]
    assert isinstance(text, str)
    return text


async def audited(runtime: Runtime) -> list[str]:
    events = await runtime.db.read(audit.list_events, 0, 100)
    return [event.action for event in events]


async def test_operators_see_the_tasks_of_every_project(
    runtime: Runtime, principal: Principal, stranger: Principal, clock: FakeClock
) -> None:
    first = await submit(runtime, principal)
    clock.advance(1)
    second = await submit(runtime, stranger)

    every = await operating.list_reports(runtime, 10)
    others = await operating.list_reports(runtime, 10, project_name="other")

    assert [(report.task.id, report.project.name) for report in every] == [
        (second.id, "other"),
        (first.id, "default"),
    ]
    assert [report.task.id for report in others] == [second.id]
    assert await operating.list_reports(runtime, 10, state=TaskState.FAILED) == []
    assert len(await operating.list_reports(runtime, 1)) == 1
    with pytest.raises(NotFound):
        await operating.list_reports(runtime, 10, project_name="nobody")


async def test_a_rejected_task_is_shown_to_operators(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamRejected("no", code="InvalidParameter", status=400)]
    with pytest.raises(UpstreamRejected):
        await submit(runtime, principal)

    (report,) = await operating.list_reports(runtime, 10, state=TaskState.REJECTED)

    shown = await operating.get_report(runtime, report.task.id)
    assert shown.task.error is not None
    assert shown.task.error.code == "InvalidParameter"


async def test_an_unknown_task_is_not_found(runtime: Runtime) -> None:
    for act in (operating.get_report(runtime, "cgt-x"), operating.cancel(runtime, "cli", "cgt-x")):
        with pytest.raises(TaskNotFound):
            await act


async def test_an_operator_cancels_a_queued_task_at_the_upstream(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = await submit(runtime, principal)

    report = await operating.cancel(runtime, "cli", task.id)

    assert report.task.state is TaskState.CANCELLED
    assert upstream.cancels == ["up-1"]
    assert (await get_task(runtime, principal, task.id)).task.state is TaskState.CANCELLED
    assert "task.cancel_requested" in await audited(runtime)


async def test_a_task_that_has_ended_stays_in_its_clients_view(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = await submit(runtime, principal)
    upstream.shown["up-1"] = Observation("succeeded", {"content": {"video_url": "https://v"}})

    for _ in range(2):  # found out by a look first, known then
        with pytest.raises(InvalidRequest, match="has ended already"):
            await operating.cancel(runtime, "cli", task.id)

    assert upstream.cancels == []
    assert (await get_task(runtime, principal, task.id)).task.state is TaskState.SUCCEEDED


async def test_what_can_not_be_cancelled_is_told_apart(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    running = await submit(runtime, principal)
    upstream.shown["up-1"] = Observation("running", {})
    upstream.submit_errors = [UpstreamAmbiguous("lost")]
    unknown = await submit(runtime, principal)
    queued = await submit(runtime, principal)

    with pytest.raises(RunningTaskDeletion):
        await operating.cancel(runtime, "cli", running.id)
    with pytest.raises(SubmissionUnconfirmed):
        await operating.cancel(runtime, "cli", unknown.id)
    with pytest.raises(UpstreamAccount, match="no longer configured"):
        await operating.cancel(replace(runtime, upstreams={}), "cli", queued.id)


async def test_a_request_is_erased_for_good(runtime: Runtime, principal: Principal) -> None:
    task, other = await submit(runtime, principal), await submit(runtime, principal)

    assert await operating.erase_requests(runtime, "cli", task_id=task.id) == 1

    erased = await stored_text(runtime, task)
    assert erased.startswith("sha256=")
    assert PROMPT in await stored_text(runtime, other)
    entry = await get_task(runtime, principal, task.id)
    assert PROMPT not in str(entry.echo)
    assert "requests.erase_requested" in await audited(runtime)
    path = runtime.config.data_dir / DATABASE_FILE
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT body FROM task_requests WHERE task_id = ?", [task.id])
        assert PROMPT not in str(rows.fetchall())


async def test_erasing_again_leaves_the_hashes(runtime: Runtime, principal: Principal) -> None:
    task = await submit(runtime, principal)
    await operating.erase_requests(runtime, "cli", task_id=task.id)
    erased = await stored_text(runtime, task)

    assert await operating.erase_requests(runtime, "cli", task_id=task.id) == 0
    assert await stored_text(runtime, task) == erased


async def test_all_conditions_of_an_erasure_must_hold(
    runtime: Runtime, principal: Principal, stranger: Principal, clock: FakeClock
) -> None:
    old = await submit(runtime, principal)
    foreign = await submit(runtime, stranger)
    clock.advance(DAY_S)
    new = await submit(runtime, principal)
    before_ms = clock.now_ms() - 1000

    count = await operating.erase_requests(
        runtime, "cli", project_name="default", before_ms=before_ms
    )

    assert count == 1
    assert (await stored_text(runtime, old)).startswith("sha256=")
    assert PROMPT in await stored_text(runtime, foreign)
    assert PROMPT in await stored_text(runtime, new)
    assert await operating.erase_requests(runtime, "cli", before_ms=before_ms) == 1


async def test_an_erasure_of_everything_must_be_asked_for(runtime: Runtime) -> None:
    with pytest.raises(InvalidRequest):
        await operating.erase_requests(runtime, "cli")
    with pytest.raises(TaskNotFound):
        await operating.erase_requests(runtime, "cli", task_id="cgt-x")
    with pytest.raises(NotFound):
        await operating.erase_requests(runtime, "cli", project_name="nobody")


async def test_more_requests_than_one_page_are_erased(
    runtime: Runtime, principal: Principal
) -> None:
    count = operating.ROWS_PER_ERASURE_MAX + 1
    for _ in range(count):
        await submit(runtime, principal)

    assert await operating.erase_requests(runtime, "cli", project_name="default") == count


async def test_waiting_tells_each_state_once(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = await submit(runtime, principal)
    waiting = asyncio.ensure_future(wait_for_end(runtime, task.id, None))
    for status in ("running", "succeeded"):
        await asyncio.sleep(0.01)
        upstream.shown["up-1"] = Observation(status, {})
        task = (await look_at(runtime, task)).task

    report = await waiting

    assert report.task.state is TaskState.SUCCEEDED
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{task.id} queued"
    assert lines[-1] == f"{task.id} succeeded"
    assert len(lines) == len(set(lines))


async def test_waiting_ends_with_its_time(
    runtime: Runtime, principal: Principal, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    started_s = clock.monotonic_s()

    report = await wait_for_end(runtime, task.id, 10_000)

    assert report.task.state is TaskState.QUEUED
    assert clock.monotonic_s() - started_s == pytest.approx(10, abs=0.01)


async def test_waiting_for_an_unknown_task_fails_at_once(runtime: Runtime) -> None:
    with pytest.raises(TaskNotFound):
        await wait_for_end(runtime, "cgt-x", None)


async def test_a_healthy_database_is_left_as_it_was(runtime: Runtime) -> None:
    before = await audited(runtime)

    finding = await check_database(runtime)

    assert finding.level is Level.OK
    assert await audited(runtime) == before


async def test_a_clock_that_went_back_is_noticed(runtime: Runtime, clock: FakeClock) -> None:
    await admin.create_project(runtime, "test", "later")
    assert (await check_clock(runtime)).level is Level.OK

    clock.advance(-3600)

    finding = await check_clock(runtime)
    assert finding.level is Level.FAIL
    assert "3600 s before" in finding.message


async def test_each_credential_is_proved() -> None:
    class Refusing(FakeUpstream):
        async def check(self, credential: str) -> None:
            if credential == "bad":
                raise UpstreamUnavailable("no way there")

    upstream = Refusing(credentials=("good", "bad"))

    findings = await check_upstreams([upstream])

    assert [(each.check, each.level) for each in findings] == [
        ("upstream fake, credential good", Level.OK),
        ("upstream fake, credential bad", Level.FAIL),
    ]
    assert findings[1].message == "no way there"
    assert findings[1].remedy
