"""Holds of tasks that ended without evidence, and what the upstream shows of them later."""

from dataclasses import replace

import pytest

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, TaskState
from gateway.ports import Runtime
from gateway.services import auditing
from gateway.services.observing import observe_due
from gateway.services.reconciling import reconcile_due
from gateway.storage import ledger
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import (
    SUCCESS,
    accept,
    evidence_of,
    find_task,
    lose,
    losses_of,
    orphans_of,
    pass_time,
    state_of,
    tuned,
)

HOUR_S = 3600.0
FAILURE = Observation("failed", {})


@pytest.fixture(autouse=True)
def _dated(upstream: FakeUpstream, clock: FakeClock) -> None:
    upstream.now_ms = clock.now_ms


async def vanish(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> str:
    """Have the upstream lose sight of a task until that fails; return its id."""
    task = await accept(runtime, principal)
    away = upstream.listed.pop(0)
    del upstream.shown[away.upstream_task_id]
    for _ in range(30):
        clock.advance(60)
        await observe_due(runtime, upstream, "default")
    assert await state_of(runtime, task.id) is TaskState.FAILED
    assert await evidence_of(runtime, task.id) is None
    upstream.listed.insert(0, away)
    return task.id


async def give_up(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock, policy: str
) -> tuple[Runtime, str]:
    """Have a lost submission end by its age, before what came of it is listed."""
    runtime = tuned(runtime, submit={"unknown_policy": policy, "unknown_age_max_s": HOUR_S})
    task_id = await lose(runtime, principal, upstream, is_made=False)
    clock.advance(HOUR_S + 1)
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)
    assert await state_of(runtime, task_id) is TaskState.FAILED
    return runtime, task_id


async def tokens_of(runtime: Runtime, task_id: str) -> int:
    entries = await runtime.db.read(ledger.list_entries, task_id)
    return sum(entry.spent.tokens for entry in entries)


async def test_a_vanished_task_that_is_listed_as_succeeded_is_settled_on_what_it_used(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)
    upstream.shown["up-1"] = SUCCESS

    await pass_time(runtime, upstream, clock, 2 * HOUR_S)

    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.ENDED)
    assert await tokens_of(runtime, task_id) == 50_000
    task = await find_task(runtime, task_id)
    assert task.state is TaskState.FAILED, "nothing reopens it"
    assert task.bill is not None
    assert (await auditing.audit(runtime)).named == ()


async def test_a_vanished_task_that_is_listed_as_failed_is_released(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)
    upstream.shown["up-1"] = Observation("running", {})
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)
    assert await evidence_of(runtime, task_id) is None

    upstream.shown["up-1"] = FAILURE
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ENDED)


async def test_a_hold_that_outlived_its_submission_is_settled_by_the_late_task_that_it_was_for(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime, task_id = await give_up(runtime, principal, upstream, clock, "hold")
    upstream.make(upstream.submits[-1], "up-late")
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)
    assert await evidence_of(runtime, task_id) is None

    upstream.shown["up-late"] = SUCCESS
    await pass_time(runtime, upstream, clock, 3 * HOUR_S)

    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.ENDED)
    assert await tokens_of(runtime, task_id) == 50_000
    assert await losses_of(runtime, task_id) == []
    assert await state_of(runtime, task_id) is TaskState.FAILED
    assert (await auditing.audit(runtime)).named == ()


async def test_a_hold_is_not_released_by_one_late_task_while_its_twin_goes_on(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime, task_id = await give_up(runtime, principal, upstream, clock, "hold")
    upstream.make(upstream.submits[-1], "up-late")
    upstream.make(upstream.submits[-1], "up-twin")
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)
    upstream.shown["up-late"] = FAILURE
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)
    assert await evidence_of(runtime, task_id) is None

    upstream.shown["up-twin"] = FAILURE
    await pass_time(runtime, upstream, clock, 2 * HOUR_S)

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ENDED)


async def test_a_late_task_without_a_marker_resolves_no_hold(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime, task_id = await give_up(runtime, principal, upstream, clock, "hold")
    upstream.make(upstream.submits[-1], "up-other")
    other = upstream.listed[0]
    sent_at_ms = (await find_task(runtime, task_id)).created_at_ms
    upstream.listed[0] = replace(
        other, seed=None, expires_after_s=None, safety_identifier=None, created_at_ms=sent_at_ms
    )
    upstream.shown["up-other"] = SUCCESS

    await pass_time(runtime, upstream, clock, 3 * HOUR_S)

    (orphan,) = await orphans_of(runtime)
    assert orphan.task_id == task_id, "it may be"
    assert await evidence_of(runtime, task_id) is None


async def make_late(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> None:
    for number in range(3):
        upstream.make(upstream.submits[-1], f"up-late-{number}")
        upstream.shown[f"up-late-{number}"] = SUCCESS
    await pass_time(runtime, upstream, clock, 4 * HOUR_S)
    assert {each.status for each in await orphans_of(runtime)} == {"succeeded"}


@pytest.mark.parametrize(("policy", "losses_count"), [("release", 3), ("charge", 2), ("hold", 2)])
async def test_each_of_several_tasks_that_came_of_one_submission_is_borne_once(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    policy: str,
    losses_count: int,
) -> None:
    runtime, task_id = await give_up(runtime, principal, upstream, clock, policy)

    await make_late(runtime, upstream, clock)

    assert len(await losses_of(runtime, task_id)) == losses_count
    assert len({each.entry_step for each in await orphans_of(runtime)}) == 3
    assert (await auditing.audit(runtime)).named == ()


async def test_each_twin_of_a_task_that_succeeded_is_a_loss(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    clock.advance(1)
    for name in ("up-twin-1", "up-twin-2"):
        upstream.make(upstream.submits[-1], name)
        upstream.shown[name] = SUCCESS
    await reconcile_due(runtime, upstream, "default")
    upstream.shown["up-1"] = SUCCESS
    await observe_due(runtime, upstream, "default")

    await pass_time(runtime, upstream, clock, 2 * HOUR_S)

    assert (await find_task(runtime, task_id)).upstream_task_id == "up-1"
    assert len(await losses_of(runtime, task_id)) == 2
    assert (await auditing.audit(runtime)).named == ()
