"""The auditor at work: what it tells of books that were spoiled, and whom it stops."""

import asyncio
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import httpx
import pytest

from gateway.app import create_app, create_metrics_app
from gateway.config import Config
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task
from gateway.errors import LedgerDifference, UpstreamAmbiguous
from gateway.http.middleware import RequestMiddleware
from gateway.ports import P, Query, Runtime, T
from gateway.runtime import DATABASE_FILE
from gateway.services import auditing, measuring
from gateway.services.diagnosing import Level, check_ledger
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import orphans
from gateway.storage.orphans import StoredOrphan
from gateway.worker.loops import build_loops
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.requests import a_body, a_text

HOLD_MICROS = 735_075
"""Of 49,005 tokens at 15 a million."""
DONE = Observation("succeeded", {"usage": {"completion_tokens": 40_000}, "duration": 5})
SMALLER = "UPDATE ledger_entries SET spent_micros = 0 WHERE step = 2"


async def submit(runtime: Runtime, principal: Principal) -> Task:
    body = a_body(a_text("A paper boat drifts --resolution 480p --ratio 16:9 --duration 5"))
    return (await submit_task(runtime, principal, body, "req")).task


async def settle(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> Task:
    """Submit a task and let the observer see its success."""
    task = await submit(runtime, principal)
    upstream.shown[list(upstream.shown)[-1]] = DONE
    clock.advance(60)
    await observe_due(runtime, upstream, "default")
    return task


def spoil(config: Config, statement: str = SMALLER) -> None:
    """Change the database from outside, as somebody with its file can."""
    with closing(sqlite3.connect(config.data_dir / DATABASE_FILE)) as conn, conn:
        conn.execute("DROP TRIGGER ledger_entries_no_update")
        assert conn.execute(statement).rowcount


def with_refusal(runtime: Runtime) -> Runtime:
    """Return the runtime as it is where a difference closes the gateway."""
    ledger = runtime.config.ledger.model_copy(update={"refuse_on_difference": True})
    return replace(runtime, config=runtime.config.model_copy(update={"ledger": ledger}))


async def read_checks(
    runtime: Runtime, app: RequestMiddleware | None = None
) -> tuple[int, dict[str, str]]:
    """Return what the metrics listener tells, or the listener of `app`."""
    transport = httpx.ASGITransport(app or create_metrics_app(runtime))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/readyz?verbose")
    checks: dict[str, str] = answer.json()["checks"]
    return answer.status_code, checks


def metric(runtime: Runtime, name: str) -> float:
    lines = runtime.metrics.render().decode().splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))


async def test_right_books_are_told_to_be_right(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    before = await read_checks(runtime)
    await settle(runtime, principal, upstream, clock)
    await submit(runtime, principal)

    found = await auditing.audit(runtime)

    assert found.count == 0
    assert before[0] == 200
    assert before[1]["ledger"] == "not audited yet"
    assert (await read_checks(runtime))[1]["ledger"] == "ok"
    assert metric(runtime, "gateway_audit_differences") == 0
    assert metric(runtime, "gateway_audit_timestamp_seconds") == clock.now_ms() / 1000
    assert "ledger.audit_failed" not in log_stream.getvalue()
    assert (await check_ledger(runtime)).level is Level.OK


@pytest.mark.tampers_with_books
async def test_a_spoiled_row_is_told_everywhere_and_named_where_no_stranger_reads(
    runtime: Runtime,
    config: Config,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    task = await settle(runtime, principal, upstream, clock)
    await auditing.audit(runtime)

    spoil(config)
    found = await auditing.audit(runtime)

    assert any(name.startswith(f"{task.id}: ") for name in found.named)
    assert metric(runtime, "gateway_audit_differences") == found.count == len(found.named)
    status, checks = await read_checks(runtime)
    assert status == 200
    told = f"{found.count} differences in the audit of 2026-11-22T07:02:02Z"
    assert checks["ledger"].startswith(f"{told}: {task.id}: its last entry is not its resolution; ")
    assert checks["ledger"].endswith("; and 5 more")
    assert (await read_checks(runtime, create_app(runtime)))[1]["ledger"] == told
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    failed = [line for line in lines if line["event"] == "ledger.audit_failed"]
    assert len(failed) == 1
    assert failed[0]["level"] == "error"
    assert failed[0]["differences_count"] == found.count
    assert failed[0]["differences"] == list(found.named)
    finding = await check_ledger(runtime)
    assert finding.level is Level.FAIL
    assert task.id in finding.message
    assert finding.remedy


@pytest.mark.tampers_with_books
async def test_a_probe_names_the_first_differences_and_counts_the_others(
    runtime: Runtime, config: Config, principal: Principal
) -> None:
    for _ in range(7):
        await submit(runtime, principal)
    spoil(config, "UPDATE reservations SET at_ms = at_ms - 1")

    found = await auditing.audit(runtime)

    assert found.count == 7
    _, checks = await read_checks(runtime)
    assert checks["ledger"].startswith("7 differences in the audit of ")
    assert checks["ledger"].endswith("; and 2 more")
    assert [name for name in found.named if name in checks["ledger"]] == list(found.named[:5])


@pytest.mark.tampers_with_books
async def test_a_difference_closes_the_gateway_where_that_is_wanted(
    runtime: Runtime,
    config: Config,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
) -> None:
    strict = with_refusal(runtime)
    with pytest.raises(LedgerDifference) as unaudited:
        await submit(strict, principal)
    await auditing.audit(strict)
    await settle(strict, principal, upstream, clock)
    spoil(config)
    await auditing.audit(strict)
    submits_count = len(upstream.submits)

    with pytest.raises(LedgerDifference) as refused:
        await submit(strict, principal)

    assert "being audited" in unaudited.value.message
    assert (await read_checks(strict))[1]["submits"] == refused.value.message
    assert "nothing was sent or held" in refused.value.message
    assert refused.value.public_status == 503
    assert refused.value.retry_after_s == 60
    assert len(upstream.submits) == submits_count
    await submit(runtime, principal)  # where it is not wanted, it does not

    mended = "UPDATE ledger_entries SET spent_micros = 600000 WHERE step = 2"
    with closing(sqlite3.connect(config.data_dir / DATABASE_FILE)) as conn, conn:
        conn.execute(mended)
    assert (await auditing.audit(strict)).count == 0
    await submit(strict, principal)


async def test_the_first_audit_is_made_at_the_start_and_the_next_after_the_interval(
    runtime: Runtime,
) -> None:
    loops = {loop.name: loop for loop in build_loops(runtime)}

    await loops["audit"].run(runtime)

    assert runtime.audit.at_ms is not None
    assert loops["audit"].interval_s == runtime.config.ledger.audit_interval_s == 60


async def test_a_long_audit_is_followed_by_a_long_rest(runtime: Runtime, clock: FakeClock) -> None:
    slow = replace(runtime, db=SlowReads(runtime, clock, duration_s=10))
    await auditing.audit_when_due(slow)
    first_ms = slow.audit.at_ms
    clock.advance(199)
    await auditing.audit_when_due(slow)
    assert slow.audit.at_ms == first_ms

    clock.advance(1)
    await auditing.audit_when_due(slow)

    assert first_ms is not None
    assert slow.audit.at_ms == first_ms + 210_000


class SlowReads:
    """A database whose reads take their time, by the test's clock."""

    def __init__(self, runtime: Runtime, clock: FakeClock, duration_s: float) -> None:
        self._database, self._clock, self._duration_s = runtime.db, clock, duration_s
        self.name = runtime.db.name
        self.write = runtime.db.write
        self.watch = runtime.db.watch
        self.close = runtime.db.close

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._clock.advance(self._duration_s)
        return await self._database.read(fn, *args, **kwargs)


async def test_gauges_tell_of_what_is_held_and_unknown_and_how_old_it_is(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await measuring.measure_money(runtime)
    assert metric(runtime, "gateway_open_holds") == 0
    assert metric(runtime, 'gateway_held_micros{currency="CNY"}') == 0
    assert metric(runtime, "gateway_hold_age_seconds_max") == 0
    assert metric(runtime, "gateway_unknown_age_seconds_max") == 0

    await settle(runtime, principal, upstream, clock)
    upstream.submit_errors = [UpstreamAmbiguous("No answer.")]
    await submit(runtime, principal)
    clock.advance(100)
    await submit(runtime, principal)
    clock.advance(20)
    await measuring.measure_money(runtime)

    assert metric(runtime, "gateway_open_holds") == 2
    assert metric(runtime, "gateway_ended_holds") == 0
    assert metric(runtime, 'gateway_held_micros{currency="CNY"}') == 2 * HOLD_MICROS
    assert metric(runtime, "gateway_hold_age_seconds_max") == 120
    assert metric(runtime, "gateway_unknown_age_seconds_max") == 120


async def test_gauges_tell_of_a_hold_that_nothing_resolves(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await submit(runtime, principal)
    upstream.shown.clear()
    for _ in range(20):
        clock.advance(600)
        await observe_due(runtime, upstream, "default")

    await measuring.measure_money(runtime)

    assert metric(runtime, "gateway_open_holds") == 1
    assert metric(runtime, "gateway_ended_holds") == 1
    assert (await auditing.audit(runtime)).count == 0, "a hold without evidence stays: by intent"
    assert task.id


async def test_gauges_tell_of_orphans(runtime: Runtime, principal: Principal) -> None:
    task = await submit(runtime, principal)
    for name, task_id in (("up-7", task.id), ("up-8", None), ("up-9", None)):
        orphan = StoredOrphan(
            "fake", "default", name, 1, "running", task_id=task_id, is_proved=task_id is not None
        )
        await runtime.db.write(orphans.record, orphan)

    await measuring.measure_money(runtime)

    assert metric(runtime, 'gateway_orphans{kind="given_up"}') == 1
    assert metric(runtime, 'gateway_orphans{kind="stranger"}') == 2


async def test_auditing_beside_submits_finds_nothing_half_done(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    async def keep_auditing() -> list[int]:
        counts = []
        while len(upstream.submits) < 60:
            counts.append((await auditing.audit(runtime)).count)
        return counts

    async with asyncio.TaskGroup() as group:
        auditor = group.create_task(keep_auditing())
        for _ in range(60):
            group.create_task(submit(runtime, principal))
    upstream.shown = dict.fromkeys(upstream.shown, DONE)
    clock.advance(60)
    await observe_due(runtime, upstream, "default")

    assert set(auditor.result()) == {0}
    assert (await auditing.audit(runtime)).count == 0
